import { IdempotencyConflictError } from '../job/idempotency-errors.js';
import type { NewJob } from '../statements/insert-jobs.js';

/** What is sent of some jobs when each key is sent once. */
export interface Distinct {
  readonly jobs: readonly NewJob[];
  /** For each job given, its place among `jobs`. */
  readonly places: readonly number[];
}

/**
 * Leaves out jobs whose key an earlier one among them has: they answer as it does.
 *
 * @throws {IdempotencyConflictError} when such a job is strict, and not the same
 */
export function distinctKeys(all: readonly NewJob[]): Distinct {
  const seen = new Map<string, number>();
  const jobs: NewJob[] = [];
  const places = all.map((job) => {
    const { channel, idempotency } = job;
    if (idempotency === null) return jobs.push(job) - 1;
    const id = `${idempotency.key}\0${channel}`;
    const place = seen.get(id);
    if (place === undefined) {
      seen.set(id, jobs.length);
      return jobs.push(job) - 1;
    }
    checkSame(job, jobs[place]!.idempotency!.hash, null);
    return place;
  });
  return { jobs, places };
}

/** @throws {IdempotencyConflictError} when the job is strict, and is not what holds its key */
export function checkSame({ channel, idempotency }: NewJob, hash: number, holder: string | null): void {
  if (idempotency === null || !idempotency.strict || idempotency.hash === hash) return;
  throw new IdempotencyConflictError(channel, idempotency.key, holder);
}
