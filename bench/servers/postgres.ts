import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { queueMigrations } from 'nestmq/migrations';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { startPostgres } from '../../scripts/postgres.mjs';

/** Durable, as a server in production is; memory and WAL as one would give them on a machine of this size. */
export const SERVER_SETTINGS = {
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  shared_buffers: '1GB',
  max_wal_size: '4GB',
  max_connections: 1_000,
  // Loaded for the workloads that count statements, and off for all others.
  shared_preload_libraries: 'pg_stat_statements',
  'pg_stat_statements.track': 'none',
  compute_query_id: 'off',
} as const;

/** A database of its own, with a connection for looking at it from outside. */
export interface BenchDatabase {
  readonly url: string;
  readonly admin: pg.Client;
  /** The postmaster. */
  readonly serverPid: number;
  drop(): Promise<void>;
}

export interface DatabaseOptions {
  /** By pg_stat_statements. */
  readonly countStatements?: boolean;
  /** Each statement's duration goes to the server's log. */
  readonly logStatements?: boolean;
}

export interface BenchServer {
  readonly version: string;
  /** The server's log, where statements are logged. */
  readonly logFile: string;
  createDatabase(name: string, options?: DatabaseOptions): Promise<BenchDatabase>;
  stop(): Promise<void>;
}

export async function startServer(): Promise<BenchServer> {
  const server = await startPostgres({ settings: SERVER_SETTINGS });
  const main = await connect(server.url);
  const { rows } = await main.query<{ version: string }>('SELECT version()');
  return {
    version: rows[0]?.version ?? '',
    logFile: path.join(server.dir, 'server.log'),
    createDatabase: async (name, { countStatements = false, logStatements = false } = {}) => {
      await main.query(`CREATE DATABASE ${name}`);
      if (countStatements) {
        await main.query(`ALTER DATABASE ${name} SET pg_stat_statements.track = 'top'`);
        await main.query(`ALTER DATABASE ${name} SET compute_query_id = 'on'`);
      }
      if (logStatements) await main.query(`ALTER DATABASE ${name} SET log_min_duration_statement = 0`);
      const url = new URL(server.url);
      url.pathname = `/${name}`;
      const admin = await connect(url.href);
      await admin.query('SET log_min_duration_statement = -1');
      await admin.query('CREATE EXTENSION pgstattuple');
      if (countStatements) await admin.query('CREATE EXTENSION pg_stat_statements');
      return {
        url: url.href,
        admin,
        serverPid: server.pid,
        drop: async () => {
          await admin.end();
          await untilLeft(main, name);
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

/** A pool says that it has ended before its connections have; one that is cut off by the drop would end its process. */
async function untilLeft(main: pg.Client, database: string): Promise<void> {
  const patience = performance.now() + 5_000;
  do {
    const { rowCount } = await main.query(
      `SELECT FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'`,
      [database],
    );
    if (rowCount === 0) return;
    await sleep(5);
  } while (performance.now() < patience);
}

export async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  return client;
}

export async function migrateQueue({ url }: BenchDatabase): Promise<void> {
  const dataSource = new DataSource({ type: 'postgres', url, migrations: [...queueMigrations] });
  await dataSource.initialize();
  await dataSource.runMigrations();
  await dataSource.destroy();
}

/** Tables of the database's own, of whatever schema. */
const TABLES = `
  SELECT oid::regclass::text AS name, oid FROM pg_class
  WHERE relkind = 'r' AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)`;

/** What one run has left to clean up must not be cleaned up in the next one's time. */
export async function cleanUp({ admin }: BenchDatabase): Promise<void> {
  const { rows } = await admin.query<{ name: string }>(TABLES);
  for (const { name } of rows) await admin.query(`VACUUM ${name}`);
  await admin.query('CHECKPOINT');
}

/** Dead row versions that nobody has cleaned up yet, counted row by row. */
export async function countDeadTuples({ admin }: BenchDatabase): Promise<number> {
  const { rows } = await admin.query<{ dead: number }>(
    `SELECT sum((pgstattuple(oid)).dead_tuple_count)::float AS dead FROM (${TABLES}) AS of_database`,
  );
  return rows[0]!.dead;
}
