import type { Demand } from '../claim/claimer.js';
import type { HandlerGroup } from '../claim/feeds.js';
import { JobExecutor } from '../execute/job-executor.js';
import type { RunningJob } from '../execute/running-job.js';
import { messageOf, QueueClosedError } from '../job/errors.js';
import type { RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob, JobId } from '../job/job.js';
import { RELEASED } from '../job/outcome.js';
import type { Settled } from '../settle/settler.js';
import { BatchRuns } from './batch-runs.js';
import { Batches } from './batches.js';
import { handlerGroups } from './handler-groups.js';
import type { JobRunsParts, JobRunsSettings } from './job-runs-parts.js';
import type { LaneId, LaneRun } from './lane-run.js';
import { Lanes } from './lanes.js';
import { factsOf } from './run-events.js';
import { isOfLaneOf, Runs } from './runs.js';
import { Slots } from './slots.js';

/** Jobs taken ahead are given back when none of them has started for so long. */
const MAX_IDLE_AHEAD_MS = 250;

/** Jobs of which it is remembered that they are to stop. */
const CANCELLED_KEPT = 1_000;

/** The jobs that this process has in hand: taken ahead, running, and how many more there is room for. */
export class JobRuns {
  private readonly slots: Slots;
  private readonly runs: Runs;
  private readonly batches: Batches;
  private readonly batchRuns: BatchRuns;
  private readonly lanes: Lanes;
  private readonly executor: JobExecutor;
  private stopping = false;
  private suspectInHand = false;
  /** Jobs that were told to stop lately. */
  private readonly cancelled = new Map<JobId, string | null>();
  private aheadTimer: NodeJS.Timeout | undefined;
  /** Jobs started since the timer last looked. */
  private startedSince = 0;

  constructor(
    private readonly settings: JobRunsSettings,
    private readonly parts: JobRunsParts,
  ) {
    const { abortGraceMs, prefetchMs } = settings;
    this.batches = new Batches(parts.registry.handlers(), settings.singly);
    this.slots = new Slots(settings, this.batches);
    const hookFailed = (what: string): void => parts.logger.error(what);
    const events = { stuck: (job: RunningJob) => this.reportStuck(job), hookFailed };
    this.executor = new JobExecutor(abortGraceMs, events);
    const extend = (lane: LaneRun): void => void this.extend(lane);
    this.lanes = new Lanes(this.slots, prefetchMs, { ...parts, extend, handlerOf: (job) => this.handlerOf(job) });
    this.runs = new Runs(settings, parts, this.lanes, hookFailed);
    const { slots, batches, lanes, runs, executor: single } = this;
    this.batchRuns = new BatchRuns({ slots, batches, lanes, runs, single, abortGraceMs, events }, parts);
  }

  /**
   * Whether a job whose last lease was lost may be claimed now: they run one at a time, since one of them may be what
   * ends processes. Keeps a slot free until one was found or there is none, so that they do not starve under load.
   */
  makeRoomForSuspect(): boolean {
    if (this.suspectInHand) return false;
    this.slots.reserved = true;
    return !this.slots.full;
  }

  /** There is no suspect, or it has its slot. */
  endReservation(): void {
    this.slots.reserved = false;
  }

  demand(mayTakeAhead: boolean): Demand {
    return this.slots.demand(performance.now(), mayTakeAhead);
  }

  rest(): void {
    this.slots.rest();
  }

  /** What is claimed for together. */
  handlerGroups(): HandlerGroup[] {
    return handlerGroups(this.parts.registry.handlers(), this.slots, this.batches);
  }

  async accept(jobs: readonly ClaimedJob[]): Promise<void> {
    await this.parts.policies.learn(jobs);
    // A lease may have been lost meanwhile.
    const held = jobs.filter(({ lease }) => this.parts.book.has(lease));
    for (const job of this.lanes.add(held)) {
      this.suspectInHand ||= job.suspect;
      this.slots.take(job, this.handlerOf(job));
    }
    if (this.cancelled.size > 0) this.cancelAhead(this.cancelled);
    if (this.stopping) this.releaseAhead();
    else this.startReady();
    this.watchAhead();
  }

