import { repeatCalls, type CallTerms } from '../load/repeat-calls.js';
import { startMeter } from '../measure/meter.js';
import { percentilesOf } from '../measure/statistics.js';
import type { Sample } from '../report/rows.js';
import type { BenchDatabase } from '../servers/postgres.js';
import { expectJobs } from './tables.js';

/** Concurrent callers of this process; the table is empty before, and counted afterwards. */
export async function callRepeatedly(
  database: BenchDatabase,
  terms: CallTerms,
  call: (n: number, caller: number) => Promise<unknown>,
): Promise<Sample> {
  await database.admin.query('TRUNCATE nestmq.job');
  const stopMeter = await startMeter(database);
  const { calls, seconds, durations } = await repeatCalls(terms, call);
  const usage = await stopMeter();
  await expectJobs(database, calls);
  return { jobs: calls, perSecond: calls / seconds, latency: percentilesOf(durations), usage };
}
