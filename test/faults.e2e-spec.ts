import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { queueMigrations } from 'nestmq/migrations';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { startPostgres } from '../scripts/postgres.mjs';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { startWorker } from './support/workers.js';
import { gate, workWith } from './support/work.js';

const rejections: unknown[] = [];
const note = (reason: unknown): void => void rejections.push(reason);

beforeAll(() => void process.on('unhandledRejection', note));
afterAll(() => void process.off('unhandledRejection', note));
afterEach(() => {
  const [first] = rejections.splice(0);
  if (first !== undefined) throw new Error('A rejection went unheard.', { cause: first });
});

describe('a LISTEN connection that is killed', () => {
  const database = useDatabase();
  const tables = useTables(database);

  it('is made anew: jobs spawned meanwhile run, and later ones are notified again', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const sender = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    const listening = (): Promise<number> =>
      tables.number(`SELECT max(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'nestmq listen'`);
    const pid = await until(listening, { what: 'it listens' });
    await until(() => app.events.some(({ type }) => type === 'listening'), { what: 'notifications arrive' });
    // In one transaction: the listener is gone when the job is committed, so nobody hears of it.
    await sender.dataSource.transaction(async (manager) => {
      await manager.query('SELECT pg_terminate_backend($1)', [pid]);
      await sender.jobs.spawn('work', 'meanwhile', { manager });
      await until(async () => (await listening()) !== pid, { what: 'it is gone' });
    });
    await until(() => app.get(Work).runs.length === 1, { what: 'the job runs' });
    await until(async () => (await listening()) > 0 && (await listening()) !== pid, { what: 'it listens again' });
    await sender.jobs.spawn('work', 'later');
    await until(() => app.get(Work).runs.length === 2, { what: 'the later job runs' });
    await sender.close();
    await app.close();
  });
});

