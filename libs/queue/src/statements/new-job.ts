import type { Backoff } from '../job/backoff.js';

/** A job as it is written. `payload` and `metadata` are JSON text. */
export interface NewJob {
  readonly channel: string;
  readonly key: string;
  readonly name: string;
  readonly priority: number;
  /** `null`: no limit. */
  readonly maxAttempts: number | null;
  readonly policyId: string | null;
  readonly backoff: Backoff | null;
  /** Milliseconds from the insert, by the database's clock. */
  readonly delayMs: number;
  /** Milliseconds since 1970; the later of both counts. */
  readonly runAtMs: number | null;
  /** Not to be run before it is committed, and gone after so many milliseconds; `null`: free at once. */
  readonly holdMs: number | null;
  readonly payload: string | null;
  readonly bytes: Buffer | null;
  readonly metadata: string | null;
  /** Runs in the order of its lane. */
  readonly ordered: boolean;
  readonly idempotency: Idempotency | null;
}

/** What keeps a job from being made twice. */
export interface Idempotency {
  /** Unique in the channel, among the live jobs at least. */
  readonly key: string;
  /** Of the job's name, payload and bytes, by `contentHash`; `null`: SQL tells it from the job's row when a strict spawn asks. */
  readonly hash: string | null;
  /** The key outlives the job: for so many milliseconds from the insert, or for ever. `null`: it ends with the job. */
  readonly lastsMs: number | null;
  /** An earlier job with other content is an error. */
  readonly strict: boolean;
}
