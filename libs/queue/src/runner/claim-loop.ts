import type { Logger } from '@nestjs/common';
import type { Claimer } from '../claim/claimer.js';
import type { Feeds } from '../claim/feeds.js';
import { messageOf } from '../job/errors.js';
import type { ClaimedJob } from '../job/job.js';
import { RetryDelay } from '../job/retry-delay.js';
import type { JobRuns } from './job-runs.js';
import type { Membership } from './membership.js';
import { Wakeup } from './wakeup.js';

export interface ClaimLoopParts {
  readonly membership: Membership;
  readonly runs: JobRuns;
  readonly feeds: Feeds;
  readonly claimer: Claimer;
  readonly logger: Logger;
  /** Makes good what the boot could not do while the database was down. */
  readonly prepare: () => Promise<void>;
  /** Asks for a survey. */
  readonly survey: () => void;
  /** A look begins; answers what to tell for how long what it has found had been due. */
  readonly look: () => (waitedMs: number | null) => void;
  /** There is something to run. */
  readonly accepted: () => void;
  /** Settlements that wait to be written. */
  readonly backlog: () => number;
}

/** Settlements that may wait before claims pause until the database has caught up. */
const MAX_BACKLOG = 5_000;

/** Claims whenever there is room and something to claim, and sleeps otherwise. */
export class ClaimLoop {
  private readonly wakeup = new Wakeup();
  private readonly delay = new RetryDelay({ minMs: 100, maxMs: 5_000 });
  private readonly stopSignal = new AbortController();
  private suspectsMayWait = true;
  /** Those of a handler at its limit were not asked for: they come first when a run has ended. */
  private suspectsSkipped = false;
  private looping: Promise<void> | null = null;
  private underWay = false;
  private soon: NodeJS.Immediate | undefined;

  constructor(private readonly parts: ClaimLoopParts) {}

  start(): void {
    this.looping = this.loop();
  }

  get started(): boolean {
    return this.looping !== null;
  }

  get stopping(): boolean {
    return this.stopSignal.signal.aborted;
  }

  /** Whether a claim is under way: there may be something to run in a moment. */
  get claiming(): boolean {
    return this.underWay;
  }

  /** There may be room, or something to claim. */
  wake(): void {
    this.wakeup.signal();
  }

  /** A run has left room. Runs that began together end together: one claim is to fill what all of them leave. */
  wakeSoon(): void {
    this.soon ??= setImmediate(() => {
      this.soon = undefined;
      this.wake();
    });
  }

  /** A job whose last lease was lost may be waiting. */
  expectSuspects(): void {
    this.suspectsMayWait = true;
  }

  /** A run has ended, so that its handler has room. */
  runEnded(): void {
    if (!this.suspectsSkipped) return;
    this.suspectsSkipped = false;
    this.suspectsMayWait = true;
  }

  stop(): void {
    this.stopSignal.abort();
    this.wakeup.signal();
  }

  /** Resolves when the claim that was under way at the stop has ended. */
  async ended(): Promise<void> {
    await this.looping;
  }

  private async loop(): Promise<void> {
    const { runs, feeds, logger, survey } = this.parts;
    while (!this.stopping) {
      try {
        if (!(await this.tryToClaim())) {
          runs.rest();
          await this.wakeup.wait(runs.demand(true).limit > 0 ? feeds.msUntilDue() : null);
        }
        this.delay.reset();
      } catch (error) {
        if (this.stopping) return;
        logger.warn(`Claiming failed, will try again: ${messageOf(error)}`);
        await this.delay.wait(this.stopSignal.signal);
        survey();
      }
    }
  }

  private async tryToClaim(): Promise<boolean> {
    this.underWay = true;
    try {
      return await this.claimOnce();
    } finally {
      this.underWay = false;
    }
  }

  /** Claims what there is room for; says whether it is worth while to go on at once. */
  private async claimOnce(): Promise<boolean> {
    const { membership, runs, feeds, claimer, look, backlog } = this.parts;
    if (!membership.trusted) await this.enter();
    if (this.stopping || backlog() > MAX_BACKLOG) return false;
    // Declared dead in the meantime: enters again.
    if (!membership.trusted) return true;
    if (this.suspectsMayWait && runs.makeRoomForSuspect()) await this.claimSuspect();
    const looked = look();
    const demand = runs.demand(!feeds.needSlot());
    if (demand.limit === 0 || !feeds.hasWork(demand.slots)) return false;
    const jobs = await claimer.claim(demand);
    looked(this.waitedMs(jobs));
    await this.accept(jobs);
    return true;
  }

  /** For how long the first of them to become due has been due. */
  private waitedMs(jobs: readonly ClaimedJob[]): number | null {
    if (jobs.length === 0) return null;
    const first = jobs.reduce((least, { dueAtMicros }) => Math.min(least, dueAtMicros), Infinity);
    return (this.parts.feeds.clock.nowMicros() - first) / 1_000;
  }

  private async enter(): Promise<void> {
    await this.parts.prepare();
    await this.parts.membership.join();
    this.parts.survey();
  }

  private async claimSuspect(): Promise<void> {
    const { claimer, feeds, runs } = this.parts;
    // Before the answer, so that what is told of meanwhile is not forgotten, nor that a handler at its limit has room by then.
    this.suspectsMayWait = false;
    this.suspectsSkipped = !feeds.haveRoom();
    const job = await claimer.claimSuspect().catch((error: unknown) => {
      this.suspectsMayWait = true;
      throw error;
    });
    runs.endReservation();
    if (job !== undefined) {
      this.suspectsMayWait = true;
      await this.accept([job]);
    } else runs.startReady();
  }

  /** A claim that was under way when this process was declared dead is lost with all the rest. */
  private async accept(jobs: readonly ClaimedJob[]): Promise<void> {
    const { runs, membership, accepted } = this.parts;
    if (jobs.length > 0) accepted();
    await runs.accept(jobs.filter(({ runner }) => runner === membership.id));
  }
}
