import type { Position } from '../job/job.js';
import type { Peer } from '../statements/runners.js';

/** When so many wake-ups have been heard within so long the fleet is busy. */
const BUSY_WAKE_UPS = 20;
const BUSY_MS = 400;

/** With tiny jobs it is taken to be busy for so long still: by then those that have not listened are back. */
const STILL_BUSY_MS = 1_500;

/**
 * For so long one runner of a busy fleet is the first. When it has no room, or is dead, jobs wait for the next one: so only
 * with tiny jobs, of which one process runs whatever comes, is it longer.
 */
const SLICE_MS = 25;
const LONG_SLICE_MS = 200;

/** How far a runner looks ahead for its turn. */
const SLICES_AHEAD = 10;

/**
 * In which order the runners of a fleet look at what they are told of. All hear the same wake-ups in the same order, so that
 * those which know of each other come to the same turns without a word.
 *
 * While there is little to do each job has a turn of its own, which spreads the jobs over the processes. In a busy fleet
 * one runner is first for a slice of time: its claims are the larger and the fewer for it.
 */
export class FleetOrder {
  private rank = 0;
  private fleet = 1;
  /** When the last ones were heard, the oldest at `next`. */
  private readonly heardAt = new Array<number>(BUSY_WAKE_UPS).fill(-Infinity);
  private next = 0;
  private isCrowded = false;
  private busyUntil = -Infinity;
  private isBusy = false;

  /** Whether many wake-ups have been heard. */
  get crowded(): boolean {
    return this.isCrowded;
  }

  /** Whether there was much to do when the last wake-up was heard; with tiny jobs also whether there had been. */
  get busy(): boolean {
    return this.isBusy;
  }

  /** Who else is alive, as the last heartbeat has told: those that run the same jobs take turns. */
  setFleet(own: string, peers: readonly Peer[]): void {
    const alike = peers.filter((peer) => peer.alike);
    this.rank = alike.filter(({ id }) => id < own).length;
    this.fleet = alike.length + 1;
  }

  /**
   * This runner's place in the order for what it has heard of, from 0. Counts it, so that it is asked once.
   *
   * @param tiny whether jobs take next to no time; runners of the same jobs come to the same answer
   */
  placeFor({ micros, id }: Position, tiny = false): number {
    this.hear(tiny);
    if (!this.isBusy) return (this.rank + mixed(BigInt(id))) % this.fleet;
    return this.placeInSlice(sliceOf(micros / 1_000, tiny ? LONG_SLICE_MS : SLICE_MS));
  }

  /** In a busy fleet with tiny jobs: milliseconds until this runner is the first. */
  msUntilTurn(nowMicros: number): number {
    const nowMs = nowMicros / 1_000;
    const current = sliceOf(nowMs, LONG_SLICE_MS);
    let slice = current;
    while (slice < current + SLICES_AHEAD && this.placeInSlice(slice) > 0) slice += 1;
    return Math.max(0, slice * LONG_SLICE_MS - nowMs);
  }

  /** This runner has not listened for a while: it takes it that as much has been said as before. */
  missed(): void {
    this.busyUntil = performance.now() + STILL_BUSY_MS;
  }

  private hear(tiny: boolean): void {
    const now = performance.now();
    this.isCrowded = now - this.heardAt[this.next]! < BUSY_MS;
    if (this.isCrowded) this.busyUntil = now + STILL_BUSY_MS;
    this.isBusy = this.isCrowded || (tiny && now < this.busyUntil);
    this.heardAt[this.next] = now;
    this.next = (this.next + 1) % BUSY_WAKE_UPS;
  }

  /** In each round of the fleet every runner has one slice; rounds begin anywhere, so that what comes every second meets others. */
  private placeInSlice(slice: number): number {
    return (this.rank + slice + mixed(BigInt(Math.floor(slice / this.fleet)))) % this.fleet;
  }
}

const sliceOf = (ms: number, sliceMs: number): number => Math.floor(ms / sliceMs);

/** A number that has nothing to do with how far numbers are apart: the finalizer of MurmurHash3. */
function mixed(wide: bigint): number {
  let hash = Number(BigInt.asUintN(32, wide ^ (wide >> 32n)));
  hash = Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2_ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
