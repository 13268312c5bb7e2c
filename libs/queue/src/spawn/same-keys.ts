import { contentHash } from '../job/content-hash.js';
import { IdempotencyConflictError } from '../job/idempotency-errors.js';
import type { NewJob } from '../statements/new-job.js';
import type { SpawnResult } from './spawn-options.js';

/** What is sent of some jobs when each key is sent once. */
export interface Distinct {
  readonly jobs: readonly NewJob[];
  /** For each job given, its place among `jobs`; `null`: the same. */
  readonly places: readonly number[] | null;
}

/**
 * Leaves out jobs whose key an earlier one among them has: they answer as it does.
 *
 * @throws {IdempotencyConflictError} when such a job is strict, and not the same
 */
export function distinctKeys(all: readonly NewJob[]): Distinct {
  if (new Set(all.map(({ idempotency }, index) => idempotency?.key ?? index)).size === all.length) {
    return { jobs: all, places: null };
  }
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
    if (idempotency.strict) checkSame(job, hashOf(jobs[place]!), null);
    return place;
  });
  return { jobs, places };
}

/** The answers of all jobs, of which only the first of a key is new. */
export function answersOfAll({ places }: Distinct, answers: SpawnResult[]): SpawnResult[] {
  if (places === null) return answers;
  const told = new Set<number>();
  return places.map((place) => {
    const { id, isNew } = answers[place]!;
    const isFirst = !told.has(place);
    told.add(place);
    return { id, isNew: isNew && isFirst };
  });
}

const hashOf = ({ name, payload, bytes, idempotency }: NewJob): string =>
  idempotency?.hash ?? contentHash(name, payload, bytes);

/** @throws {IdempotencyConflictError} when the job is strict, and is not what holds its key */
export function checkSame({ channel, idempotency }: NewJob, hash: string | null, holder: string | null): void {
  if (idempotency === null || !idempotency.strict || idempotency.hash === hash) return;
  throw new IdempotencyConflictError(channel, idempotency.key, holder);
}
