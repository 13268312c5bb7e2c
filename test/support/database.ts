import { createHash, randomUUID } from 'node:crypto';
import { afterAll, beforeAll } from '@jest/globals';
import { queueMigrations } from 'nestmq/migrations';
import pg from 'pg';
import { DataSource } from 'typeorm';

/** Makes one file at a time look for the template and make it; any number will do, it is the suite's own server. */
const TEMPLATE_LOCK = 7_301;

export interface TestDatabase {
  readonly url: string;
  drop(): Promise<void>;
}

/** Gives the calling test file its own copy of the migrated database. The url is valid from `beforeAll` on. */
export function useDatabase(): { readonly url: string } {
  const name = newName();
  beforeAll(() => copyTemplate(name));
  afterAll(() => dropDatabase(name));
  return { url: urlOf(name) };
}

/** A database without any table, for tests of the migrations. */
export async function createDatabase(): Promise<TestDatabase> {
  const name = newName();
  await asAdmin((admin) => admin.query(`CREATE DATABASE ${name}`));
  return { url: urlOf(name), drop: () => dropDatabase(name) };
}

async function copyTemplate(name: string): Promise<void> {
  await asAdmin(async (admin) => {
    await admin.query('SELECT pg_advisory_lock($1)', [TEMPLATE_LOCK]);
    const template = await ensureTemplate(admin);
    await admin.query(`CREATE DATABASE ${name} TEMPLATE ${template}${await copyStrategy(admin)}`);
  });
}

/** The template's name holds the migrations' source: a server that outlives the run never serves an old one. */
async function ensureTemplate(admin: pg.Client): Promise<string> {
  const source = queueMigrations.map((migration) => migration.toString()).join('\n');
  const template = `template_${createHash('sha256').update(source).digest('hex').slice(0, 16)}`;
  const { rowCount } = await admin.query('SELECT FROM pg_database WHERE datname = $1', [template]);
  if (rowCount) return template;

  const unfinished = newName(); // renamed when it is whole, so that nobody finds half a template
  await admin.query(`CREATE DATABASE ${unfinished}`);
  try {
    await migrate(urlOf(unfinished));
    await admin.query(`ALTER DATABASE ${unfinished} RENAME TO ${template}`);
  } catch (error) {
    await admin.query(`DROP DATABASE ${unfinished} WITH (FORCE)`);
    throw error;
  }
  return template;
}

async function migrate(url: string): Promise<void> {
  const dataSource = new DataSource({ type: 'postgres', url, migrations: [...queueMigrations] });
  await dataSource.initialize();
  try {
    await dataSource.runMigrations();
  } finally {
    await dataSource.destroy();
  }
}

/** Copying files takes two thirds of the time of the default; servers before 15 know no other way. */
async function copyStrategy(admin: pg.Client): Promise<string> {
  const { rows } = await admin.query<{ version: number }>(
    `SELECT current_setting('server_version_num')::int AS version`,
  );
  return (rows[0]?.version ?? 0) >= 150_000 ? ' STRATEGY file_copy' : '';
}

async function dropDatabase(name: string): Promise<void> {
  await asAdmin((admin) => admin.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`));
}

async function asAdmin<T>(work: (admin: pg.Client) => Promise<T>): Promise<T> {
  const admin = new pg.Client({ connectionString: serverUrl() });
  await admin.connect();
  try {
    return await work(admin);
  } finally {
    await admin.end(); // and with it the advisory lock
  }
}

function newName(): string {
  return `t_${randomUUID().replaceAll('-', '')}`;
}

function urlOf(name: string): string {
  const url = new URL(serverUrl());
  url.pathname = `/${name}`;
  return url.href;
}

function serverUrl(): string {
  const url = process.env.TEST_PG;
  if (!url) throw new Error('TEST_PG is not set. Run the tests with `npm test`; its global setup starts the server.');
  return url;
}
