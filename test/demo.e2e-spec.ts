import fs from 'node:fs/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { startPostgres } from '../scripts/postgres.mjs';
import { createDatabase, type TestDatabase } from './support/database.js';
import { buildDemo, type DemoBuild, type DemoProcess } from './support/demo.js';
import {
  checkpointOfPlaces,
  closeGate,
  count,
  placesWritten,
  readDemoTables,
  runsOfPlaces,
  waiters,
  writersOfPlaces,
  type DemoTables,
} from './support/demo-tables.js';
import { until } from './support/until.js';

/** Of each file, so that there are always files under way and countries to sum up when a process is killed. */
const RECORDS = 10_000;
const REGIONS = 3_865;
const BATCHES = RECORDS / 1_000;
const ENV = { DEMO_RECORDS: String(RECORDS) };

/** As in `Imports.begin`. */
const BEGIN_LOCK = 20_261;

let demo: DemoBuild;
/** An import that nobody disturbs, to compare the others with. */
let undisturbed: { tables: DemoTables; output: string; code: number | NodeJS.Signals };

beforeAll(async () => {
  demo = await buildDemo();
  const database = await createDatabase();
  const process = demo.start('main', { ...ENV, DATABASE_URL: database.url });
  const code = await process.exit();
  const client = await connect(database.url);
  undisturbed = { tables: await readDemoTables(client), output: process.output, code };
  await client.end();
  await database.drop();
}, 240_000);

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
    expect(tables.districts).toHaveLength(RECORDS);
    expect(tables.regions).toHaveLength(REGIONS);
    expect(tables.batches).toHaveLength(2 * BATCHES + 4);
    expect(output).toContain('Import 1 begins.');
    expect(output).toContain(' 23,864 rows in ');
    expect(output).toContain('1 dead');
    expect(output).toMatch(/job \d+ is dead: RejectJob: record 0 of places, "Atlantis": country is "\?\?"/);
    expect(output).toMatch(/↻ CountrySummaries\.add runs again in \d+ ms: the name service did not answer/);
    expect(output).toMatch(/100 % .* districts 100 %, places 100 %, regions 100 %/);
  });

  it('adds up each country in the order of its batches, without a gap', () => {
    const { tables } = undisturbed;
    expect(tables.counted).toEqual(tables.recounted);
    expect(tables.counted.length).toBeGreaterThan(200);
    expect({ gaps: tables.gaps, disorder: tables.disorder }).toEqual({ gaps: [], disorder: [] });
  });

  it('goes on behind its last checkpoint when it is killed before the commit of a batch, twice', async () => {
    await makeTables();
    const written: { rows: number; writers: string }[] = [];
    for (const record of [3_000, 7_000]) {
      const next = `NEW.payload ->> 'next' = '${record + 1_000}' AND NEW.payload ->> 'file' = 'places'`;
      const gate = await closeGate(client, 'UPDATE', next);
      const process = start(database);
      await gate.reached();
      process.signal('SIGKILL');
      expect(await process.exit()).toBe('SIGKILL');
      await gate.leaveToServer();
      written.push(await writersOfPlaces(client, record));
      expect(await count(client, `place WHERE record >= ${record}`)).toBe(0);
    }
    const last = start(database);
    expect(await last.exit()).toBe(0);

    expect(last.output).toMatch(/Import 2 was not finished and goes on: .*places from record 7,000/);
    expect(last.output).toMatch(/places +9,999 rows, 3 runs, from records 0, 3,000, 7,000\n/);
    expect(await runsOfPlaces(client)).toEqual([
      { attempt: 1, first: 0, last: 2_000 },
      { attempt: 2, first: 3_000, last: 6_000 },
      { attempt: 3, first: 7_000, last: 9_000 },
    ]);
    expect([await writersOfPlaces(client, 3_000), await writersOfPlaces(client, 7_000)]).toEqual(written);
    expect(written.map(({ rows }) => rows)).toEqual([2_999, 6_999]);
    expect(await readDemoTables(client)).toEqual(undisturbed.tables);
  });

  it('adds up a country once, and in order, when it is killed before the commit of that', async () => {
    await makeTables();
    // the places of Australia are in the batches from 5 000 to 9 000
    const secondBatch = `OLD.key = 'AU' AND OLD.payload ->> 'file' = 'places' AND OLD.payload ->> 'firstRecord' = '6000'`;
    const gate = await closeGate(client, 'DELETE', secondBatch);
    const process = start(database);
    await gate.reached();
    await placesWritten(client, BATCHES); // the lane of one country holds up nobody else
    expect(await count(client, `country_step WHERE country = 'AU' AND file = 'places'`)).toBe(1);
    process.signal('SIGKILL');
    expect(await process.exit()).toBe('SIGKILL');
    await gate.leaveToServer();
    expect(await count(client, `nestmq.job WHERE key = 'AU'`)).toBeGreaterThan(1);

    const second = start(database);
    expect(await second.exit()).toBe(0);
    expect(await readDemoTables(client)).toEqual(undisturbed.tables);
  });

  it('stops at its next checkpoint by Ctrl-C, and goes on from there at the next start', async () => {
    const first = start(database);
    await placesWritten(client, 3);
    await client.query('BEGIN');
    await client.query('LOCK TABLE place IN SHARE ROW EXCLUSIVE MODE'); // the batch that is written now waits for us
    await waiters(client, `relation = 'place'::regclass`, 1);
    first.signal('SIGINT');
    await first.prints('Stopping.');
    await client.query('COMMIT');
    expect(await first.exit()).toBe(0);
    expect(await count(client, 'nestmq.lease')).toBe(0);
    expect(await count(client, 'nestmq.runner')).toBe(0);
    const next = await checkpointOfPlaces(client);
    const written = await writersOfPlaces(client, next);

    const second = start(database);
    expect(await second.exit()).toBe(0);
    expect(second.output).toContain('Import 1 was not finished and goes on: ');
    expect(second.output).toContain(`places from record ${next.toLocaleString('en')}`);
    expect(second.output).toContain('in 2 starts');
    expect(await writersOfPlaces(client, next)).toEqual(written);
    expect(await runsOfPlaces(client)).toEqual([{ attempt: 1, first: 0, last: 9_000 }]); // a stop is no attempt
    expect(await readDemoTables(client)).toEqual(undisturbed.tables);
  });

  it('is one import when two processes begin it at once', async () => {
    await makeTables(); // TypeORM takes no lock when it makes its own `migrations` table
    await client.query('SELECT pg_advisory_lock($1)', [BEGIN_LOCK]);
    const both = [start(database), start(database)];
    await waiters(client, `locktype = 'advisory' AND objid = ${BEGIN_LOCK}`, 2);
    await client.query('SELECT pg_advisory_unlock($1)', [BEGIN_LOCK]);
    expect(await Promise.all(both.map((process) => process.exit()))).toEqual([0, 0]);

    const begun = both.filter(({ output }) => output.includes('Import 2 begins.'));
    const joined = both.filter(({ output }) => output.includes('Import 2 was not finished and goes on:'));
    expect([begun.length, joined.length]).toEqual([1, 1]);
    expect(await readDemoTables(client)).toEqual(undisturbed.tables);
  });

  /** By a small import, whose lanes have numbered their jobs already when the next one comes. */
  async function makeTables(): Promise<void> {
    expect(await start(database, { DEMO_RECORDS: '10' }).exit()).toBe(0);
  }

  function start({ url }: TestDatabase, env: Record<string, string> = {}): DemoProcess {
    return demo.start('main', { ...ENV, DATABASE_URL: url, ...env });
  }
});

