import pg from 'pg';

/** What a logical dump of the schema holds: the rows of each table as text, and where the sequences stand. */
export interface Dump {
  readonly tables: ReadonlyMap<string, readonly string[]>;
  readonly sequences: ReadonlyMap<string, string>;
}

/**
 * Reads all tables of the queue in one snapshot beside running processes, as `pg_dump --schema=nestmq --data-only` does,
 * which the servers of npm do not bring.
 */
export async function dump(url: string): Promise<Dump> {
  return withClient(url, async (client) => {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    const tables = new Map<string, string[]>();
    for (const [table] of await rowsOf(client, `SELECT tablename FROM pg_tables WHERE schemaname = 'nestmq'`)) {
      const rows = await rowsOf(client, `SELECT row::text FROM nestmq.${table} AS row`);
      tables.set(table!, rows.flat());
    }
    // No part of a snapshot: read last, so that it is behind every id above.
    const sequences = await rowsOf(
      client,
      `SELECT sequencename, last_value::text FROM pg_sequences WHERE schemaname = 'nestmq' AND last_value IS NOT NULL`,
    );
    await client.query('COMMIT');
    return { tables, sequences: new Map(sequences as [string, string][]) };
  });
}

/** Writes a dump into freshly made tables. */
export async function restore(url: string, { tables, sequences }: Dump): Promise<void> {
  await withClient(url, async (client) => {
    await client.query('BEGIN');
    for (const [table, rows] of tables) {
      const text = `INSERT INTO nestmq.${table} SELECT (row::nestmq.${table}).* FROM unnest($1::text[]) AS row`;
      await client.query(text, [rows]);
    }
    for (const [sequence, value] of sequences) {
      await client.query('SELECT setval($1::regclass, $2)', [`nestmq.${sequence}`, value]);
    }
    await client.query('COMMIT');
  });
}

async function rowsOf(client: pg.Client, text: string): Promise<string[][]> {
  return (await client.query<string[]>({ text, rowMode: 'array' })).rows;
}

async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