  /** Claims more of a lane while its jobs run. When that fails its run ends with what it has, and the lane is claimed anew. */
  private async extend(lane: LaneRun): Promise<void> {
    let jobs: readonly ClaimedJob[] = [];
    try {
      jobs = await this.parts.extendLane(lane.current!, this.slots.inTurn);
      await this.parts.policies.learn(jobs);
    } catch (error) {
      if (!this.stopping) this.parts.logger.warn(`Claiming more of a lane failed: ${messageOf(error)}`);
    }
    this.lanes.extended(lane, jobs);
    if (this.cancelled.size > 0) this.cancelAhead(this.cancelled);
    this.startReady();
    if (!this.stopping) this.watchAhead();
  }

  /** Starts what has a slot. */
  startReady(now?: number): void {
    if (!this.slots.canStart || this.stopping || !this.parts.mayStart()) return;
    for (let startedAt = now ?? performance.now(); this.slots.canStart; startedAt = performance.now()) {
      const job = this.slots.start(startedAt);
      if (job === undefined) return;
      this.startedSince += 1;
      const handler = this.handlerOf(job);
      void (handler.batch === null ? this.run(job, handler, startedAt) : this.runBatch(job, handler));
    }
  }

  /** Jobs are to stop: what runs is told so, what has not started ends here. */
  cancel(reasons: ReadonlyMap<JobId, string | null>): void {
    if (reasons.size === 0) return;
    this.runs.board.cancel(reasons);
    this.cancelAhead(reasons);
    // A claim whose answer is under way may bring one of them.
    for (const [id, reason] of reasons) this.cancelled.set(id, reason);
    for (const id of this.cancelled.keys()) {
      if (this.cancelled.size <= CANCELLED_KEPT) break;
      this.cancelled.delete(id);
    }
  }

  /** Given back without having run: the database cancels them then. A number in a lane goes to the next one. */
  private cancelAhead(reasons: ReadonlyMap<JobId, string | null>): void {
    const which = ({ id }: ClaimedJob): boolean => reasons.has(id);
    const first = this.withdraw(which);
    for (const job of [...first, ...this.lanes.takeFollowers(which)]) {
      this.forget(job);
      const policy = this.parts.policies.of(job, this.handlerOf(job));
      this.parts.ended({ job: { ...job, seq: null }, outcome: RELEASED, policy, durationMs: 0 });
    }
    for (const job of first) this.lanes.cancelledAhead(job);
  }

  /** The leases are gone: what has not started is forgotten, and answered; what runs is told to stop. */
  lose(isLost: (job: LaneId) => boolean): ClaimedJob[] {
    const forgotten = this.withdraw(isLost);
    for (const job of forgotten) this.forget(job);
    this.lanes.lose(isLost);
    this.runs.board.lose(isLost);
    return forgotten;
  }

  /** Handlers that run. */
  get running(): number {
    return this.runs.board.count;
  }

  /** Whether jobs take next to no time. */
  get tiny(): boolean {
    return this.slots.tiny;
  }

  /** Whether nothing runs and nothing waits for its slot. */
  get empty(): boolean {
    return this.running === 0 && this.slots.waitingCount === 0;
  }

  /** Jobs that this process has started under a runner's id, and that have not ended. */
  started(runner: string): JobId[] {
    return this.runs.board.started(runner);
  }

  idle(withinMs: number | null): Promise<boolean> {
    return this.runs.board.idle(withinMs);
  }

  /** The end of a run is written, or refused: its lane goes on, or ends. */
  settled({ run: { job, outcome, policy }, result }: Settled): void {
    if (job.seq === null) return;
    const completedByHandler = result === 'completed-by-handler';
    if (result === 'lost') this.refused(job);
    // Else its lane goes on with its batch.
    else if (outcome.kind !== 'unless-completed' || !this.batchRuns.confirmed(job, completedByHandler)) {
      this.lanes.settled(job, outcome, policy, completedByHandler);
    }
    this.startReady();
  }

  /** Nothing of the job's lane may go on here: what was taken ahead is withdrawn, what runs is told to stop. */
  private refused(job: ClaimedJob): void {
    const isOfLane = isOfLaneOf(job);
    this.lanes.refused(job);
    for (const ahead of this.withdraw(isOfLane)) {
      this.forget(ahead);
      this.lanes.dropped(ahead);
    }
    this.runs.board.lose(isOfLane);
    this.batchRuns.confirmed(job, false);
  }

