import { JobCancelledError } from '../job/control-errors.js';
import { QueueClosedError, TransactionConflictError } from '../job/errors.js';
import type { Outcome } from '../job/outcome.js';
import { RejectJob, RetryAfter, SnoozeJob } from '../job/steering.js';
import type { BatchResult } from './batch-result.js';
import { isCancelled, type BatchEntry } from './batch-tally.js';
import type { BatchTransaction } from './batch-transaction.js';
import type { JobExecutor } from './job-executor.js';
import type { RunningBatch } from './running-batch.js';

/** Ends a batch that is a transaction: commits it or rolls it back, and then tells how its jobs have ended. */
export class BatchCommitter {
  constructor(
    private readonly single: JobExecutor,
    private readonly batch: RunningBatch,
    private readonly transaction: BatchTransaction,
  ) {}

  /** The method has returned. */
  async returned(): Promise<BatchResult> {
    const { batch, transaction } = this;
    this.failUncompleted();
    await transaction.told();
    const { fatal } = transaction;
    const processed = batch.processed;
    if (fatal !== null) {
      await transaction.rollback(false);
      await this.spoil(fatal.error, { all: fatal.rejected });
      return this.result(processed, { error: fatal.error, released: [] });
    }
    const done = batch.handed.filter((entry) => this.isDone(entry));
    for (const entry of done) entry.told = true;
    try {
      await transaction.commit(done);
    } catch (error) {
      await transaction.rollback(false);
      return this.notCommitted(done, error);
    }
    for (const entry of done) batch.tally.decide(entry, { kind: 'completed', result: null, committed: true });
    await this.close();
    return this.result(batch.tally.stoppedAt ?? batch.jobs.length, null);
  }

  /** The method has thrown: nothing of what it wrote remains. */
  async threw(error: unknown): Promise<BatchResult> {
    const { batch, transaction } = this;
    const { processed, underWay } = batch;
    await transaction.rollback(batch.jobs[0]!.givenUp);
    await transaction.told();
    const open = batch.handed.filter(({ outcome, told }) => !told && outcome === null);
    const steers = [RejectJob, RetryAfter, SnoozeJob].some((steering) => error instanceof steering);
    const shutDown = batch.jobs[0]!.abortReason instanceof QueueClosedError;
    if (error instanceof JobCancelledError && batch.handed.some(isCancelled)) return this.withoutCancelled(error);
    if (transaction.onReject === 'batch' && error instanceof RejectJob) await this.spoil(error, { all: true });
    else if (underWay !== null) await this.spoil(error, { only: [underWay] });
    else if (steers || (batch.jobs.length === 1 && !shutDown)) await this.spoil(error, { only: open });
    else {
      const released = batch.handed.filter((entry) => transaction.outcomeOf(entry) === null);
      await this.spoil(error, { only: [] });
      const jobs = released.map(({ job }) => job);
      return this.result(processed, shutDown ? null : { error, released: jobs });
    }
    return this.result(processed, { error, released: [] });
  }

  /** Everything is rolled back: of the others those have failed, too, that the error is the end of. */
  private async spoil(error: unknown, failing: { all: boolean } | { only: readonly BatchEntry[] }): Promise<void> {
    for (const entry of this.batch.handed) {
      if (this.transaction.outcomeOf(entry) !== null) continue;
      const fails = 'all' in failing ? failing.all : failing.only.includes(entry);
      if (fails) this.batch.tally.decide(entry, this.single.failed(entry.job, error, true));
      else if (entry.outcome === null) this.batch.tally.releaseOne(entry);
    }
    await this.close();
  }

  /** The commit was refused, or nobody knows: a single job is charged with it, of several nobody knows which. */
  private async notCommitted(done: readonly BatchEntry[], error: unknown): Promise<BatchResult> {
    const { batch } = this;
    if (error instanceof TransactionConflictError && done.some(isCancelled)) return this.withoutCancelled(error);
    const [only] = done;
    if (only !== undefined && done.length === 1) {
      batch.tally.decide(only, this.single.failed(only.job, error, true));
      await this.close();
      return this.result(0, { error, released: [] });
    }
    for (const entry of done) batch.tally.releaseOne(entry);
    await this.close();
    return this.result(0, { error, released: done.map(({ job }) => job) });
  }

  /** Everything is rolled back for jobs that are cancelled: the others come again, and nothing is known against them. */
  private async withoutCancelled(error: unknown): Promise<BatchResult> {
    const { handed, jobs } = this.batch;
    await this.spoil(error, { only: handed.filter(isCancelled) });
    return this.result(jobs.length, null);
  }

  private isDone(entry: BatchEntry): boolean {
    return entry.outcome === null && this.transaction.outcomeOf(entry) === null;
  }

  /** `completion: 'manual'` */
  private failUncompleted(): void {
    for (const entry of this.batch.handed) {
      const { handler, control } = entry.job;
      if (entry.told || handler.completion !== 'manual' || control.own.completion !== null) continue;
      const deciding = Promise.resolve(this.single.succeeded(entry.job, undefined));
      void this.transaction.fail(entry, new Error('not completed'), deciding as Promise<Outcome>, false);
    }
  }

  /** The failures that were told stand, whatever became of the transaction. */
  private async close(): Promise<void> {
    for (const entry of this.batch.handed) {
      const outcome = this.transaction.outcomeOf(entry);
      if (outcome !== null && entry.outcome === null) this.batch.tally.decide(entry, outcome);
    }
    await this.batch.tally.close();
  }

  private result(processed: number, failure: BatchResult['failure']): BatchResult {
    return { jobs: this.batch.jobs.length, processed, failure };
  }
}
