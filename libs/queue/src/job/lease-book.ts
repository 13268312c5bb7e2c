import type { JobId } from './job.js';

interface OpenLease {
  /** `false` while the claim is under way: the lease may not exist yet. */
  filled: boolean;
  /** Jobs without a settlement, and lanes that have not been given back. */
  unsettled: number;
}

/** What a heartbeat says about this process. */
export interface LeaseReport {
  /** Leases held, and those of claims under way. */
  readonly held: number[];
  /** The held ones of claims that were answered: only these can be missing. */
  readonly filled: number[];
  readonly highest: number;
  readonly started: JobId[];
}

/**
 * The leases that this process holds, each until all of its jobs are settled. Numbers only go up, so that a report
 * which is older than a claim says nothing about that claim's lease.
 */
export class LeaseBook {
  private readonly leases = new Map<number, OpenLease>();
  private highest = 0;

  /** @param started the jobs that a runner has started and that have not ended in this process */
  constructor(private readonly started: (runner: string) => JobId[]) {}

  /** Number for a claim that is about to be sent. */
  open(): number {
    this.highest += 1;
    this.leases.set(this.highest, { filled: false, unsettled: 0 });
    return this.highest;
  }

  /** The claim was answered with so many jobs, in so many lanes; without any there is no lease. */
  fill(lease: number, jobs: number, lanes = 0): void {
    if (jobs === 0) this.leases.delete(lease);
    else this.leases.set(lease, { filled: true, unsettled: jobs + lanes });
  }

  /** More jobs have come under the lease, which still has a lane to give back. */
  extend(lease: number, jobs: number): void {
    this.letGo(lease, -jobs);
  }

  /** Jobs of a lane that will not start here: there is nothing to settle, and the lane's end is still to come. */
  letGo(lease: number, jobs: number): void {
    const open = this.leases.get(lease);
    if (open !== undefined) open.unsettled -= jobs;
  }

  /** The claim failed and may or may not have been done: the next heartbeat gives the lease back. */
  abandon(lease: number): void {
    this.leases.delete(lease);
  }

  /** One more job, or lane, of the lease is in the settlement being sent; answers whether it is the last one. */
  settling(lease: number): boolean {
    const open = this.leases.get(lease);
    if (open === undefined) return false;
    open.unsettled -= 1;
    return open.unsettled === 0;
  }

  /** The lease is gone from the database, after its last settlement or because it was lost. */
  close(lease: number): void {
    this.leases.delete(lease);
  }

  has(lease: number): boolean {
    return this.leases.has(lease);
  }

  report(runner: string): LeaseReport {
    const filled: number[] = [];
    for (const [number, lease] of this.leases) if (lease.filled) filled.push(number);
    return { held: [...this.leases.keys()], filled, highest: this.highest, started: this.started(runner) };
  }

  /** Starts anew after this process was declared dead: every lease is lost. */
  clear(): void {
    this.leases.clear();
  }
}
