import type { DeadReason } from './outcome.js';
import type { JobId } from './job.js';

/** Which job an event is about. */
export interface JobFacts {
  /** Id of the job. */
  readonly id: JobId;
  /** Its channel. */
  readonly channel: string;
  /** Its key, `''` when it has none. */
  readonly key: string;
  /** Its name. */
  readonly name: string;
  /** Number of the run, from 1. */
  readonly attempt: number;
}

/** What happened to a job, or to the runner of this process. Emitted after it is written, in this process only. */
export type QueueEvent =
  | ({ readonly type: 'started' } & JobFacts)
  | ({ readonly type: 'completed'; readonly durationMs: number } & JobFacts)
  | ({
      readonly type: 'retrying';
      readonly delayMs: number;
      readonly error: unknown;
      readonly durationMs: number;
    } & JobFacts)
  | ({
      readonly type: 'dead';
      readonly reason: DeadReason;
      readonly error: unknown;
      readonly durationMs: number;
    } & JobFacts)
  | ({ readonly type: 'snoozed'; readonly delayMs: number } & JobFacts)
  | ({ readonly type: 'released' } & JobFacts)
  /** It was cancelled before it ran (then `attempt` is how often it had run), or its run has ended without success. */
  | ({ readonly type: 'cancelled'; readonly reason: string | null } & JobFacts)
  /** A run ended, or asked for completion, after its lease was gone: what it did in the database has been refused. */
  | ({ readonly type: 'lease-lost' } & JobFacts)
  /** A run goes on longer than `stuckAfter`, or did not obey its abort within `abortGraceMs`. */
  | ({ readonly type: 'stuck'; readonly runningMs: number } & JobFacts)
  /**
   * The method of a batch handler has thrown, and nobody knows because of which job. Those that it had told of
   * (`processed`) keep that; the others were released, and come one by one.
   */
  | {
      readonly type: 'batch-failed';
      readonly name: string;
      readonly channel: string;
      readonly jobs: number;
      readonly processed: number;
      readonly error: unknown;
    }
  /** Jobs of a dead runner were put back (`waiting`) or given up (`dead`, or `cancelled` where that was asked for) by this process. */
  | { readonly type: 'rescued'; readonly waiting: number; readonly dead: number; readonly cancelled: number }
  /** The event loop was blocked: no job could start or end in this time. */
  | { readonly type: 'event-loop-blocked'; readonly blockedMs: number; readonly running: readonly string[] }
  /** Notifications arrive again (`true`), or do not, and the runner polls. */
  | { readonly type: 'listening'; readonly listening: boolean };
