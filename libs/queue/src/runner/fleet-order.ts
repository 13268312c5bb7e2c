import type { Position } from '../job/job.js';
import type { Peer } from '../statements/runners.js';

/** When so many wake-ups have been heard within so long the fleet is busy. */
const BUSY_WAKE_UPS = 20;
const BUSY_MS = 400;

/** For so long one runner of a busy fleet is the first. When it has no room, or is dead, jobs wait for the next one. */
const SLICE_MICROS = 25_000;

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
  private isBusy = false;

  /** Whether there was much to do when the last wake-up was heard. */
  get busy(): boolean {
    return this.isBusy;
  }

  /** Who else is alive, as the last heartbeat has told: those that run the same jobs take turns. */
  setFleet(own: string, peers: readonly Peer[]): void {
    const alike = peers.filter((peer) => peer.alike);
    this.rank = alike.filter(({ id }) => id < own).length;
    this.fleet = alike.length + 1;
  }

  /** This runner's place in the order for what it has heard of, from 0. Counts it, so that it is asked once. */
  placeFor(position: Position): number {
    this.hear();
    return (this.rank + (this.isBusy ? this.turnOfSlice(position.micros) : mixed(BigInt(position.id)))) % this.fleet;
  }

  private hear(): void {
    const now = performance.now();
    this.isBusy = now - this.heardAt[this.next]! < BUSY_MS;
    this.heardAt[this.next] = now;
    this.next = (this.next + 1) % BUSY_WAKE_UPS;
  }

  /** In each round of the fleet every runner has one slice; rounds begin anywhere, so that what comes every second meets others. */
  private turnOfSlice(micros: number): number {
    const slice = Math.floor(micros / SLICE_MICROS);
    return slice + mixed(BigInt(Math.floor(slice / this.fleet)));
  }
}

/** A number that has nothing to do with how far numbers are apart: the finalizer of MurmurHash3. */
function mixed(wide: bigint): number {
  let hash = Number(BigInt.asUintN(32, wide ^ (wide >> 32n)));
  hash = Math.imul(hash ^ (hash >>> 16), 0x85eb_ca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2_ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
