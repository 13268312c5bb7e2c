import { queueMigrations } from 'nestmq/migrations';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { startPostgres } from '../scripts/postgres.mjs';

/** Durable, as a server in production is; memory and WAL as one would give them on a machine of this size. */
export const SERVER_SETTINGS = {
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  shared_buffers: '1GB',
  max_wal_size: '4GB',
  max_connections: 200,
  // Loaded for the workloads that count statements, and off for all others.
  shared_preload_libraries: 'pg_stat_statements',
  'pg_stat_statements.track': 'none',
  compute_query_id: 'off',
} as const;

/** A migrated database of the workload's own, with a connection for looking at it from outside. */
export interface BenchDatabase {
  readonly url: string;
  readonly admin: pg.Client;
  readonly postmasterPid: number;
  drop(): Promise<void>;
}

export interface BenchServer {
  readonly version: string;
  createDatabase(name: string, options: { countStatements: boolean }): Promise<BenchDatabase>;
  stop(): Promise<void>;
}

export async function startServer(): Promise<BenchServer> {
  const server = await startPostgres({ settings: SERVER_SETTINGS });
  const main = await connect(server.url);
  const { rows } = await main.query<{ version: string }>('SELECT version()');
  return {
    version: rows[0]?.version ?? '',
    createDatabase: async (name, { countStatements }) => {
      await main.query(`CREATE DATABASE ${name}`);
      if (countStatements) {
        await main.query(`ALTER DATABASE ${name} SET pg_stat_statements.track = 'top'`);
        await main.query(`ALTER DATABASE ${name} SET compute_query_id = 'on'`);
      }
      const url = new URL(server.url);
      url.pathname = `/${name}`;
      await migrate(url.href);
      const admin = await connect(url.href);
      if (countStatements) await admin.query('CREATE EXTENSION pg_stat_statements');
      return {
        url: url.href,
        admin,
        postmasterPid: server.pid,
        drop: async () => {
          await admin.end();
          await main.query(`DROP DATABASE ${name} WITH (FORCE)`);
        },
      };
    },
    stop: async () => {
      await main.end();
      await server.stop();
    },
  };
}

export async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  return client;
}

async function migrate(url: string): Promise<void> {
  const dataSource = new DataSource({ type: 'postgres', url, migrations: [...queueMigrations] });
  await dataSource.initialize();
  await dataSource.runMigrations();
  await dataSource.destroy();
}