describe('the import on a server of its own', () => {
  it('has the same rows in the end when it is killed at random moments', async () => {
    const random = Array.from({ length: 2 }, () => Math.ceil(Math.random() * 0.7 * BATCHES)).sort((a, b) => a - b);
    const moments = [0, ...random]; // the first one is in the boot
    let process = demo.start('main', ENV);
    for (const batches of moments) {
      const client = await connect(await serverUrl(process));
      await placesWritten(client, batches);
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
  });

  async function serverUrl(process: DemoProcess): Promise<string> {
    const output = await process.prints('its data in');
    return /postgres:\/\/[^\s,]+/.exec(output)![0];
  }

  async function tablesOfStopped(process: DemoProcess, url: string): Promise<DemoTables> {
    const [, dir = ''] = /its data in (.+)/.exec(process.output)!;
    await expect(connect(url)).rejects.toThrow('ECONNREFUSED'); // it ended with the demo
    const server = await startPostgres({ dir });
    const client = await connect(server.url);
    const tables = await readDemoTables(client);
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
  });

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
  });

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
      { what: 'the import is finished' },
    );
    const counted = { places: RECORDS - 1, districts: RECORDS, regions: REGIONS };
    expect(finished).toMatchObject({ counted, rejected: 1, starts: 1, jobs: { left: 0 } });
    expect(finished).toMatchObject({
      files: [
        { file: 'districts', state: 'completed', percent: 100, message: '10000 of 10000 districts' },
        { file: 'places', state: 'completed', percent: 100, checkpoint: RECORDS, runsFrom: [0] },
        { file: 'regions', state: 'completed', percent: 100, message: '3865 of 3865 regions' },
      ],
    });
    expect(finished).toMatchObject({ rejections: [{ state: 'dead', reason: expect.stringContaining('Atlantis') }] });
    expect((await fetch(`${url}/imports/2`)).status).toBe(404);
  });

  function post(route: string, body: object = {}): Promise<Response> {
    const headers = { 'content-type': 'application/json' };
    return fetch(`${url}${route}`, { method: 'POST', headers, body: JSON.stringify(body) });
  }
});

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {}); // a server that ends with the demo takes our connection along
  await client.connect();
  return client;
}