  /** Handlers that run, or have ended within so many milliseconds. */
  labels(withinMs: number): string[] {
    return this.runs.board.labels(performance.now() - withinMs);
  }

  reportLongRuns(): void {
    for (const job of this.runs.board.takeStuck(this.settings.stuckAfterMs, performance.now())) this.reportStuck(job);
  }

  /** Starts nothing any more, and gives back what was taken ahead. */
  stop(): void {
    this.stopping = true;
    this.lanes.stopping = true;
    this.batchRuns.leave();
    this.releaseAhead();
    clearInterval(this.aheadTimer);
  }

  /** Waits for the running handlers; when the grace is over it aborts them and waits a little longer. */
  async drain(graceMs: number, abortWaitMs: number): Promise<void> {
    const { board } = this.runs;
    if (await board.idle(graceMs)) return;
    const reason = new QueueClosedError('The job was still running');
    board.abortAll(reason);
    if (await board.idle(abortWaitMs)) return;
    board.abandonTransactions(reason);
    await board.idle(abortWaitMs);
  }

  /** Resolves when no error hook is under way. */
  hooksEnded(): Promise<void> {
    return this.runs.hooksEnded();
  }

  private async run(claimed: ClaimedJob, handler: RegisteredHandler, startedAt: number): Promise<void> {
    const { runs } = this;
    const job = runs.begin(claimed, handler, startedAt);
    runs.board.call();
    const outcome = await this.executor.execute(job);
    const now = performance.now();
    const durationMs = now - startedAt;
    runs.board.ended(handler, now);
    this.slots.end(handler, durationMs);
    const end = runs.end(job, outcome, durationMs);
    if (end === 'lost') this.lanes.dropped(claimed);
    else if (end === 'ended' && claimed.seq !== null) {
      this.lanes.ended(claimed, outcome, job.policy, { durationMs, leaseEnds: job.control.leaseEnds });
    }
    this.handlerEnded(claimed, now);
  }

  private async runBatch(first: ClaimedJob, handler: RegisteredHandler): Promise<void> {
    await this.batchRuns.run(first, handler);
    this.handlerEnded(first, performance.now());
  }

  /** There is a slot for what comes next. */
  private handlerEnded(first: ClaimedJob, now: number): void {
    this.forget(first);
    this.startReady(now);
    if (this.slots.reserved || this.slots.demand(now, true).limit > 0) this.parts.wanting();
  }

  private watchAhead(): void {
    if (this.slots.waitingCount > 0) this.aheadTimer ??= setInterval(() => this.releaseIdleAhead(), MAX_IDLE_AHEAD_MS);
  }

  /** Jobs were taken ahead of fast ones, and slow ones came in between: they go back to where others can run them. */
  private releaseIdleAhead(): void {
    if (this.startedSince === 0) this.releaseAhead();
    this.startedSince = 0;
    if (this.slots.waitingCount > 0) return;
    clearInterval(this.aheadTimer);
    this.aheadTimer = undefined;
  }

  private releaseAhead(): void {
    this.lanes.letGoTails();
    for (const job of this.withdraw(() => true)) {
      this.forget(job);
      if (job.seq !== null) {
        this.lanes.withdrawn(job);
        continue;
      }
      const policy = this.parts.policies.of(job, this.handlerOf(job));
      this.parts.ended({ job, outcome: RELEASED, policy, durationMs: 0 });
    }
  }

  private withdraw(which: (job: ClaimedJob) => boolean): ClaimedJob[] {
    return this.slots.withdraw(which, (job) => this.handlerOf(job));
  }

  private forget({ suspect }: ClaimedJob): void {
    if (suspect) this.suspectInHand = false;
  }

  private handlerOf(job: ClaimedJob): RegisteredHandler {
    const handler = this.parts.registry.find(job.name);
    if (handler === undefined) throw new Error(`Job ${job.id} with the unknown name "${job.name}" was claimed.`);
    return handler;
  }

  private reportStuck(job: RunningJob): void {
    const runningMs = Math.round(performance.now() - job.startedAt);
    this.parts.logger.warn(`Job ${job.id} (${job.name}) has been running for ${runningMs} ms and does not end.`);
    this.parts.emit({ type: 'stuck', runningMs, ...factsOf(job.claimed) });
  }
}
