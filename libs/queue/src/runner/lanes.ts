import type { HandlerPolicy, RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import type { LeaseBook } from '../job/lease-book.js';
import { endingOf, isCommitted, type Outcome } from '../job/outcome.js';
import type { LaneEnd } from '../statements/lanes.js';
import { newRun, wantsMore, type LaneId, type LaneRun } from './lane-run.js';
import type { Slots } from './slots.js';

/** What is known of a run that has ended. */
export interface RunFacts {
  readonly durationMs: number;
  /** Its lease had an end of its own: until its end is written, others may take the job. */
  readonly leaseEnds: boolean;
  /** Of a batch: the number of its last job. Of those that have ended well the lane knows already. */
  readonly advancedTo?: number;
}

export interface LanesParts {
  readonly book: LeaseBook;
  readonly handlerOf: (job: ClaimedJob) => RegisteredHandler;
  /** A lane is to be given back, behind what has ended before. */
  readonly laneEnded: (end: LaneEnd) => void;
  /** More of a lane's jobs are to be claimed; `extended` is to be called with them, or with none. */
  readonly extend: (lane: LaneRun) => void;
}

/** A run may take so many times the prefetch, where one of its handlers took longer than was thought. */
const TURN = 10;

/**
 * The lanes that this process has in hand: which of their jobs is next, and when a lane is given back.
 *
 * The next job starts when the handler of the one before has ended well; the end itself may still be on its way to the
 * database, where ends are written in order. Behind a handler that took longer than the prefetch it starts when that is
 * written. Everything else ends the run, and so does a run that takes too long, so that lanes take turns: the jobs behind
 * were never started, so there is nothing to write of them. A long run of fast handlers is extended before its jobs are used up.
 */
export class Lanes {
  /** By the number of their lease, which is of one channel, and by their keys. */
  private readonly leases = new Map<number, Map<string, LaneRun>>();
  /** Nothing further starts. */
  stopping = false;

  constructor(
    private readonly slots: Slots,
    private readonly prefetchMs: number,
    private readonly parts: LanesParts,
  ) {}

  /** Takes in claimed jobs, those of a lane in order; answers which may start: unordered ones, and the first of each lane. */
  add(jobs: readonly ClaimedJob[]): readonly ClaimedJob[] {
    if (jobs.every(({ seq }) => seq === null)) return jobs;
    const startable = jobs.filter((job) => {
      if (job.seq === null) return true;
      const run = this.of(job);
      if (run === undefined) this.remember(newRun(job));
      else run.followers.push(job);
      if (job.closesLane) this.of(job)!.closesAt = job.seq;
      return run === undefined;
    });
    this.slots.changeBehind(jobs.length - startable.length);
    for (const job of startable) this.letBeExtended(job);
    return startable;
  }

  /** A lane that has its lease to itself. */
  private letBeExtended(first: ClaimedJob): void {
    const run = this.of(first);
    if (run !== undefined && this.leases.get(first.lease)!.size === 1) run.extension.size = run.followers.length + 1;
  }

  /** The answer to `extend`. Of a run that is over meanwhile the jobs are free again with its lane. */
  extended(run: LaneRun, jobs: readonly ClaimedJob[]): void {
    const { extension } = run;
    const isOver = this.leases.get(run.lease)?.get(run.key) !== run;
    if (isOver) return;
    this.parts.book.extend(run.lease, jobs.length);
    run.followers.push(...jobs);
    this.slots.changeBehind(jobs.length);
    // A run that has let go of jobs takes no others: their numbers are behind those.
    if (extension.size === 0 || this.stopping) this.letGoTail(run);
    else extension.size = jobs.length;
    extension.underWay = false;
    extension.done ||= jobs.length > 0;
    if (jobs.at(-1)?.closesLane) run.closesAt = jobs.at(-1)!.seq;
    const { awaitedBehind } = extension;
    extension.awaitedBehind = null;
    if (awaitedBehind !== null) this.goOn(run, awaitedBehind);
  }

  /** The jobs behind the one that is to start which come with it: at most so many, up to the first that does not fit. */
  join(job: ClaimedJob, most: number, fits: (job: ClaimedJob) => boolean): ClaimedJob[] {
    const followers = this.of(job)?.followers ?? [];
    const end = followers.findIndex((follower) => !fits(follower));
    const joining = followers.splice(0, Math.min(most, end < 0 ? followers.length : end));
    this.slots.changeBehind(-joining.length);
    return joining;
  }

  /** A job has ended so that the next one of its batch counts, and its end is being written. */
  advanced(job: ClaimedJob): void {
    const run = this.of(job);
    if (run !== undefined) run.unwritten += 1;
  }

  /** A handler has ended, and its settlement is under way. */
  ended(job: ClaimedJob, outcome: Outcome, policy: HandlerPolicy, facts: RunFacts): void {
    const { durationMs, leaseEnds, advancedTo } = facts;
    const run = this.of(job);
    if (run === undefined) return;
    run.current = null;
    run.last = job;
    // Whether its own transaction has completed it only the database knows.
    if (outcome.kind === 'unless-completed') {
      this.keepRoom(run);
      return;
    }
    run.spentMs += durationMs;
    const written = isCommitted(outcome);
    const mayGoOn = outcome.kind === 'completed' && (written || !leaseEnds) && !run.refused;
    const goesOn = mayGoOn && !this.stopping && (run.followers.length > 0 || run.extension.underWay);
    if (!goesOn || run.spentMs > this.prefetchMs * TURN) {
      const last = { completed: outcome.kind === 'completed', blockedBy: blockerOf(job, outcome, policy) };
      this.end(run, advancedTo ?? job.seq!, last);
      return;
    }
    if (advancedTo === undefined && !written) run.unwritten += 1;
    if (durationMs <= this.prefetchMs || run.unwritten === 0) this.goOn(run, advancedTo ?? job.seq!);
    else {
      run.awaited = job.seq;
      this.keepRoom(run);
    }
  }

  /** The end of a job is written. */
  settled(job: ClaimedJob, outcome: Outcome, policy: HandlerPolicy, completedByHandler: boolean): void {
    const run = this.of(job);
    if (run === undefined) return;
    if (isCommitted(outcome)) return;
    if (outcome.kind !== 'unless-completed') this.written(run);
    else if (completedByHandler) this.goOn(run, job.seq!);
    else this.end(run, job.seq!, { blockedBy: blockerOf(job, endingOf(outcome), policy) });
  }

  /**
   * The end of a job was refused, although the lease may be there: the lane is still this process's, and only its owner
   * gives it back.
   */
  refused(job: ClaimedJob): void {
    const run = this.of(job);
    if (run === undefined) return;
    this.letGoTail(run);
    run.refused = true;
    this.release(run);
    if (run.current === null) this.end(run, job.seq!);
  }

  /** Jobs will not be settled: taken ahead and withdrawn, or ended after their lease was lost. The first of them. */
  dropped(job: ClaimedJob, count = 1): void {
    const run = this.of(job);
    // Of a lease that is gone the book knows nothing any more.
    this.parts.book.letGo(job.lease, count);
    if (run?.refused !== true) return;
    run.current = null;
    this.end(run, job.seq! - 1);
  }

  /** Resolves when the ends of the jobs before this one are written, or never will be. */
  async writtenBefore(job: ClaimedJob): Promise<void> {
    const run = this.of(job);
    if (run === undefined || run.unwritten === 0) return;
    await new Promise<void>((resolve) => run.waiters.push(resolve));
  }

  /** The first job of a run was taken ahead, and will not start here. */
  withdrawn(job: ClaimedJob): void {
    const run = this.of(job);
    if (run === undefined) return;
    this.parts.book.letGo(run.lease, 1);
    this.end(run, job.seq! - 1);
  }

  /** The first job of a run was taken ahead and is not to run at all: its end is written before the lane's. */
  cancelledAhead(job: ClaimedJob): void {
    const run = this.of(job);
    if (run !== undefined) this.end(run, job.seq! - 1);
  }

  /**
   * Takes jobs out that wait behind others and are not to run at all: their ends are to be written. Those behind them go
   * back, since their numbers were given for a lane with those in it.
   */
  takeFollowers(which: (job: ClaimedJob) => boolean): ClaimedJob[] {
    const runs = [...this.leases.values()].flatMap((ofLease) => [...ofLease.values()]);
    return runs.flatMap((run) => {
      const at = run.followers.findIndex(which);
      if (at < 0) return [];
      const cut = run.followers.splice(at);
      run.extension.size = 0;
      if (at === 0) this.giveRoom(run);
      this.slots.changeBehind(-cut.length);
      const taken = cut.filter(which);
      this.parts.book.letGo(run.lease, cut.length - taken.length);
      return taken;
    });
  }

  /** The lease of a job that runs has passed, and its lane goes back with the job: there is no end of it to write. */
  expired(job: ClaimedJob): void {
    const run = this.of(job);
    if (run === undefined) return;
    this.forget(run);
    this.parts.book.letGo(run.lease, 1);
  }

  /** The jobs behind running ones go back to where others can see them: they are free once the lane is. */
  letGoTails(): void {
    for (const runs of this.leases.values())
      for (const run of runs.values()) {
        this.letGoTail(run);
        const { awaitedBehind } = run.extension;
        if (awaitedBehind !== null) this.end(run, awaitedBehind, { completed: true });
      }
  }

  /** The leases are gone, the lanes with them. */
  lose(isLost: (job: LaneId) => boolean): void {
    for (const runs of this.leases.values()) for (const run of runs.values()) if (isLost(run)) this.forget(run);
  }

  /** Starts the next job, if there is one, or will be. The last one, with this number, is completed. */
  private goOn(run: LaneRun, lastSeq: number): void {
    if (!this.stopping && run.followers.length > 0) this.startNext(run);
    else if (!this.stopping && run.extension.underWay) {
      run.extension.awaitedBehind = lastSeq;
      this.keepRoom(run);
    } else this.end(run, lastSeq, { completed: true });
  }

  private startNext(run: LaneRun): void {
    const next = run.followers.shift()!;
    run.current = next;
    if (wantsMore(run)) {
      run.extension.underWay = true;
      this.parts.extend(run);
    }
    this.giveRoom(run);
    this.slots.changeBehind(-1);
    this.slots.take(next, this.parts.handlerOf(next));
  }

  /** @param last whether the last job that ran is completed, and the dead one for which the lane waits */
  private end(run: LaneRun, lastSeq: number, last: { completed?: boolean; blockedBy?: string | null } = {}): void {
    const { channel, key, runner, lease, closesAt } = run;
    const atRest = last.completed === true && lastSeq === closesAt && !run.refused && !run.extension.done;
    this.forget(run);
    this.parts.laneEnded({ channel, key, runner, lease, lastSeq, atRest, blockedBy: last.blockedBy ?? null });
  }

  private forget(run: LaneRun): void {
    this.letGoTail(run);
    const runs = this.leases.get(run.lease);
    runs?.delete(run.key);
    if (runs?.size === 0) this.leases.delete(run.lease);
    this.release(run);
  }

  private letGoTail(run: LaneRun): void {
    const { length } = run.followers.splice(0);
    run.extension.size = 0;
    this.giveRoom(run);
    this.slots.changeBehind(-length);
    this.parts.book.letGo(run.lease, length);
  }

  /** Of a run that is being extended nobody knows yet what comes next: jobs of the handler that had the room are likely. */
  private keepRoom(run: LaneRun): void {
    const next = run.followers[0] ?? (run.extension.underWay ? run.last : null);
    if (next === null || run.keptRoomOf !== null) return;
    run.keptRoomOf = this.parts.handlerOf(next);
    this.slots.keepRoom(run.keptRoomOf);
  }

  private giveRoom(run: LaneRun): void {
    if (run.keptRoomOf !== null) this.slots.giveRoom(run.keptRoomOf);
    run.keptRoomOf = null;
  }

  private written(run: LaneRun): void {
    run.unwritten = Math.max(0, run.unwritten - 1);
    if (run.unwritten > 0) return;
    this.release(run);
    const { awaited } = run;
    run.awaited = null;
    if (awaited !== null && !run.refused) this.goOn(run, awaited);
  }

  private release(run: LaneRun): void {
    for (const resolve of run.waiters.splice(0)) resolve();
  }

  private of(job: ClaimedJob): LaneRun | undefined {
    return job.seq === null ? undefined : this.leases.get(job.lease)?.get(job.key);
  }

  private remember(run: LaneRun): void {
    const runs = this.leases.get(run.lease);
    if (runs === undefined) this.leases.set(run.lease, new Map([[run.key, run]]));
    else runs.set(run.key, run);
  }
}

/** A dead job for which its lane waits, where the handler says so. */
function blockerOf(job: ClaimedJob, outcome: Outcome, policy: HandlerPolicy): string | null {
  return outcome.kind === 'dead' && policy.onDead === 'block' ? job.id : null;
}
