import { JobCancelledError } from '../job/control-errors.js';
import { JobTimeoutError, messageOf, QueueClosedError } from '../job/errors.js';
import { RejectJob, RetryAfter, SnoozeJob } from '../job/steering.js';
import { BatchCommitter } from './batch-committer.js';
import type { BatchResult } from './batch-result.js';
import { isCancelled } from './batch-tally.js';
import type { BatchTransaction } from './batch-transaction.js';
import { NO_TRANSACTION, type ExecutorEvents, type JobExecutor } from './job-executor.js';
import { runWithin } from './run-within.js';
import type { RunningBatch } from './running-batch.js';

/** Runs the method of a batch handler, and turns every ending of it into outcomes of its jobs. Never throws. */
export class BatchExecutor {
  constructor(
    private readonly single: JobExecutor,
    private readonly abortGraceMs: number,
    private readonly events: ExecutorEvents,
  ) {}

  async execute(batch: RunningBatch): Promise<BatchResult> {
    await this.prepare(batch);
    batch.handOver();
    const jobs = batch.jobs.length;
    if (jobs === 0) {
      await batch.tally.close();
      return { jobs, processed: 0, failure: null };
    }
    if (batch.transaction !== null) return this.executeInside(batch, batch.transaction);
    try {
      await this.invoke(batch);
      await this.transactionsEnded(batch);
      await batch.returned();
      return { jobs, processed: batch.tally.stoppedAt ?? jobs, failure: null };
    } catch (error) {
      await this.transactionsEnded(batch);
      return this.threw(batch, error);
    }
  }

  /** The batch is a transaction. */
  private async executeInside(batch: RunningBatch, transaction: BatchTransaction): Promise<BatchResult> {
    const { tally, handed } = batch;
    try {
      await transaction.begin(handed);
    } catch (error) {
      this.events.hookFailed(`A batch of ${handed.length} jobs got no transaction, and waits: ${messageOf(error)}`);
      for (const entry of handed) tally.decide(entry, NO_TRANSACTION);
      await tally.close();
      return { jobs: handed.length, processed: handed.length, failure: null };
    }
    const committer = new BatchCommitter(this.single, batch, transaction);
    try {
      // It may have waited long for its connection.
      if (batch.abortReason !== undefined) throw batch.abortReason;
      await Promise.race([this.invoke(batch), batch.jobs[0]!.untilAbandoned()]);
      await this.transactionsEnded(batch);
    } catch (error) {
      return committer.threw(error);
    }
    return committer.returned();
  }

  /** Each job's own lease and payload: one that is not right does not spoil the batch. */
  private async prepare(batch: RunningBatch): Promise<void> {
    for (const job of batch.open) {
      if (job.abortReason !== undefined) continue;
      const outcome = await this.single.prepare(job);
      if (outcome !== null) batch.exclude(job, outcome);
    }
  }

  private async invoke(batch: RunningBatch): Promise<void> {
    const [job] = batch.jobs;
    const { handler, policy } = batch.open[0]!;
    const call = async (): Promise<void> => void (await handler.invoke(batch));
    if (policy.timeoutMs === null) return call();
    const expired = new JobTimeoutError(job!.name, policy.timeoutMs);
    const limit = {
      timeoutMs: policy.timeoutMs,
      graceMs: this.abortGraceMs,
      expired,
      abort: () => batch.open.forEach((job) => job.abort(expired)),
      givenUp: () => {
        for (const job of batch.jobs) job.givenUp = true;
        for (const stuck of batch.open) this.events.stuck(stuck);
      },
    };
    return runWithin(limit, call);
  }

  private async threw(batch: RunningBatch, error: unknown): Promise<BatchResult> {
    const { open, processed, jobs } = batch;
    const [first] = open;
    if (first === undefined) {
      const what = `A batch of ${jobs.length} jobs (${jobs[0]!.name}) has ended; what its handler threw afterwards changes nothing`;
      this.events.hookFailed(`${what}: ${messageOf(error)}`);
      await batch.tally.close();
      return { jobs: jobs.length, processed: jobs.length, failure: null };
    }
    const cancelled = error instanceof JobCancelledError ? batch.handedOpen.filter(isCancelled) : [];
    if (cancelled.length > 0) {
      await batch.threw(error, cancelled);
      return { jobs: jobs.length, processed: jobs.length, failure: null };
    }
    const { underWay } = batch;
    const steers = [RejectJob, RetryAfter, SnoozeJob].some((steering) => error instanceof steering);
    const shutDown = first.abortReason instanceof QueueClosedError;
    if ((steers && underWay === null) || (open.length === 1 && !shutDown)) {
      await batch.threw(error, batch.handedOpen);
      return { jobs: jobs.length, processed, failure: { error, released: [] } };
    }
    const released = underWay !== null || shutDown ? [] : open;
    await batch.threw(error, underWay === null ? [] : [underWay]);
    return { jobs: jobs.length, processed, failure: shutDown ? null : { error, released } };
  }

  private async transactionsEnded(batch: RunningBatch): Promise<void> {
    for (const job of batch.jobs) await job.control.transactionEnded();
  }
}
