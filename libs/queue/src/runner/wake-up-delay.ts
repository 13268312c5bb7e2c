import type { WakeUp } from '../statements/wake-up.js';

type News = Extract<WakeUp, { kind: 'jobs' }>;

/** The second runner looks so much later than the first one, and the others so much: by then it has taken the job, or was busy. */
const SECOND_MS = { min: 5, max: 15 };
const OTHERS_MS = { min: 25, max: 100 };

/** Late looks that come in vain keep a distance, of this and up to so many times as much. */
const DISTANCE_MS = OTHERS_MS;
const MAX_DISTANCES = 3;

/** Knuth's multiplier, 2^64 by the golden ratio: its product scatters best in the high bits. */
const GOLDEN = 0x9e37_79b9_7f4a_7c15n;

/** Of a call the first job is told of: under load such ids lie a call's size apart, which shares a factor with many a fleet's. */
const scattered = (jobId: string): number => Number(BigInt.asUintN(64, BigInt(jobId) * GOLDEN) >> 32n);

const within = ({ min, max }: { min: number; max: number }): number => min + Math.random() * (max - min);

/**
 * Keeps a fleet from looking at once: a hundred idle runners that all ask for one job would take the claim lock a
 * hundred times. All of them order the fleet in the same way, turned by the job's id, and the first one looks.
 *
 * The others come late, in case it is busy. Under load they would come again and again, and in vain where it suffices, which
 * took half of all looks of eight runners: so their looks keep a distance, which grows while they find nothing. The first
 * late look after a pause is as late as ever.
 */
export class WakeUpDelay {
  private rank = 0;
  private fleet = 1;
  private readonly held: News[] = [];
  private timer: NodeJS.Timeout | undefined;
  /** When it is over. */
  private dueAt = 0;
  /** How many distances the next late look keeps from the last one: one more for each in vain, one less for each that found something. */
  private distances = 0;
  private lastLateAt = -Infinity;
  /** Drawn with each late look. */
  private distanceMs = DISTANCE_MS.min;
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
    const place = wakeUp.kind === 'jobs' ? this.placeFor(wakeUp.position.id) : 0;
    if (wakeUp.kind !== 'jobs' || place === 0) {
      this.pass(wakeUp);
      return;
    }
    this.held.push(wakeUp);
    if (place === 1) this.releaseAfter(within(SECOND_MS));
    else if (this.timer === undefined) this.releaseAfter(within(OTHERS_MS));
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
      if (late) this.distances = Math.min(MAX_DISTANCES, Math.max(0, this.distances + (found ? -1 : 1)));
    };
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    this.held.length = 0;
  }

  /** In the order of the fleet for this job, from 0. */
  private placeFor(jobId: string): number {
    return (this.rank + (scattered(jobId) % this.fleet)) % this.fleet;
  }

  private releaseAfter(delayMs: number): void {
    const now = performance.now();
    const dueAt = Math.max(now + delayMs, this.lastLateAt + this.distances * this.distanceMs);
    if (this.timer !== undefined && this.dueAt <= dueAt) return;
    clearTimeout(this.timer);
    this.dueAt = dueAt;
    this.timer = setTimeout(() => this.release(), dueAt - now);
  }

  private release(): void {
    const held = this.held.splice(0);
    this.timer = undefined;
    this.lastLateAt = performance.now();
    this.distanceMs = within(DISTANCE_MS);
    // What is for other handlers than these says nothing about whether the first one suffices.
    this.late = held.some((news) => this.canRun(news));
    for (const news of held) this.pass(news);
  }
}
