import fs from 'node:fs/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { startPostgres } from '../scripts/postgres.mjs';
import { createDatabase, type TestDatabase } from './support/database.js';
import { buildDemo, type DemoBuild, type DemoProcess } from './support/demo.js';
import { until } from './support/until.js';

/** More parts than run at once, so that some are written, some running and some waiting when a process is killed. */
const RECORDS = 40_000;
const PARTS = 40;
const ENV = { DEMO_PLACES: String(RECORDS) };

/** As in `Imports.begin`. */
const BEGIN_LOCK = 20_261;

let demo: DemoBuild;
/** An import that nobody disturbs, to compare the others with. */
let undisturbed: { tables: Tables; output: string; code: number | NodeJS.Signals };

beforeAll(async () => {
  demo = await buildDemo();
  const database = await createDatabase();
  const process = demo.start('main', { ...ENV, DATABASE_URL: database.url });
  const code = await process.exit();
  const client = await connect(database.url);
  undisturbed = { tables: await readTables(client), output: process.output, code };
  await client.end();
  await database.drop();
}, 180_000);

afterAll(() => demo.remove());

describe('the import', () => {
  let database: TestDatabase;
  let client: pg.Client;

  beforeEach(async () => {
    database = await createDatabase();
    client = await connect(database.url);
  });

  afterEach(async () => {
    await client.end();
    await database.drop();
  });

  it('runs to its summary and ends by itself', () => {
    const { tables, output, code } = undisturbed;
    expect(code).toBe(0);
    expect(tables.places).toHaveLength(RECORDS - 1);
    expect(tables.counted).toEqual(tables.recounted);
    expect(tables.steps).toMatchObject({ 'Splitter.split': 1, 'PartWriter.write': PARTS });
    expect(output).toContain('Import 1 begins.');
    expect(output).toContain(' 39,999 places in ');
    expect(output).toContain('1 dead');
    expect(output).toMatch(/job \d+ is dead: RejectJob: record 0, "Atlantis": country is "\?\?"/);
    expect(output).toMatch(/↻ CountryCounter\.count runs again in \d+ ms: the name service did not answer/);
  });

  it('is stopped by Ctrl-C after its running jobs and continued by the next start', async () => {
    const first = start(database);
    await partsWritten(client, 5);
    await client.query('BEGIN');
    await client.query('LOCK TABLE place IN SHARE ROW EXCLUSIVE MODE'); // the parts that run now wait for us
    await waiters(`relation = 'place'::regclass`, 5);
    first.signal('SIGINT');
    await first.prints('Stopping.');
    await client.query('COMMIT');
    expect(await first.exit()).toBe(0);
    expect(await count(client, 'nestmq.job')).toBeGreaterThan(0);
    expect(await count(client, 'nestmq.lease')).toBe(0);
    expect(await count(client, 'nestmq.runner')).toBe(0);

    const second = start(database);
    expect(await second.exit()).toBe(0);
    expect(second.output).toContain('Import 1 was not finished and goes on.');
    expect(second.output).toContain('in 2 starts');
    expect(await readTables(client)).toEqual(undisturbed.tables);
  }, 60_000);

  it('is one import when two processes begin it at once', async () => {
    // the tables are there: TypeORM takes no lock when it makes its own `migrations` table
    expect(await start(database, { DEMO_PLACES: '10' }).exit()).toBe(0);
    await client.query('SELECT pg_advisory_lock($1)', [BEGIN_LOCK]);
    const both = [start(database), start(database)];
    await waiters(`locktype = 'advisory' AND objid = ${BEGIN_LOCK}`, 2);
    await client.query('SELECT pg_advisory_unlock($1)', [BEGIN_LOCK]);
    expect(await Promise.all(both.map((process) => process.exit()))).toEqual([0, 0]);

    const begun = both.filter(({ output }) => output.includes('Import 2 begins.'));
    const joined = both.filter(({ output }) => output.includes('Import 2 was not finished and goes on.'));
    expect([begun.length, joined.length]).toEqual([1, 1]);
    expect(await readTables(client)).toEqual(undisturbed.tables);
  }, 60_000);

  async function waiters(lock: string, wanted: number): Promise<void> {
    const own = 'database = (SELECT oid FROM pg_database WHERE datname = current_database())';
    const waiting = (): Promise<number> => count(client, `pg_locks WHERE NOT granted AND ${own} AND ${lock}`);
    await until(async () => (await waiting()) >= wanted, { what: `${wanted} wait for a lock`, timeoutMs: 30_000 });
  }

  function start({ url }: TestDatabase, env: Record<string, string> = {}): DemoProcess {
    return demo.start('main', { ...ENV, DATABASE_URL: url, ...env });
  }
});

describe('the import on a server of its own', () => {
  it('has the same rows in the end when it is killed at random moments', async () => {
    const random = Array.from({ length: 3 }, () => Math.ceil(Math.random() * 0.8 * PARTS)).sort((a, b) => a - b);
    const moments = [0, ...random]; // the first one is in the boot
    let process = demo.start('main', ENV);
    for (const parts of moments) {
      const client = await connect(await serverUrl(process));
      await partsWritten(client, parts);
      process.signal('SIGKILL');
      expect(await process.exit()).toBe('SIGKILL');
      await client.end().catch(() => {}); // the server is stopping, too
      process = demo.start('main', ENV);
    }
    await process.prints('Places per country');
    const url = await serverUrl(process);
    expect(await process.exit()).toBe(0);
    const tables = await tablesOfStopped(process, url);
    expect({ moments, ...tables }).toEqual({ moments, ...undisturbed.tables });
  }, 150_000);

  async function serverUrl(process: DemoProcess): Promise<string> {
    const output = await process.prints('its data in');
    return /postgres:\/\/[^\s,]+/.exec(output)![0];
  }

  async function tablesOfStopped(process: DemoProcess, url: string): Promise<Tables> {
    const [, dir = ''] = /its data in (.+)/.exec(process.output)!;
    await expect(connect(url)).rejects.toThrow('ECONNREFUSED'); // it ended with the demo
    const server = await startPostgres({ dir });
    const client = await connect(server.url);
    const tables = await readTables(client);
    await client.end();
    await server.stop();
    await fs.rm(dir, { recursive: true });
    return tables;
  }
});

