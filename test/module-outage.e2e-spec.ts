import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { DatabaseUnavailableError, JobHandler, JobSpawner, QueueModule, type Job } from 'nestmq';
import { queueMigrations } from 'nestmq/migrations';
import { startPostgres } from '../scripts/postgres.mjs';
import { boot, connect } from './support/boot.js';
import { until } from './support/until.js';

@Injectable()
class Mailer {
  readonly ran: unknown[] = [];

  @JobHandler('mail')
  welcome({ payload }: Job): void {
    this.ran.push(payload);
  }
}

// A server of its own, which these tests end as they like.
let server: Awaited<ReturnType<typeof startPostgres>>;
beforeAll(async () => {
  server = await startPostgres({ settings: { fsync: 'off' } });
});
afterAll(() => server.stop());

// acceptance: section 7, row 9, the boot
describe('a database that is down at boot', () => {
  it('lets the application boot with a warning, refuses spawns with a typed error, and runs jobs when it is back', async () => {
    const dataSource = await connect(server.url, { migrations: [...queueMigrations] });
    // Connections of the pool that the crash ends are the application's own business.
    (dataSource.driver as unknown as { master: { on(event: 'error', listener: () => void): void } }).master.on(
      'error',
      () => undefined,
    );
    await dataSource.runMigrations();
    await server.crash();
    const { app, logged, close } = await boot({ imports: [QueueModule.forRoot({ dataSource })], providers: [Mailer] });
    expect(logged.filter((line) => line.startsWith('warn: Started without the database'))).toHaveLength(1);
    const spawned = app.get(JobSpawner).spawn(Mailer, 'welcome', 'too early');
    await expect(spawned).rejects.toThrow(DatabaseUnavailableError);
    await expect(spawned).rejects.toMatchObject({ code: 'database_unavailable', cause: { code: 'ECONNREFUSED' } });
    await server.start();
    // It may join an attempt to connect that came while the server recovered.
    const sent = (): Promise<boolean> =>
      app
        .get(JobSpawner)
        .spawn(Mailer, 'welcome', 'back again')
        .then(
          () => true,
          () => false,
        );
    await until(sent, { what: 'the job is sent' });
    await until(() => app.get(Mailer).ran.length > 0, { what: 'the job has run' });
    expect(app.get(Mailer).ran).toEqual(['back again']);
    await close();
  });

  it('lets the application close while it is still down', async () => {
    const dataSource = await connect(server.url);
    (dataSource.driver as unknown as { master: { on(event: 'error', listener: () => void): void } }).master.on(
      'error',
      () => undefined,
    );
    await server.crash();
    const { close, logged } = await boot({ imports: [QueueModule.forRoot({ dataSource })], providers: [Mailer] });
    await close();
    expect(logged.filter((line) => line.startsWith('error:'))).toEqual([]);
    await server.start();
  });
});
