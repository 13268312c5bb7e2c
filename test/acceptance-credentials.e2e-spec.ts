import { writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { queueMigrations } from 'nestmq/migrations';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { startPostgres } from '../scripts/postgres.mjs';
import { POLLING_OFF, startApp } from './support/app.js';
import { until } from './support/until.js';
import { workWith } from './support/work.js';

let server: Awaited<ReturnType<typeof startPostgres>>;
let admin: pg.Client;
let password = 'first-token';

// A server of its own: the one of the suite asks nobody for a password.
beforeAll(async () => {
  server = await startPostgres({ settings: { max_connections: 60 } });
  const dataSource = new DataSource({ type: 'postgres', url: server.url, migrations: [...queueMigrations] });
  await dataSource.initialize();
  await dataSource.runMigrations();
  await dataSource.destroy();
  admin = new pg.Client({ connectionString: server.url });
  await admin.connect();
  await admin.query(`CREATE ROLE app LOGIN PASSWORD '${password}'`);
  await admin.query('GRANT USAGE ON SCHEMA nestmq TO app; GRANT ALL ON ALL TABLES IN SCHEMA nestmq TO app');
  await admin.query('GRANT ALL ON ALL SEQUENCES IN SCHEMA nestmq TO app');
  const { rows } = await admin.query<{ hba_file: string }>('SHOW hba_file');
  await writeFile(rows[0]!.hba_file, 'host all app all scram-sha-256\nhost all all all trust\nlocal all all trust\n');
  await admin.query('SELECT pg_reload_conf()');
});

afterAll(async () => {
  await admin.end();
  await server.stop();
});

const rolesOf = async (): Promise<Map<string, number>> => {
  const { rows } = await admin.query<{ role: string; pid: number }>(
    `SELECT application_name AS role, pid FROM pg_stat_activity WHERE usename = 'app' AND application_name LIKE 'nestmq %'`,
  );
  return new Map(rows.map(({ role, pid }) => [role, pid]));
};

describe('a password that is a function', () => {
  it('is asked for every connection, the renewing thread’s too, and anew when one is made again', async () => {
    const url = new URL(server.url);
    const Work = workWith();
    const app = await startApp({
      url: server.url,
      queue: { ...POLLING_OFF, leaseMs: 1_000 },
      providers: [Work],
      typeorm: {
        url: undefined,
        host: url.hostname,
        port: Number(url.port),
        database: url.pathname.slice(1),
        username: 'app',
        password: async () => password,
      },
    });
    await app.jobs.spawn('work');
    await until(() => app.events.some(({ type }) => type === 'completed'), { what: 'a job is completed' });
    const roles = await until(async () => ((await rolesOf()).size >= 5 ? rolesOf() : null), {
      what: 'all connections are there',
    });
    expect([...roles.keys()].toSorted()).toEqual([
      'nestmq claim',
      'nestmq listen',
      'nestmq renew',
      'nestmq settle',
      'nestmq spawn',
    ]);

    password = 'second-token';
    await admin.query(`ALTER ROLE app PASSWORD '${password}'`);
    await admin.query('SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid', [[...roles.values()]]);
    await until(
      async () => {
        const now = await rolesOf();
        return ['nestmq renew', 'nestmq listen'].every((role) => now.has(role) && now.get(role) !== roles.get(role));
      },
      { what: 'they are connected with the new password' },
    );
    await app.jobs.spawn('work');
    await until(() => app.events.filter(({ type }) => type === 'completed').length === 2, {
      what: 'a second job is completed',
    });
    await app.close();
  });
});
