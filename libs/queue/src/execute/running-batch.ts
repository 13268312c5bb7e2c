import type { EntityManager } from 'typeorm';
import type { JobBatch } from '../job/batch.js';
import type { Duration } from '../job/duration.js';
import { JobCancelledError } from '../job/control-errors.js';
import { JobTimeoutError, messageOf, QueueClosedError } from '../job/errors.js';
import type { Job } from '../job/job.js';
import type { Outcome } from '../job/outcome.js';
import { NotTransactionalError } from '../job/run-errors.js';
import { RejectJob, RetryAfter } from '../job/steering.js';
import type { BatchTransaction } from './batch-transaction.js';
import { isLost, type BatchEntry, type BatchTally } from './batch-tally.js';
import type { RunningJob } from './running-job.js';

/** How the ends of single runs are decided. */
export interface BatchOutcomes {
  succeeded(job: RunningJob, result: unknown): Outcome | Promise<Outcome>;
  completed(job: RunningJob, result: unknown): Outcome | Promise<Outcome>;
  failed(job: RunningJob, error: unknown, threw: boolean): Promise<Outcome>;
}

/** Jobs of one handler that run together: what the handler sees, and what it tells of each. */
export class RunningBatch implements JobBatch {
  readonly startedAt = performance.now();
  /** What is handed over. */
  jobs: readonly RunningJob[] = [];
  /** The one that `each` is at. */
  private current: BatchEntry | null = null;
  private leaving = false;
  private controller: AbortController | undefined;
  /** Why the handler was told to stop. */
  abortReason: Error | undefined;

  constructor(
    /** In their order; of a lane where they are ordered. */
    readonly all: readonly RunningJob[],
    readonly tally: BatchTally,
    private readonly outcomes: BatchOutcomes,
    /** `null`: its handler is not transactional. */
    readonly transaction: BatchTransaction | null,
  ) {}

  // ── what the handler asks for ─────────────────────────────────────────────────────────────────────────────────────

  complete(job: Job, result?: unknown): void {
    const entry = this.tally.checkTell(job, 'completed');
    if (this.transaction === null) this.tally.decide(entry, this.outcomes.completed(entry.job, result));
    else this.transaction.complete(entry, result);
  }

  reject(job: Job, reason: string | Error): void {
    const entry = this.tally.checkTell(job, 'rejected');
    const cause = typeof reason === 'string' ? {} : { cause: reason };
    const error = reason instanceof RejectJob ? reason : new RejectJob(messageOf(reason), cause);
    this.fail(entry, error);
  }

  retry(job: Job, error: unknown = new Error('retry asked for by the handler'), delay?: Duration): void {
    const entry = this.tally.checkTell(job, 'retried');
    const cause = delay === undefined ? error : new RetryAfter(delay, messageOf(error), { cause: error });
    this.fail(entry, cause);
  }

  async each(work: (job: Job) => unknown): Promise<void> {
    for (const job of this.jobs) {
      const entry = this.tally.of(job)!;
      if (this.leaving && this.abortReason === undefined) this.tally.release();
      if (entry.told || isLost(entry)) continue;
      if (this.abortReason !== undefined) throw this.abortReason;
      if (this.transaction === null) await this.runOne(entry, work);
      else await this.runInside(this.transaction, entry, work);
    }
  }

  get manager(): EntityManager {
    const [job] = this.all as [RunningJob];
    if (this.transaction === null) throw new NotTransactionalError(job.id, job.name);
    return this.transaction.manager;
  }

  remainingMs(): number {
    const { timeoutMs } = this.all[0]!.policy;
    const endsInMs = timeoutMs === null ? Infinity : this.startedAt + timeoutMs - performance.now();
    return Math.max(0, Math.min(endsInMs, ...this.jobs.map((job) => job.control.leaseLeftMs)));
  }

  get signal(): AbortSignal {
    this.controller ??= new AbortController();
    if (this.abortReason !== undefined) this.controller.abort(this.abortReason);
    return this.controller.signal;
  }

  // ── what the process asks for ─────────────────────────────────────────────────────────────────────────────────────

