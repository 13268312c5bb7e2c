import type { HandlerPolicy, RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import type { LeaseBook } from '../job/lease-book.js';
import { endingOf, isCommitted, type Outcome } from '../job/outcome.js';
import type { LaneEnd } from '../statements/lanes.js';
import type { Slots } from './slots.js';

/** A run of one lane's jobs that this process has leased: one of them is next or running, the others wait behind it. */
interface LaneRun {
  readonly channel: string;
  readonly key: string;
  readonly runner: string;
  readonly lease: number;
  /** The job that is next, or runs; `null` when its handler has ended and no other has been taken. */
  current: ClaimedJob | null;
  /** Number of its last job, when nothing stood behind that. */
  closesAt: number | null;
  /** The jobs behind the current one, in order. */
  readonly followers: ClaimedJob[];
  /** Jobs whose handlers have ended well and whose end is being written. */
  unwritten: number;
  /** Number of a job that took long: the next one starts when all ends are written. */
  awaited: number | null;
  /** A handler's limit counts a job that is to start when ends are written: whose room is kept for it meanwhile. */
  keptRoomOf: RegisteredHandler | null;
  /** What its handlers have taken so far. */
  spentMs: number;
  /** The end of one of its jobs was refused: nothing further starts, and the lane is given back when nothing runs. */
  refused: boolean;
  /** Who may go on only when nothing is unwritten. */
  waiters: (() => void)[];
}

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
}

/** A run may take so many times the prefetch, where one of its handlers took longer than was thought. */
const TURN = 10;

/**
 * The lanes that this process has in hand: which of their jobs is next, and when a lane is given back.
 *
 * The next job starts when the handler of the one before has ended well; the end itself may still be on its way to the
 * database, where ends are written in order. Behind a handler that took longer than the prefetch it starts when that is
 * written. Everything else ends the run, and so does a run that takes too long, so that lanes take turns: the jobs behind
 * were never started, so there is nothing to write of them.
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
    return startable;
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
    // Whether its own transaction has completed it only the database knows.
    if (outcome.kind === 'unless-completed') {
      this.keepRoom(run);
      return;
    }
    run.spentMs += durationMs;
    const written = isCommitted(outcome);
    const mayGoOn = outcome.kind === 'completed' && (written || !leaseEnds) && !run.refused;
    const goesOn = mayGoOn && !this.stopping && run.followers.length > 0;
    if (!goesOn || run.spentMs > this.prefetchMs * TURN) {
      const last = { completed: outcome.kind === 'completed', blockedBy: blockerOf(job, outcome, policy) };
      this.end(run, advancedTo ?? job.seq!, last);
      return;
    }
    if (advancedTo === undefined && !written) run.unwritten += 1;
    if (durationMs <= this.prefetchMs || run.unwritten === 0) this.startNext(run);
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
    else if (completedByHandler && !this.stopping && run.followers.length > 0) this.startNext(run);
    else if (completedByHandler) this.end(run, job.seq!, { completed: true });
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
    for (const runs of this.leases.values()) for (const run of runs.values()) this.letGoTail(run);
  }

  /** The leases are gone, the lanes with them. */
  lose(isLost: (job: LaneId) => boolean): void {
    for (const runs of this.leases.values()) for (const run of runs.values()) if (isLost(run)) this.forget(run);
  }

  private startNext(run: LaneRun): void {
    const next = run.followers.shift()!;
    run.current = next;
    this.giveRoom(run);
    this.slots.changeBehind(-1);
    this.slots.take(next, this.parts.handlerOf(next));
  }

  /** @param last whether the last job that ran is completed, and the dead one for which the lane waits */
  private end(run: LaneRun, lastSeq: number, last: { completed?: boolean; blockedBy?: string | null } = {}): void {
    const { channel, key, runner, lease, closesAt } = run;
    const atRest = last.completed === true && lastSeq === closesAt && !run.refused;
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
    this.giveRoom(run);
    this.slots.changeBehind(-length);
    this.parts.book.letGo(run.lease, length);
  }

  private keepRoom(run: LaneRun): void {
    const [next] = run.followers;
    if (next === undefined || run.keptRoomOf !== null) return;
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
    if (awaited === null || run.refused) return;
    if (!this.stopping && run.followers.length > 0) this.startNext(run);
    else this.end(run, awaited, { completed: true });
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

/** Of a job, or of its lane: whose it is. */
export type LaneId = Pick<ClaimedJob, 'runner' | 'lease' | 'channel' | 'key'>;

const newRun = (current: ClaimedJob): LaneRun => ({
  channel: current.channel,
  key: current.key,
  runner: current.runner,
  lease: current.lease,
  current,
  ...{
    closesAt: null,
    followers: [],
    unwritten: 0,
    awaited: null,
    keptRoomOf: null,
    spentMs: 0,
    refused: false,
    waiters: [],
  },
});

/** A dead job for which its lane waits, where the handler says so. */
function blockerOf(job: ClaimedJob, outcome: Outcome, policy: HandlerPolicy): string | null {
  return outcome.kind === 'dead' && policy.onDead === 'block' ? job.id : null;
}
