import type { BenchDatabase } from '../servers/postgres.js';

const PATIENCE_MS = 60_000;

/** Waits until no job is left. */
export async function emptied({ admin }: BenchDatabase): Promise<void> {
  for (const until = performance.now() + PATIENCE_MS; performance.now() < until;) {
    const { rowCount } = await admin.query('SELECT FROM nestmq.job LIMIT 1');
    if (rowCount === 0) return;
  }
  throw new Error(`Jobs whose handlers have ended stay in nestmq.job for ${PATIENCE_MS} ms.`);
}

/** @throws {Error} unless exactly so many jobs are there */
export async function expectJobs({ admin }: BenchDatabase, jobs: number): Promise<void> {
  const { rows } = await admin.query<{ count: number }>('SELECT count(*)::int AS count FROM nestmq.job');
  if (rows[0]?.count !== jobs) throw new Error(`${jobs} jobs were sent, ${rows[0]?.count} are there.`);
}