  /** Those that were not told of. */
  get open(): readonly RunningJob[] {
    return this.tally.entries.filter(({ told }) => !told).map(({ job }) => job);
  }

  /** How many of those that were handed over were told of. */
  get processed(): number {
    return this.jobs.filter((job) => this.tally.of(job)!.told).length;
  }

  /** The job that `each` is at. */
  get underWay(): BatchEntry | null {
    return this.current === null || this.current.told ? null : this.current;
  }

  /** What was handed over. */
  get handed(): readonly BatchEntry[] {
    return this.jobs.map((job) => this.tally.of(job)!);
  }

  /** Of that, what was not told of. */
  get handedOpen(): readonly BatchEntry[] {
    return this.handed.filter(({ told }) => !told);
  }

  /** The handler gets what has not ended before. */
  handOver(): void {
    this.jobs = this.tally.startable.map(({ job }) => job);
  }

  /** A run has ended before it could be handed over. */
  exclude(job: RunningJob, outcome: Outcome): void {
    this.tally.decide(this.tally.of(job)!, outcome);
  }

  /** A job was told to stop: the handler is, too, when that is not for some of its jobs only. */
  aborted(reason: Error): void {
    // Without one of its leases a transaction cannot commit; without a job that is cancelled it can.
    const spoilsAll = this.transaction !== null && !(reason instanceof JobCancelledError);
    const ofAll = reason instanceof QueueClosedError || reason instanceof JobTimeoutError || spoilsAll;
    if (!ofAll && this.open.some((job) => job.abortReason === undefined)) return;
    this.abortReason ??= reason;
    this.controller?.abort(this.abortReason);
  }

  /** The process shuts down: `each` begins no further job. */
  leave(): void {
    this.leaving = true;
  }

  /** The method has returned: what it has not told of is completed. */
  async returned(): Promise<void> {
    for (const entry of this.handedOpen) this.tally.decide(entry, this.succeeded(entry));
    await this.tally.close();
  }

  /** The method has thrown, which is the end of these jobs, not told of so far, and of no others. */
  async threw(error: unknown, failed: readonly BatchEntry[]): Promise<void> {
    for (const entry of failed) this.tally.decide(entry, this.outcomes.failed(entry.job, error, true));
    await this.tally.close();
  }

  // ── how ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  private async runOne(entry: BatchEntry, work: (job: Job) => unknown): Promise<void> {
    const { job } = entry;
    this.current = entry;
    try {
      if (job.abortReason !== undefined) throw job.abortReason;
      const result = await work(job);
      if (this.tally.mayTell(entry)) this.tally.decide(entry, this.outcomes.completed(job, result));
    } catch (error) {
      if (this.tally.mayTell(entry)) this.tally.decide(entry, this.outcomes.failed(job, error, true));
    }
    this.current = null;
    await this.tally.counted(entry);
  }

  /** What its work has written is rolled back when it fails; then nothing behind it in its lane may run now. */
  private async runInside(
    transaction: BatchTransaction,
    entry: BatchEntry,
    work: (job: Job) => unknown,
  ): Promise<void> {
    const { job } = entry;
    this.current = entry;
    try {
      if (job.abortReason !== undefined) throw job.abortReason;
      await transaction.run(entry, () => work(job));
    } catch (error) {
      if (transaction.onReject === 'batch') throw error;
      await transaction.fail(entry, error, this.outcomes.failed(job, error, true), true);
    }
    this.current = null;
    if (transaction.stopsAt(entry)) this.tally.release();
  }

  private fail(entry: BatchEntry, error: unknown): void {
    const deciding = this.outcomes.failed(entry.job, error, false);
    if (this.transaction === null) this.tally.decide(entry, deciding);
    else void this.transaction.fail(entry, error, deciding, false);
  }

  private succeeded({ job }: BatchEntry): Outcome | Promise<Outcome> {
    try {
      return this.outcomes.succeeded(job, undefined);
    } catch (error) {
      return this.outcomes.failed(job, error, false);
    }
  }
}
