import type { RunFacts } from '../job/run-port.js';

export interface LeaseEndOwner {
  /** What is committed of the run, `null` when it is no longer this run's. */
  lookAtRun(): Promise<RunFacts | null>;
  /** Called once. */
  leasePassed(): void;
}

/** How soon a lease is looked at again whose extension is not committed yet, or could not be read. */
const LOOK_AGAIN_MS = 200;

/** Timers take no more. */
const MAX_TIMER_MS = 2_147_483_647;

/**
 * The end that a run's lease has of its own, by this process's monotonic clock: never later than the database's, since
 * what is left is counted from before it was asked.
 */
export class LeaseEnd {
  private endsAt = Infinity;
  private timer: NodeJS.Timeout | undefined;
  /** Says whether the transaction is still open that has moved the end, where one has. */
  private movedIn: (() => boolean) | null = null;
  private cleared = false;

  constructor(private readonly owner: LeaseEndOwner) {}

  /** It has passed, whether or not the event loop was free to notice. */
  get passed(): boolean {
    return this.movedIn === null && performance.now() >= this.endsAt;
  }

  /** Milliseconds that are left of it, as far as this process knows. */
  get leftMs(): number {
    return this.endsAt - performance.now();
  }

  /** The lease has an end, or may get one. */
  get exists(): boolean {
    return this.endsAt !== Infinity || this.movedIn !== null;
  }

  /** @param askedAt `performance.now()` before the database was asked */
  set({ leaseLeftMs }: RunFacts, askedAt: number): void {
    this.endsAt = leaseLeftMs === null ? Infinity : askedAt + leaseLeftMs;
    this.arm(this.endsAt - performance.now());
  }

  /** A transaction has moved it: until that has ended nobody knows whether it will stand. */
  moveIn(isOpen: () => boolean, facts: RunFacts, askedAt: number): void {
    this.movedIn = isOpen;
    if (this.endsAt === Infinity) this.set(facts, askedAt);
  }

  clear(): void {
    this.cleared = true;
    clearTimeout(this.timer);
  }

  private arm(inMs: number): void {
    clearTimeout(this.timer);
    if (this.cleared || inMs === Infinity) return;
    this.timer = setTimeout(() => void this.due(), Math.min(Math.max(0, inMs), MAX_TIMER_MS));
  }

  private async due(): Promise<void> {
    if (performance.now() < this.endsAt) this.arm(this.endsAt - performance.now());
    else if (this.movedIn === null) this.end();
    else await this.lookAgain(this.movedIn());
  }

  /** @param open the transaction was still open before the look */
  private async lookAgain(open: boolean): Promise<void> {
    const askedAt = performance.now();
    let facts: RunFacts | null;
    try {
      facts = await this.owner.lookAtRun();
    } catch {
      this.arm(LOOK_AGAIN_MS);
      return;
    }
    if (this.cleared) return;
    if (!open) this.movedIn = null;
    if (facts === null) this.end();
    else if (facts.leaseLeftMs === null || facts.leaseLeftMs > 0) this.set(facts, askedAt);
    else if (open) this.arm(LOOK_AGAIN_MS);
    else this.end();
  }

  private end(): void {
    this.clear();
    this.owner.leasePassed();
  }
}
