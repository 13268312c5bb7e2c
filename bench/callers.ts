import { startMeter } from './meter.js';
import type { Sample, System } from './report.js';
import type { BenchDatabase } from './server.js';
import { percentilesOf } from './statistics.js';
import { expectJobs, tableOf } from './tables.js';

export type Call = (n: number, caller: number) => Promise<unknown>;

export interface Load {
  readonly callers: number;
  readonly seconds: number;
  readonly maxCalls: number;
  readonly system: System;
}

/** Concurrent callers, each of which calls again and again for so long; counts what has come of it. */
export async function callRepeatedly(database: BenchDatabase, load: Load, call: Call): Promise<Sample> {
  await database.admin.query(`TRUNCATE ${tableOf(load.system)}`);
  const durations: number[] = [];
  const stopMeter = await startMeter(database);
  const startedAt = performance.now();
  const until = startedAt + load.seconds * 1_000;
  let calls = 0;
  const caller = async (index: number): Promise<void> => {
    for (let now = performance.now(); now < until && calls < load.maxCalls;) {
      await call(calls++, index);
      const endedAt = performance.now();
      durations.push(endedAt - now);
      now = endedAt;
    }
  };
  await Promise.all(Array.from({ length: load.callers }, (_, index) => caller(index)));
  const seconds = (performance.now() - startedAt) / 1_000;
  const usage = await stopMeter();
  await expectJobs(database, load.system, calls);
  return { jobs: calls, perSecond: calls / seconds, latency: percentilesOf(Float64Array.from(durations)), usage };
}
