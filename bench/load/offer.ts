import { setTimeout as sleep } from 'node:timers/promises';
import { clockMs } from '../measure/clock.js';
import type { BacklogLimit } from './backlog-limit.js';

/** Jobs of one call. */
export const CALL = 100;

/** Loops that call concurrently: one alone would wait for the disk half of its time. */
const CALLERS = 4;

/** More than any system here can take, so that the arrays are large enough. */
const MAX_JOBS_PER_SECOND = 150_000;

export const capacityFor = (seconds: number): number => Math.ceil(seconds * MAX_JOBS_PER_SECOND);

export interface BulkTerms {
  readonly seconds: number;
  /** Ends the offer before the time is over. */
  readonly maxJobs: number;
  /** Jobs that may have been sent and not yet begun. */
  readonly backlog: number;
}

export interface SteadyTerms {
  readonly seconds: number;
  readonly perSecond: number;
}

export interface Offered {
  readonly jobs: number;
  /** By the shared clock. When job n was committed (bulk, one for each call), or when its turn had come (steady). */
  readonly at: Float64Array;
}

/** Sends jobs numbered from 0 for some seconds, as fast as the backlog lets it. */
export async function offerInBulk(
  { seconds, maxJobs }: BulkTerms,
  backlog: BacklogLimit,
  send: (first: number, count: number) => Promise<unknown>,
): Promise<Offered> {
  const limit = Math.min(maxJobs, capacityFor(seconds));
  const at = new Float64Array(Math.ceil(limit / CALL));
  const until = clockMs() + seconds * 1_000;
  let jobs = 0;
  const caller = async (): Promise<void> => {
    for (;;) {
      await backlog.enter(CALL);
      if (clockMs() >= until || jobs >= limit) return;
      const first = jobs;
      const count = Math.min(CALL, limit - first);
      jobs += count;
      await send(first, count);
      at[first / CALL] = clockMs();
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
  return { jobs, at: at.slice(0, Math.ceil(jobs / CALL)) };
}

/**
 * Sends single jobs when their turn comes, whether the calls before have been answered or not. Gives up when as many are
 * unanswered as come in a quarter of a second: of many more some would wait for a connection until their pool refuses them.
 */
export async function offerSteadily(
  { seconds, perSecond }: SteadyTerms,
  send: (n: number) => Promise<unknown>,
): Promise<Offered> {
  const jobs = Math.round(seconds * perSecond);
  const startedAt = clockMs();
  const at = Float64Array.from({ length: jobs }, (_, n) => startedAt + (n / perSecond) * 1_000);
  const calls: Promise<unknown>[] = [];
  let n = 0;
  let answered = 0;
  const sendOne = async (of: number): Promise<void> => {
    await send(of);
    answered += 1;
  };
  while (n < jobs && n - answered < perSecond / 4) {
    for (const now = clockMs(); n < jobs && at[n]! <= now; n++) calls.push(sendOne(n));
    await sleep(1);
  }
  await Promise.all(calls);
  return { jobs: n, at: at.slice(0, n) };
}