describe('the HTTP application', () => {
  let database: TestDatabase;
  let client: pg.Client;
  let process: DemoProcess;
  let url: string;

  beforeEach(async () => {
    database = await createDatabase();
    client = await connect(database.url);
    process = demo.start('http', { ...ENV, DATABASE_URL: database.url, PORT: '0' });
    [url = ''] = /http:\S+(?=:)/.exec(await process.prints('Listening on'))!;
  });

  afterEach(async () => {
    process.signal('SIGTERM');
    await process.exit();
    await client.end();
    await database.drop();
  });

  it('saves a user and spawns the mail in one transaction', async () => {
    expect((await post('/sign-up', { email: 'ada@example.org' })).status).toBe(201);
    await process.prints('Mail to ada@example.org');

    expect((await post('/sign-up', { email: 'ada@example.org' })).status).toBe(409);
    expect((await post('/sign-up', { email: 'nobody' })).status).toBe(400);
    expect(await count(client, 'app_user')).toBe(1);
  }, 60_000);

  it('has no job when the transaction rolls back after the spawn', async () => {
    // refuses this address at COMMIT, when the job has been spawned already
    await client.query(`
      CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
      CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON app_user DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.email = 'refused@example.org') EXECUTE FUNCTION refuse()`);
    expect((await post('/sign-up', { email: 'first@example.org' })).status).toBe(201);
    expect((await post('/sign-up', { email: 'refused@example.org' })).status).toBe(500);
    expect(await count(client, `nestmq.job WHERE payload::text NOT LIKE '%' || (SELECT id FROM app_user) || '%'`)).toBe(
      0,
    );
    expect((await post('/sign-up', { email: 'last@example.org' })).status).toBe(201);

    await process.prints('Mail to last@example.org');
    await until(async () => (await count(client, 'nestmq.job')) === 0, { what: 'no job is left' });
    expect(process.output).not.toContain('refused@example.org');
    expect(await count(client, 'app_user WHERE welcomed_at IS NOT NULL')).toBe(2);
    // the id that the rolled back spawn has used up shows that there was one
    const [row] = (await client.query(`SELECT pg_sequence_last_value('nestmq.job_id_seq')::int AS last`)).rows;
    expect(row).toEqual({ last: 3 });
  }, 60_000);

  it('begins one import, and shows it as JSON to its end', async () => {
    const first = (await (await post('/imports')).json()) as { id: number };
    const second = await (await post('/imports')).json();
    expect([first, second]).toEqual([
      { id: 1, isNew: true },
      { id: 1, isNew: false },
    ]);
    const finished = await until(
      async () => {
        const progress = (await (await fetch(`${url}/imports/1`)).json()) as { state: string };
        return progress.state === 'finished' && progress;
      },
      { what: 'the import is finished', timeoutMs: 60_000 },
    );
    expect(finished).toMatchObject({ total: RECORDS, places: RECORDS - 1, rejected: 1, starts: 1, jobs: { left: 0 } });
    expect(finished).toMatchObject({ rejections: [{ state: 'dead', reason: expect.stringContaining('Atlantis') }] });
    expect((await fetch(`${url}/imports/2`)).status).toBe(404);
  }, 90_000);

  function post(route: string, body: object = {}): Promise<Response> {
    const headers = { 'content-type': 'application/json' };
    return fetch(`${url}${route}`, { method: 'POST', headers, body: JSON.stringify(body) });
  }
});

interface Tables {
  places: unknown[];
  counted: unknown[];
  recounted: unknown[];
  rejected: unknown[];
  steps: Record<string, number>;
}

/** All that an import leaves behind, and the countries counted again from the places. */
async function readTables(client: pg.Client): Promise<Tables> {
  const rows = async (sql: string): Promise<unknown[]> => (await client.query(sql)).rows;
  const steps = (await rows('SELECT name, count(*)::int FROM import_step GROUP BY name')) as {
    name: string;
    count: number;
  }[];
  return {
    places: await rows('SELECT * FROM place ORDER BY record'),
    counted: await rows('SELECT code, places, regions FROM country ORDER BY code'),
    recounted: await rows(
      `SELECT country AS code, count(*)::int AS places, count(DISTINCT region)::int AS regions
       FROM place GROUP BY country ORDER BY country`,
    ),
    rejected: await rows('SELECT record FROM rejected_record'),
    steps: Object.fromEntries(steps.map(({ name, count: times }) => [name, times])),
  };
}

async function partsWritten(client: pg.Client, parts: number): Promise<void> {
  await tablesMade(client);
  await until(async () => (await count(client, `import_step WHERE name = 'PartWriter.write'`)) >= parts, {
    what: `${parts} parts are written`,
    timeoutMs: 60_000,
  });
}

async function tablesMade(client: pg.Client): Promise<void> {
  await until(async () => (await count(client, `pg_class WHERE relname = 'import_step'`)) > 0, {
    what: 'the demo has made its tables',
    timeoutMs: 30_000,
  });
}

async function count(client: pg.Client, from: string): Promise<number> {
  const { rows } = await client.query<{ count: number }>(`SELECT count(*)::int AS count FROM ${from}`);
  return rows[0]!.count;
}

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {}); // a server that ends with the demo takes our connection along
  await client.connect();
  return client;
}
