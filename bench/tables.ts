import type { BenchDatabase } from './server.js';
import type { System } from './report.js';

const PATIENCE_MS = 60_000;

export const tableOf = (system: System): string => (system === 'nestmq' ? 'nestmq.job' : 'raw.job');

/**
 * Waits until no job is left, and first until these have gone: to look through the whole table again and again would
 * take time from the server that is measured.
 */
export async function emptied(
  { admin }: BenchDatabase,
  system: System,
  lastIds: readonly string[] = [],
): Promise<void> {
  const isThere = async (condition: string, values: unknown[]): Promise<boolean> => {
    const { rowCount } = await admin.query(`SELECT FROM ${tableOf(system)} WHERE ${condition} LIMIT 1`, values);
    return rowCount !== 0;
  };
  const until = performance.now() + PATIENCE_MS;
  const wait = async (condition: string, values: unknown[]): Promise<void> => {
    while (await isThere(condition, values))
      if (performance.now() > until)
        throw new Error(`Jobs whose handlers have ended stay in ${tableOf(system)} for ${PATIENCE_MS} ms.`);
  };
  await wait('id = ANY ($1::bigint[])', [lastIds]);
  await wait('true', []);
}

/** @throws {Error} unless exactly so many jobs are there */
export async function expectJobs({ admin }: BenchDatabase, system: System, jobs: number): Promise<void> {
  const { rows } = await admin.query<{ count: number }>(`SELECT count(*)::int AS count FROM ${tableOf(system)}`);
  if (rows[0]?.count !== jobs) throw new Error(`${jobs} jobs were sent, ${rows[0]?.count} are there.`);
}

/** What one run has left to clean up must not be cleaned up in the next one's time. */
export async function cleanUp({ admin }: BenchDatabase): Promise<void> {
  const { rows } = await admin.query<{ name: string }>(
    `SELECT oid::regclass::text AS name FROM pg_class WHERE oid = ANY (ARRAY[to_regclass('nestmq.job'), to_regclass('nestmq.lease'), to_regclass('raw.job')])`,
  );
  for (const { name } of rows) await admin.query(`VACUUM ${name}`);
  await admin.query('CHECKPOINT');
}
