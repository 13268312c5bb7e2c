import { afterAll } from '@jest/globals';
import pg from 'pg';

export interface Tables {
  /** Sends a statement and answers its rows. */
  sql<Row extends object = Record<string, unknown>>(text: string, values?: unknown[]): Promise<Row[]>;
  /** The first column of the first row, as a number. */
  number(text: string, values?: unknown[]): Promise<number>;
}

/** Connections of the test's own to the queue's tables: for ageing rows, for faults, and for looking. */
export function useTables(database: { readonly url: string }): Tables {
  const pool = new pg.Pool({ connectionString: database.url, max: 4 });
  // The database is dropped under idle connections at the end of the file.
  pool.on('error', () => undefined);
  afterAll(() => pool.end());
  const sql = async <Row extends object>(text: string, values: unknown[] = []): Promise<Row[]> =>
    (await pool.query<Row>(text, values)).rows;
  return {
    sql,
    number: async (text, values) => Number(Object.values((await sql(text, values))[0] ?? {})[0]),
  };
}
