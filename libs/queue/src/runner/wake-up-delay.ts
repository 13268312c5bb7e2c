import type { WakeUp } from '../statements/wake-up.js';

/** Runners that look at a notification at once. */
const FIRST_RUNNERS = 2;

/** The others look this much later, at random: by then the first ones have taken the job, or were busy. */
const DELAY_MS = { min: 25, max: 100 };

/**
 * Keeps a fleet from looking at once: a hundred idle runners that all ask for one job would take the claim lock a
 * hundred times. All of them order the fleet in the same way, turned by the job's id, and the first two look.
 */
export class WakeUpDelay {
  private rank = 0;
  private fleet = 1;
  private readonly held: WakeUp[] = [];
  private timer: NodeJS.Timeout | undefined;

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
    this.timer ??= setTimeout(() => this.release(), DELAY_MS.min + Math.random() * (DELAY_MS.max - DELAY_MS.min));
  }

  stop(): void {
    clearTimeout(this.timer);
    this.held.length = 0;
  }

  private isFirst(jobId: string): boolean {
    return (this.rank + Number(BigInt(jobId) % BigInt(this.fleet))) % this.fleet < FIRST_RUNNERS;
  }

  private release(): void {
    this.timer = undefined;
    for (const wakeUp of this.held.splice(0)) this.pass(wakeUp);
  }
}
