import type { LeaseBook } from '../job/lease-book.js';
import type { LaneEnd } from '../statements/lanes.js';
import type { LaneSettlement, Settlement } from './settlement.js';

/** What one transaction writes. */
export interface Batch {
  readonly runner: string;
  readonly settlements: readonly Settlement[];
  /** Lanes that are given back, behind the settlements. */
  readonly lanes: readonly LaneEnd[];
  /** Leases that end with it. */
  readonly ended: readonly number[];
  /** Lanes that end with their leases. */
  readonly atRest: readonly LaneEnd[];
}

/** Runs that one transaction settles at most. */
const BATCH = 1_000;

/** What has ended and waits to be written, in its order. */
export class Gathered {
  private waiting: (Settlement | LaneSettlement)[] = [];
  /** Leases of which every job is settled, but which were not known to end when their last one was sent. */
  private endedLeases: { readonly runner: string; readonly lease: number }[] = [];

  constructor(private readonly book: LeaseBook) {}

  get size(): number {
    return this.waiting.length;
  }

  get none(): boolean {
    return this.waiting.length === 0 && this.endedLeases.length === 0;
  }

  add(settlement: Settlement | LaneSettlement): void {
    this.waiting.push(settlement);
  }

  /** A job of the lease has turned out to need nothing more, outside of a batch. */
  settled(runner: string, lease: number): void {
    if (this.book.settling(lease)) this.endedLeases.push({ runner, lease });
  }

  /** The next batch, of one runner: this process has another id after it was declared dead. */
  take(): Batch {
    const [first] = this.waiting;
    const runner = (first && runnerOf(first)) ?? this.endedLeases[0]?.runner ?? '0';
    const ended = this.endedLeases.filter((lease) => lease.runner === runner).map(({ lease }) => lease);
    this.endedLeases = this.endedLeases.filter((lease) => lease.runner !== runner);
    const [settlements, lanes] = [[] as Settlement[], [] as LaneEnd[]];
    for (const settlement of this.takeOf(runner)) {
      if (settlement.write === 'end-lane') lanes.push(settlement.entry);
      else settlements.push(settlement);
      if (isSure(settlement) && this.book.settling(settlement.entry.lease)) ended.push(settlement.entry.lease);
    }
    const endsWithLease = ({ atRest, lease }: LaneEnd): boolean => atRest && ended.includes(lease);
    const atRest = lanes.filter(endsWithLease);
    return {
      ...{ runner, settlements, ended, atRest },
      lanes: atRest.length === 0 ? lanes : lanes.filter((lane) => !endsWithLease(lane)),
    };
  }

  private takeOf(runner: string): (Settlement | LaneSettlement)[] {
    // A lane's end goes with the end of its job: until then nobody can tell whether a dead one blocks it.
    let size = BATCH;
    while (this.waiting[size]?.write === 'end-lane') size += 1;
    const taken = this.waiting.splice(0, size);
    if (taken.every((settlement) => runnerOf(settlement) === runner)) return taken;
    this.waiting = [...taken.filter((settlement) => runnerOf(settlement) !== runner), ...this.waiting];
    return taken.filter((settlement) => runnerOf(settlement) === runner);
  }
}

const runnerOf = (settlement: Settlement | LaneSettlement): string =>
  settlement.write === 'end-lane' ? settlement.entry.runner : settlement.run.job.runner;

/** Whether its lease needs to wait for no more than this write. */
const isSure = (settlement: Settlement | LaneSettlement): boolean =>
  settlement.write === 'end-lane' || (settlement.write !== 'confirm' && settlement.unsure !== true);
