import type { EntityManager } from 'typeorm';
import type { Duration } from './duration.js';
import type { Job } from './job.js';

/**
 * Several jobs of one handler, handed over together: what a handler with `batch` receives. Each job has an outcome of its
 * own. In an ordered lane the jobs are the next ones of one lane, in their order.
 *
 * When the method returns, the jobs that were not told of are completed. When it throws, those that were told of keep
 * what was told: see docs/batches.md for the others.
 */
export interface JobBatch<Payload = unknown> {
  /** From 1 to as many as the handler's `batch`. */
  readonly jobs: readonly Job<Payload>[];
  /**
   * Completes one of the jobs. It is written at once, together with what else has ended; there is nothing to await.
   * `job.complete()` can be awaited, and `job.complete({ manager })` completes it in a transaction.
   *
   * @param result JSON, kept as long as the handler's `retention`
   * @throws {InvalidTransitionError} when the job was told of before, was released, or is of another batch
   * @throws {LeaseLostError} when another runner may have the job
   * @throws {PayloadInvalidError} when the result is to be kept and is not JSON
   * @example for (const job of batch.jobs) if (await this.send(job.payload)) batch.complete(job);
   */
  complete(job: Job<Payload>, result?: unknown): void;
  /**
   * The job can never succeed: it becomes `dead` with reason `rejected`, whatever attempts are left. Under
   * `onDead: 'block'` the jobs behind it in its lane are released.
   *
   * @param reason text or error, kept with the job
   * @throws {InvalidTransitionError | LeaseLostError} as `complete`
   * @example batch.reject(job, 'no such user');
   */
  reject(job: Job<Payload>, reason: string | Error): void;
  /**
   * The job's run has failed, as if a handler of single jobs had thrown: it runs again after its backoff, or is dead when
   * no attempts are left. In an ordered lane the jobs behind it are released.
   *
   * @param error what went wrong, kept with the job
   * @param delay in place of the backoff
   * @throws {InvalidTransitionError | LeaseLostError} as `complete`
   * @throws {InvalidOptionsError} when the delay is out of range
   * @example batch.retry(job, error, '90s');
   */
  retry(job: Job<Payload>, error?: unknown, delay?: Duration): void;
  /**
   * Runs the jobs one after another, each as if it were alone: completed with what `work` returns, and a throw of `work` is
   * the failure of that job only (`RejectJob`, `RetryAfter` and `SnoozeJob` steer). It stops where order demands it, at a
   * timeout, and when the process shuts down: what was not begun is released, and loses no attempt. Jobs that were told
   * of are passed by.
   *
   * @throws whatever has aborted `signal`: let it through
   * @example await batch.each((job) => this.send(job.payload));
   */
  each(work: (job: Job<Payload>) => unknown): Promise<void>;
  /**
   * Of a handler with `transactional: true`: the EntityManager of the transaction that the batch is. It commits when the
   * method returns, with the completions of its jobs; when it throws all is rolled back. `job.manager` is the same. In
   * `each` every job has a savepoint of its own.
   *
   * @throws {NotTransactionalError} in any other handler
   */
  readonly manager: EntityManager;
  /** Milliseconds until the handler's `timeout`, or the end of a lease that has one; `Infinity` without either. Never negative. */
  remainingMs(): number;
  /**
   * Aborts when the timeout is over, the process shuts down, or no job is left that this batch may still write of;
   * `signal.reason` says which, as that of a single job. `job.signal` aborts for its job alone, too.
   */
  readonly signal: AbortSignal;
}