describe('an error in a claim pass', () => {
  const database = useDatabase();
  const tables = useTables(database);

  it('leads to another pass, not to a lost wake-up', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    await until(() => app.events.some(({ type }) => type === 'listening'), { what: 'it listens' });
    await tables.sql('ALTER TABLE nestmq.lease RENAME TO lease_away');
    await app.jobs.spawn('work');
    const failed = (): Promise<number> =>
      tables.number(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'nestmq claim' AND query ILIKE '%COMMIT%' AND state = 'idle'`);
    await until(failed, { what: 'a claim has been tried' });
    await tables.sql('ALTER TABLE nestmq.lease_away RENAME TO lease');
    await until(() => app.get(Work).runs.length, { what: 'the job runs' });
    await app.close();
  });
});

describe('a database that is down', () => {
  let server: Awaited<ReturnType<typeof startPostgres>>;
  let tables: pg.Pool;

  beforeAll(async () => {
    server = await startPostgres({ settings: { max_connections: 60 } });
    tables = new pg.Pool({ connectionString: server.url, max: 1 });
    tables.on('error', () => undefined);
    const dataSource = new DataSource({ type: 'postgres', url: server.url, migrations: [...queueMigrations] });
    await dataSource.initialize();
    await dataSource.runMigrations();
    await dataSource.destroy();
    await tables.query('CREATE TABLE effect (job_id bigint PRIMARY KEY)');
  });

  afterAll(async () => {
    await tables.end();
    await server.stop();
  });

  beforeEach(() =>
    tables.query(
      'TRUNCATE effect, nestmq.job, nestmq.lease, nestmq.finished_job, nestmq.runner, nestmq.handler_policy',
    ),
  );

  const count = async (table: string): Promise<number> =>
    Number((await tables.query(`SELECT count(*) FROM ${table}`)).rows[0].count);
  /** A pool that leaves errors of its idle connections to us, as an application would. */
  const typeorm = { poolErrorHandler: () => undefined, manualInitialization: false };
  const queue = { ...POLLING_OFF, leaseMs: 2_000 };

  it('at boot is tried again: the application starts, later works, stores its policies, and is nobody twice', async () => {
    const Work = workWith();
    const dataSource = await new DataSource({
      type: 'postgres',
      url: server.url,
      poolErrorHandler: () => undefined,
    }).initialize();
    await tables.query(`INSERT INTO nestmq.job (channel, name) VALUES ('work', 'work')`);
    await server.crash();
    const app = await startApp({
      url: server.url,
      queue: { ...queue, dataSource },
      providers: [Work],
      typeorm: { manualInitialization: true } as object,
    });
    await server.start();
    await until(() => app.get(Work).runs.length, { what: 'the job runs' });
    await until(async () => (await count('nestmq.job')) === 0, { what: 'it is settled' });
    expect(await count('nestmq.runner')).toBe(1);
    expect(await count('nestmq.handler_policy')).toBe(1);
    await app.close();
    await dataSource.destroy();
  });

  it.each([['SIGQUIT'], ['SIGINT']] as const)(
    'by %s during handlers and their settlement loses nothing, and does nothing twice that was completed with an effect',
    async (signal) => {
      const { opened, open } = gate();
      const Work = workWith({ retries: Infinity, backoff: 10 }, async (job) => {
        await opened;
        await app.dataSource.transaction(async (manager) => {
          await manager.query('INSERT INTO effect VALUES ($1)', [job.id]);
          await job.complete({ manager });
        });
      });
      const app = await startApp({ url: server.url, queue, providers: [Work], typeorm });
      await app.jobs.spawnMany(Array.from({ length: 40 }, () => ({ name: 'work', payload: null })));
      await until(() => app.get(Work).runs.length === 32, { what: 'all slots are busy' });
      await server.crash(signal);
      open();
      await server.start();
      await until(async () => (await count('nestmq.job')) === 0, { what: 'all are settled' });
      expect(await count('effect')).toBe(40);
      await until(async () => (await count('nestmq.lease')) === 0, { what: 'no lease is left' });
      await app.close();
    },
  );

  it('when a run ends is written once it is back: completed, retried and dead', async () => {
    const { opened, open } = gate();
    const Work = workWith({ retries: 1, backoff: '1h', retention: '1h' }, async (job) => {
      await opened;
      if (job.payload !== 'completes') throw new Error('no');
    });
    const app = await startApp({ url: server.url, queue: { ...queue, leaseMs: 20_000 }, providers: [Work], typeorm });
    const [completes, fails, dies] = await app.jobs.spawnMany([
      { name: 'work', payload: 'completes' },
      { name: 'work', payload: 'fails' },
      { name: 'work', payload: 'dies', retries: 0 },
    ]);
    await until(() => app.get(Work).runs.length === 3, { what: 'all run' });
    await until(
      async () =>
        (await tables.query(`SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn() AS flushed`)).rows[0]
          .flushed,
      { what: 'the leases are on disk' },
    );
    await server.crash('SIGINT');
    open();
    await server.start();
    const state = async (id?: string): Promise<unknown> => (await app.queue.get(id!).catch(() => null))?.state;
    await until(async () => (await state(dies?.id)) === 'dead', { what: 'the ends are written' });
    expect(await state(completes?.id)).toBe('completed');
    expect(await app.queue.get(fails!.id)).toMatchObject({ state: 'waiting', attempts: 1 });
    expect(app.get(Work).runs).toHaveLength(3);
    await app.close();
  });

  it.each([['idle'], ['with the end of a run to write']])(
    'for good does not keep a process from closing and ending that is %s',
    async (state) => {
      const worker = await startWorker(server.url, { LEASE_MS: '1000' });
      if (state !== 'idle') {
        const payload = JSON.stringify('wait-then-complete');
        await tables.query(`INSERT INTO nestmq.job (channel, name, payload) VALUES ('work', 'work', $1)`, [payload]);
        await tables.query(`SELECT pg_notify('nestmq_wake_up', '["survey"]')`);
        await worker.started();
      }
      await server.crash();
      try {
        worker.send('go');
        if (state !== 'idle') await until(() => worker.of('outcome').length, { what: 'its run has ended' });
        worker.send('close');
        await until(() => worker.process.exitCode !== null, { what: 'the process has ended' });
        expect(worker.process.exitCode).toBe(0);
      } finally {
        await server.start();
      }
      // The job is there for the next process.
      expect(await count('nestmq.job')).toBe(state === 'idle' ? 0 : 1);
    },
  );
});
