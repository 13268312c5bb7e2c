import type { WakeUp } from '../statements/wake-up.js';

type News = Extract<WakeUp, { kind: 'jobs' }>;

/** Runners that look at a notification at once. */
const FIRST_RUNNERS = 2;

/** The others look this much later, at random: by then the first ones have taken the job, or were busy. */
const DELAY_MS = { min: 25, max: 100 };

/** Between two late looks there may be so many delays, where they come in vain. */
const MAX_STRETCH = 4;

/** Knuth's multiplier, 2^64 by the golden ratio: its product scatters best in the high bits. */
const GOLDEN = 0x9e37_79b9_7f4a_7c15n;

/** Of a call the first job is told of: under load such ids lie a call's size apart, which shares a factor with many a fleet's. */
const scattered = (jobId: string): number => Number(BigInt.asUintN(64, BigInt(jobId) * GOLDEN) >> 32n);

/**
 * Keeps a fleet from looking at once: a hundred idle runners that all ask for one job would take the claim lock a
 * hundred times. All of them order the fleet in the same way, turned by the job's id, and the first two look.
 *
 * The others come late. Under load they would come again and again, and in vain where the first ones suffice, which took
 * half of all looks of eight runners: so their looks keep a distance, which grows while they find nothing. The first late
 * look after a pause is as late as ever.
 */
export class WakeUpDelay {
  private rank = 0;
  private fleet = 1;
  private readonly held: News[] = [];
  private timer: NodeJS.Timeout | undefined;
  private stretch = 1;
  private lastLateAt = -Infinity;
  /** A late look is due. */
  private late = false;
  private stopped = false;

  constructor(
    private readonly pass: (wakeUp: WakeUp) => void,
    private readonly canRun: (news: News) => boolean,
  ) {}

  /** Who else is alive, as the last heartbeat has told. */
  setFleet(own: string, peers: readonly string[]): void {
    this.rank = peers.filter((peer) => peer < own).length;
    this.fleet = peers.length + 1;
  }

  hear(wakeUp: WakeUp): void {
    if (this.stopped) return;
    if (wakeUp.kind !== 'jobs' || this.isFirst(wakeUp.position.id)) {
      this.pass(wakeUp);
      return;
    }
    this.held.push(wakeUp);
    this.timer ??= setTimeout(() => this.release(), this.delayMs(performance.now()));
  }

  /**
   * This runner looks now. Whoever looks says in the end whether it has found something.
   *
   * @returns what to say it to
   */
  look(): (found: boolean) => void {
    const { late } = this;
    this.late = false;
    return (found) => {
      if (late) this.stretch = found ? Math.max(1, this.stretch / 2) : Math.min(MAX_STRETCH, this.stretch * 2);
    };
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    this.held.length = 0;
  }

  private isFirst(jobId: string): boolean {
    return (this.rank + (scattered(jobId) % this.fleet)) % this.fleet < FIRST_RUNNERS;
  }

  private delayMs(now: number): number {
    const delayMs = DELAY_MS.min + Math.random() * (DELAY_MS.max - DELAY_MS.min);
    return Math.max(delayMs, this.lastLateAt + delayMs * this.stretch - now);
  }

  private release(): void {
    const held = this.held.splice(0);
    this.timer = undefined;
    this.lastLateAt = performance.now();
    // What is for other handlers than these says nothing about whether the first ones suffice.
    this.late = held.some((news) => this.canRun(news));
    for (const news of held) this.pass(news);
  }
}
