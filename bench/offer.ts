import type { BacklogLimit } from './backlog-limit.js';
import { clockMs } from './clock.js';

/** Jobs of one call. */
export const CALL = 100;

/** Loops that call concurrently: one alone would wait for the disk half of its time. */
const CALLERS = 4;

/** More than any system here can take, so that the arrays are large enough. */
const MAX_JOBS_PER_SECOND = 250_000;

export const capacityFor = (seconds: number): number => Math.ceil(seconds * MAX_JOBS_PER_SECOND);

export interface OfferTerms {
  readonly seconds: number;
  /** Ends the offer before the time is over. */
  readonly maxJobs: number;
}

export interface Offered {
  readonly jobs: number;
  /** When each call was answered, by the shared clock: job n belongs to call n / CALL. */
  readonly committedAt: Float64Array;
}

/** Sends jobs numbered from 0 for some seconds, as fast as the backlog lets it. */
export async function offerJobs(
  { seconds, maxJobs }: OfferTerms,
  backlog: BacklogLimit,
  send: (first: number, count: number) => Promise<unknown>,
): Promise<Offered> {
  const limit = Math.min(maxJobs, capacityFor(seconds));
  const committedAt = new Float64Array(Math.ceil(limit / CALL));
  const until = clockMs() + seconds * 1_000;
  let jobs = 0;
  const caller = async (): Promise<void> => {
    for (;;) {
      await backlog.enter(CALL);
      if (clockMs() >= until || jobs + CALL > limit) return;
      const first = jobs;
      jobs += CALL;
      await send(first, CALL);
      committedAt[first / CALL] = clockMs();
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
  return { jobs, committedAt: committedAt.slice(0, jobs / CALL) };
}
