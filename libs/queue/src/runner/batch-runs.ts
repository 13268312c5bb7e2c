import { BatchExecutor } from '../execute/batch-executor.js';
import type { BatchResult } from '../execute/batch-result.js';
import { BatchTransaction } from '../execute/batch-transaction.js';
import { BatchTally } from '../execute/batch-tally.js';
import type { ExecutorEvents, JobExecutor } from '../execute/job-executor.js';
import { RunningBatch } from '../execute/running-batch.js';
import type { RunningJob } from '../execute/running-job.js';
import type { RegisteredHandler } from '../job/handler.js';
import { messageOf } from '../job/errors.js';
import type { ClaimedJob } from '../job/job.js';
import { isCommitted, type Outcome } from '../job/outcome.js';
import type { Batches } from './batches.js';
import type { JobRunsParts } from './job-runs-parts.js';
import type { Lanes } from './lanes.js';
import type { Runs } from './runs.js';
import type { Slots } from './slots.js';

export interface BatchRunsParts {
  readonly runs: Runs;
  readonly slots: Slots;
  readonly lanes: Lanes;
  readonly batches: Batches;
  readonly single: JobExecutor;
  readonly abortGraceMs: number;
  readonly events: ExecutorEvents;
}

/** A batch under way, and what its lane has to know of it. */
interface ActiveBatch {
  readonly batch: RunningBatch;
  readonly handler: RegisteredHandler;
  readonly jobs: readonly ClaimedJob[];
  /** The first of its jobs whose lease was gone, and how many there were. */
  lost: { readonly first: ClaimedJob; count: number } | null;
  durationMs: number;
}

/** Runs that take several jobs at once: gathers what is in hand, and ends each job by itself. */
export class BatchRuns {
  private readonly executor: BatchExecutor;
  private readonly active = new Set<ActiveBatch>();

  constructor(
    private readonly parts: BatchRunsParts,
    private readonly runner: Pick<JobRunsParts, 'policies' | 'logger' | 'emit'>,
  ) {
    this.executor = new BatchExecutor(parts.single, parts.abortGraceMs, parts.events);
  }

  /** Runs the batch of a job whose turn it is; resolves when its method has ended. */
  async run(first: ClaimedJob, handler: RegisteredHandler): Promise<void> {
    const jobs = this.gather(first, handler);
    const active = this.begin(jobs, handler);
    const { batch } = active;
    this.parts.runs.board.call();
    const result = await this.executor.execute(batch);
    active.durationMs = performance.now() - batch.startedAt;
    this.parts.slots.end(handler, active.durationMs);
    this.learn(active, result);
    this.parts.runs.board.ended(handler, performance.now());
    void batch.tally.allEnded.then((end) => this.ended(active, end.job, end.outcome));
  }

  /** The database has answered whether a job is completed. Says whether its batch waits for that. */
  confirmed(job: ClaimedJob, completedByHandler: boolean): boolean {
    for (const { batch } of this.active) {
      if (batch.tally.unsureJob?.claimed !== job) continue;
      batch.tally.confirmed(completedByHandler);
      return true;
    }
    return false;
  }

  /** The process shuts down: nothing further begins. */
  leave(): void {
    for (const { batch } of this.active) batch.leave();
  }

  /** What is in hand and goes with the first job: of its lane the next ones, as far as they are of its handler. */
  private gather(first: ClaimedJob, handler: RegisteredHandler): readonly ClaimedJob[] {
    const { batches, lanes, slots } = this.parts;
    const { policies } = this.runner;
    const load = batches.of(handler)!;
    const goesAlong = (job: ClaimedJob): boolean =>
      batches.ofJob(job) === load &&
      job.policyId === first.policyId &&
      !batches.comesAlone(job) &&
      policies.of(job, handler).keepAlive;
    const most = load.sizer.size - 1;
    if (most === 0 || !goesAlong(first)) return [first];
    if (first.seq !== null) return [first, ...lanes.join(first, most, goesAlong)];
    return [first, ...slots.join(handler, most, (job) => job.seq === null && goesAlong(job))];
  }

  private begin(jobs: readonly ClaimedJob[], handler: RegisteredHandler): ActiveBatch {
    const { runs } = this.parts;
    const companions = {
      aborted: (reason: Error): void => batch.aborted(reason),
      endedBefore: (...[job, to]: Parameters<BatchTally['endedBefore']>) => tally.endedBefore(job, to),
    };
    const now = performance.now();
    const running = jobs.map((job) => runs.begin(job, handler, now, companions));
    const { single } = this.parts;
    const tally: BatchTally = new BatchTally(
      running,
      (job) => single.completed(job, undefined),
      (job, outcome) => this.jobEnded(active, job, outcome),
    );
    const transaction = handler.isolation === null ? null : new BatchTransaction(handler.onReject);
    const batch = new RunningBatch(running, tally, single, transaction);
    const active: ActiveBatch = { batch, handler, jobs, lost: null, durationMs: 0 };
    this.active.add(active);
    return active;
  }

  /** Says whether its end is written. */
  private jobEnded(active: ActiveBatch, job: RunningJob, outcome: Outcome): boolean {
    const { claimed } = job;
    const end = this.parts.runs.end(job, outcome, performance.now() - active.batch.startedAt);
    if (end === 'lost') {
      active.lost ??= { first: claimed, count: 0 };
      active.lost.count += 1;
    } else if (end === 'ended' && outcome.kind !== 'unless-completed' && !isCommitted(outcome)) {
      this.parts.lanes.advanced(claimed);
    }
    return end === 'ended';
  }

  /** All its jobs have ended, and the settlements are under way: its lane goes on, or ends. */
  private ended(active: ActiveBatch, decider: RunningJob, outcome: Outcome): void {
    const { batch, jobs, lost, durationMs } = active;
    const { lanes } = this.parts;
    this.active.delete(active);
    if (lost !== null) lanes.dropped(lost.first, lost.count);
    else {
      const leaseEnds = batch.all.some(({ control }) => control.leaseEnds);
      const facts = { durationMs, leaseEnds, advancedTo: jobs.at(-1)!.seq! };
      lanes.ended(decider.claimed, outcome, decider.policy, facts);
    }
  }

  /** What the batch tells of the size of the next ones, and of who is to come alone. */
  private learn({ handler, jobs }: ActiveBatch, { processed, failure, jobs: handed }: BatchResult): void {
    const { batches } = this.parts;
    const { sizer } = batches.of(handler)!;
    if (jobs.length === 1) batches.cameAlone(jobs[0]!);
    if (failure === null && processed === handed) {
      sizer.succeeded();
      return;
    }
    sizer.failed(processed);
    if (failure === null || failure.released.length === 0) return;
    batches.doubt(failure.released.map(({ claimed }) => claimed));
    const { name, channel, label } = handler;
    const facts = { name, channel, jobs: handed, processed, error: failure.error };
    this.runner.logger.warn(
      `A batch of ${handed} jobs of ${label} has failed, ${processed} of them told of; the others run again one by one: ${messageOf(failure.error)}`,
    );
    this.runner.emit({ type: 'batch-failed', ...facts });
  }
}
