import type { ClaimedJob } from '../job/job.js';
import { RateMeter } from './rate-meter.js';

/**
 * A run waits for the server and its disk, whatever its handler does: so much more work is held ahead of the connections,
 * which makes few claims of many runs.
 */
const COMMIT_MS = 30;

/**
 * Which jobs of transactional handlers may start: each needs a connection of the application's pool. What is claimed ahead
 * of the connections, as of the slots, waits here, so that it holds up no other job that has a slot.
 */
export class TransactionSlots {
  /** Started or about to be, and room that is kept for one. */
  private taken = 0;
  private waiting: ClaimedJob[] = [];
  private readonly rate: RateMeter;
  /** `false` while a job waits that may be claimed only when it starts at once. */
  mayTakeAhead = true;

  constructor(
    private readonly max: number,
    prefetchMs: number,
    slowMs: number,
  ) {
    const commitMs = prefetchMs === 0 ? 0 : COMMIT_MS;
    this.rate = new RateMeter(prefetchMs + commitMs, slowMs + commitMs);
  }

  /** How many more would start at once. */
  get startable(): number {
    return this.max - this.taken - this.waiting.length;
  }

  /** How many to hold ahead of the connections. */
  ahead(now: number): number {
    return this.rate.ahead(now);
  }

  /** How many more may be claimed. Ahead of the connections as much at once as pays for a claim. */
  room(now: number): number {
    const { startable } = this;
    if (!this.mayTakeAhead) return startable;
    const ahead = this.ahead(now);
    return startable <= 0 && this.waiting.length > ahead / 2 ? 0 : startable + ahead;
  }

  /** Whether the job may go to its slot; else it is kept until {@link next} answers it. */
  enter(job: ClaimedJob): boolean {
    if (this.taken < this.max && this.waiting.length === 0) {
      this.taken += 1;
      this.rate.begin(performance.now());
      return true;
    }
    if (job.suspect) this.waiting.unshift(job);
    else this.waiting.push(job);
    return false;
  }

  /** Keeps a connection for a job that is taken later. */
  keep(): void {
    this.taken += 1;
  }

  /** A connection is free again; answers the job that may have it. */
  leave(): ClaimedJob | undefined {
    this.taken -= 1;
    if (this.taken >= this.max) return undefined;
    const next = this.waiting.shift();
    if (next !== undefined) this.taken += 1;
    return next;
  }

  /** Takes back jobs that wait. */
  withdraw(which: (job: ClaimedJob) => boolean): ClaimedJob[] {
    const withdrawn = this.waiting.filter(which);
    if (withdrawn.length > 0) this.waiting = this.waiting.filter((job) => !which(job));
    return withdrawn;
  }

  /** A run has ended after so long. */
  end(durationMs: number): void {
    this.rate.end(durationMs);
  }

  /** There was nothing to claim. */
  rest(): void {
    if (this.taken + this.waiting.length === 0) this.rate.idle();
  }
}
