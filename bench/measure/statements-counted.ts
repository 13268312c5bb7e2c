import type { BenchDatabase } from '../servers/postgres.js';

/** What pg_stat_statements has counted in this database, but for our own looking. */
const OF_THE_DATABASE = `
  FROM pg_stat_statements
  WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND query !~ 'pg_stat_statements|pg_current_wal_insert_lsn'`;

export async function resetCounts({ admin }: BenchDatabase): Promise<void> {
  await admin.query('SELECT pg_stat_statements_reset()');
}

export interface ClaimCounts {
  readonly claims: number;
  /** Of execution in the server, without the round trip. */
  readonly millisPerClaim: number;
}

/** @throws {Error} when there was none */
export async function readClaims(database: BenchDatabase): Promise<ClaimCounts> {
  const counts = await countClaims(database);
  if (counts.claims === 0)
    throw new Error('No claim is in pg_stat_statements: is it still an INSERT INTO nestmq.lease?');
  return counts;
}

/** Claims are told by what only they do: they insert a lease. */
export async function countClaims({ admin }: BenchDatabase): Promise<ClaimCounts> {
  const { rows } = await admin.query<{ claims: number; millis: number }>(
    `SELECT coalesce(sum(calls), 0)::float AS claims, coalesce(sum(total_exec_time), 0) AS millis
    ${OF_THE_DATABASE} AND query ~ 'INTO nestmq.lease' AND query !~ 'WHERE suspect'`,
  );
  const { claims, millis } = rows[0]!;
  return { claims, millisPerClaim: millis / Math.max(1, claims) };
}

export interface StatementCounts {
  /** Statements that read or write something. */
  readonly working: number;
  /** BEGIN, SET and COMMIT, which travel together with them. */
  readonly framing: number;
  readonly transactions: number;
}

export async function readCounts({ admin }: BenchDatabase): Promise<StatementCounts> {
  const framing = `query ~* '^\\s*(begin|set|commit|rollback)'`;
  const { rows } = await admin.query<StatementCounts>(
    `SELECT
      coalesce(sum(calls) FILTER (WHERE NOT ${framing}), 0)::float AS working,
      coalesce(sum(calls) FILTER (WHERE ${framing}), 0)::float AS framing,
      coalesce(sum(calls) FILTER (WHERE query ~* '^\\s*commit'), 0)::float AS transactions
    ${OF_THE_DATABASE}`,
  );
  return rows[0]!;
}

/** The statements that were sent most often, for whoever wants to know why there are so many. */
export async function mostFrequent({ admin }: BenchDatabase): Promise<{ calls: number; query: string }[]> {
  const { rows } = await admin.query<{ calls: number; query: string }>(
    `SELECT calls::float AS calls, left(regexp_replace(query, '\\s+', ' ', 'g'), 90) AS query
    ${OF_THE_DATABASE} ORDER BY calls DESC, query LIMIT 12`,
  );
  return rows;
}
