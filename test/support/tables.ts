import { afterAll } from '@jest/globals';
import pg from 'pg';

export interface Tables {
  /** Sends a statement and answers its rows. */
  sql<Row extends object = Record<string, unknown>>(text: string, values?: unknown[]): Promise<Row[]>;
  /** The first column of the first row, as a number. */
  number(text: string, values?: unknown[]): Promise<number>;
  /** Whether no live job and no lease is left. */
  drained(): Promise<boolean>;
  /** Empties all tables of the queue, between two tests of a file. */
  clear(): Promise<void>;
}

/** Connections of the test's own to the queue's tables: for ageing rows, for faults, and for looking. */
export function useTables(database: { readonly url: string }): Tables {
  const pool = new pg.Pool({ connectionString: database.url, max: 4 });
  // The database is dropped under idle connections at the end of the file.
  pool.on('error', () => undefined);
  afterAll(() => pool.end());
  const sql = async <Row extends object>(text: string, values: unknown[] = []): Promise<Row[]> =>
    (await pool.query<Row>(text, values)).rows;
  const number = async (text: string, values?: unknown[]): Promise<number> =>
    Number(Object.values((await sql(text, values))[0] ?? {})[0]);
  return {
    sql,
    number,
    drained: async () =>
      (await number('SELECT (SELECT count(*) FROM nestmq.job) + (SELECT count(*) FROM nestmq.lease)')) === 0,
    clear: async () => {
      await sql(
        'TRUNCATE nestmq.job, nestmq.idempotency_key, nestmq.job_progress, nestmq.lane, nestmq.lease, nestmq.finished_job, nestmq.runner, nestmq.handler_policy, nestmq.paused_channel, nestmq.partitioned_channel',
      );
    },
  };
}
