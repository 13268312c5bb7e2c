import type { WakeUp } from '../statements/wake-up.js';

/** Runners that look at a notification at once. */
const FIRST_RUNNERS = 2;

/** The others look this much later, at random: by then the first ones have taken the job, or were busy. */
const DELAY_MS = { min: 25, max: 100 };

/** The first job of each call is told of: under load these ids are steps of a call's size apart, which share a factor with many a fleet. */
const scattered = (jobId: string): number => Number(BigInt.asUintN(64, BigInt(jobId) * 0x9e37_79b9_7f4a_7c15n) >> 32n);

/** Those who look late and in vain wait longer, up to so many times that long. */
const MOST_TIMES = 8;

/**
 * Keeps a fleet from looking at once: a hundred idle runners that all ask for one job would take the claim lock a
 * hundred times. All of them order the fleet in the same way, turned by the job's id, and the first two look. The others
 * come late, and the more seldom the more often the first ones have sufficed: a look in vain costs as much as one of a
 * dozen jobs, and under load a fleet would spend half of its looks so.
 */
export class WakeUpDelay {
  private rank = 0;
  private fleet = 1;
  private readonly held: WakeUp[] = [];
  private timer: NodeJS.Timeout | undefined;
  private times = 1;
  /** The next look is a late one. */
  private late = false;

  constructor(private readonly pass: (wakeUp: WakeUp) => void) {}

  /** Who else is alive, as the last heartbeat has told. */
  setFleet(own: string, peers: readonly string[]): void {
    this.rank = peers.filter((peer) => peer < own).length;
    this.fleet = peers.length + 1;
  }

  hear(wakeUp: WakeUp): void {
    if (wakeUp.kind !== 'jobs' || this.isFirst(wakeUp.position.id)) {
      this.pass(wakeUp);
      return;
    }
    this.held.push(wakeUp);
    const delayMs = DELAY_MS.min + Math.random() * (DELAY_MS.max - DELAY_MS.min);
    this.timer ??= setTimeout(() => this.release(), delayMs * this.times);
  }

  /** This runner has looked, and found something or not. */
  looked(found: boolean): void {
    if (!this.late) return;
    this.late = false;
    this.times = found ? Math.max(1, this.times / 2) : Math.min(MOST_TIMES, this.times * 2);
  }

  stop(): void {
    clearTimeout(this.timer);
    this.held.length = 0;
  }

  private isFirst(jobId: string): boolean {
    return (this.rank + (scattered(jobId) % this.fleet)) % this.fleet < FIRST_RUNNERS;
  }

  private release(): void {
    this.timer = undefined;
    this.late = true;
    for (const wakeUp of this.held.splice(0)) this.pass(wakeUp);
  }
}
