import type { Position } from '../job/job.js';

/** When the 20th wake-up before was so short a time ago the fleet is busy. */
const BUSY_WAKE_UPS = 20;
const BUSY_MICROS = 400_000;

/** For so long one runner of a busy fleet is the first. If it has no room, or is dead, jobs wait as long for the next one. */
const SLICE_MICROS = 25_000;

/** Knuth's multiplier, 2^64 by the golden ratio: its product scatters best in the high bits. */
const GOLDEN = 0x9e37_79b9_7f4a_7c15n;

/** Of a call the first job is told of: under load such ids lie a call's size apart, which shares a factor with many a fleet's. */
const scattered = (turn: bigint): number => Number(BigInt.asUintN(64, turn * GOLDEN) >> 32n);

/**
 * In which order the runners of a fleet look at what they are told of. All hear the same wake-ups in the same order, so that
 * each of them comes to the same turns without a word.
 *
 * While there is little to do each job has a turn of its own, which spreads the jobs over the processes. In a busy fleet
 * one runner is first for a slice of time: its claims are the larger and the fewer for it.
 */
export class FleetOrder {
  private rank = 0;
  private fleet = 1;
  /** Due times of what was told of last, the oldest at `next`. */
  private readonly lately = new Array<number>(BUSY_WAKE_UPS).fill(-Infinity);
  private next = 0;
  /** Whether there was much to do by what was told of last. */
  busy = false;

  /** Who else is alive and runs the same jobs, as the last heartbeat has told. */
  setFleet(own: string, peers: readonly string[]): void {
    this.rank = peers.filter((peer) => peer < own).length;
    this.fleet = peers.length + 1;
  }

  /** This runner's place in the order for what it was told of, from 0. Counts it, so that it is asked once. */
  placeFor({ micros, id }: Position): number {
    const oldest = this.lately[this.next]!;
    this.lately[this.next] = micros;
    this.next = (this.next + 1) % BUSY_WAKE_UPS;
    this.busy = Math.abs(micros - oldest) < BUSY_MICROS;
    const turn = scattered(BigInt(this.busy ? Math.floor(micros / SLICE_MICROS) : id));
    return (this.rank + turn) % this.fleet;
  }
}
