import type pg from 'pg';
import { until } from './until.js';

/** What an import leaves behind. */
export interface DemoTables {
  places: unknown[];
  districts: unknown[];
  regions: unknown[];
  rejected: unknown[];
  /** What lies between two checkpoints, file by file. */
  batches: unknown[];
  /** The summaries, and the same counted again from the rows. */
  counted: unknown[];
  recounted: unknown[];
  /** The batches that were added up for each country and file, in the order of the country's lane. */
  added: unknown[];
  /** Countries whose numbers have gaps, and steps that came before the one with the number below. */
  gaps: unknown[];
  disorder: unknown[];
}

export async function readDemoTables(client: pg.Client): Promise<DemoTables> {
  const rows = async (sql: string): Promise<unknown[]> => (await client.query(sql)).rows;
  return {
    places: await rows('SELECT * FROM place ORDER BY record'),
    districts: await rows('SELECT * FROM district ORDER BY record'),
    regions: await rows('SELECT * FROM region ORDER BY record'),
    rejected: await rows('SELECT file, record FROM rejected_record'),
    batches: await rows('SELECT file, first_record, rows FROM import_batch ORDER BY file, first_record'),
    counted: await rows('SELECT code, places, districts, regions FROM country ORDER BY code'),
    recounted: await rows(
      `SELECT country AS code,
        count(*) FILTER (WHERE file = 'place')::int AS places,
        count(*) FILTER (WHERE file = 'district')::int AS districts,
        count(*) FILTER (WHERE file = 'region')::int AS regions
      FROM (SELECT 'place' AS file, country FROM place
        UNION ALL SELECT 'district', country FROM district
        UNION ALL SELECT 'region', country FROM region) AS written
      GROUP BY country ORDER BY country`,
    ),
    added: await rows(
      `SELECT country, file, json_agg(ARRAY[first_record, rows] ORDER BY seq) AS batches
      FROM country_step GROUP BY country, file ORDER BY country, file`,
    ),
    gaps: await rows(
      `SELECT code FROM country JOIN country_step AS step ON step.country = code
      GROUP BY code HAVING count(*) <> max(step.seq) - min(step.seq) + 1 OR max(step.seq) <> max(country.seq)`,
    ),
    disorder: await rows(
      `SELECT * FROM (SELECT *,
        lag(added_at) OVER (PARTITION BY country ORDER BY seq) AS added_before,
        lag(first_record) OVER (PARTITION BY country, file ORDER BY seq) AS record_before
      FROM country_step) AS step WHERE added_at <= added_before OR first_record <= record_before`,
    ),
  };
}

/** Says which transactions have written the places before a record: another value when one was written again. */
export async function writersOfPlaces(client: pg.Client, before: number): Promise<{ rows: number; writers: string }> {
  const { rows } = await client.query<{ rows: number; writers: string }>(
    `SELECT count(*)::int AS rows, md5(string_agg(record || ' ' || xmin, ',' ORDER BY record)) AS writers
    FROM place WHERE record < $1`,
    [before],
  );
  return rows[0]!;
}

/** The record with which a further run of the job of `places` would begin. */
export async function checkpointOfPlaces(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ next: number }>(
    `SELECT (payload ->> 'next')::int AS next FROM nestmq.job
    WHERE id = (SELECT job_id FROM import_file WHERE file = 'places')`,
  );
  return rows[0]!.next;
}

/** The first and the last batch of each run of the job of `places`. */
export async function runsOfPlaces(client: pg.Client): Promise<{ attempt: number; first: number; last: number }[]> {
  const { rows } = await client.query<{ attempt: number; first: number; last: number }>(
    `SELECT attempt, min(first_record) AS first, max(first_record) AS last
    FROM import_batch WHERE file = 'places' GROUP BY attempt ORDER BY attempt`,
  );
  return rows;
}

/** Of the advisory lock; any number will do. */
const GATE = 4_711;

/** A place in a transaction of the demo where it waits, in the middle of its writes, as long as a test wants. */
export interface Gate {
  /** Waits until somebody stands before the gate. */
  reached(): Promise<void>;
  /** Lets a killed process through, to find out that there is nobody to answer to; waits until its sessions are gone. */
  leaveToServer(): Promise<void>;
}

/**
 * Stands behind a job's checkpoint or end, which a transaction writes last: everything is written, nothing committed.
 *
 * @param event `UPDATE`: a checkpoint, `DELETE`: a completion
 * @param when condition on OLD and NEW, the row of `nestmq.job`
 */
export async function closeGate(client: pg.Client, event: 'UPDATE' | 'DELETE', when: string): Promise<Gate> {
  await client.query(`
    CREATE OR REPLACE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock_shared(${GATE}); RETURN NULL; END $$;
    CREATE OR REPLACE TRIGGER gate AFTER ${event} ON nestmq.job FOR EACH ROW WHEN (${when}) EXECUTE FUNCTION gate()`);
  await client.query('SELECT pg_advisory_lock($1)', [GATE]);
  return {
    reached: () => waiters(client, `locktype = 'advisory' AND objid = ${GATE}`, 1),
    leaveToServer: async () => {
      await client.query('SELECT pg_advisory_unlock($1)', [GATE]);
      const others = 'pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()';
      await until(async () => (await count(client, others)) === 0, {
        what: 'the sessions of the killed process are gone',
      });
    },
  };
}

export async function waiters(client: pg.Client, lock: string, wanted: number): Promise<void> {
  const own = 'database = (SELECT oid FROM pg_database WHERE datname = current_database())';
  await until(async () => (await count(client, `pg_locks WHERE NOT granted AND ${own} AND ${lock}`)) >= wanted, {
    what: `${wanted} wait for a lock`,
  });
}

/** Waits until the tables are there, and so many batches of places are written. */
export async function placesWritten(client: pg.Client, batches: number): Promise<void> {
  await until(async () => (await count(client, `pg_class WHERE relname = 'import_batch'`)) > 0, {
    what: 'the demo has made its tables',
  });
  await until(async () => (await count(client, `import_batch WHERE file = 'places'`)) >= batches, {
    what: `${batches} batches of places are written`,
  });
}

export async function count(client: pg.Client, from: string): Promise<number> {
  const { rows } = await client.query<{ count: number }>(`SELECT count(*)::int AS count FROM ${from}`);
  return rows[0]!.count;
}
