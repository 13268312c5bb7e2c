import { describe, expect, it } from '@jest/globals';
import type { Position } from '../job/job.js';
import { FleetOrder } from './fleet-order.js';

/** The orders of all runners of a fleet, which know of each other. */
function fleetOf(size: number): FleetOrder[] {
  const ids = numbers(size).map((i) => String(1_000 + i));
  return ids.map((own) => {
    const order = new FleetOrder();
    order.setFleet(
      own,
      ids.filter((other) => other !== own),
    );
    return order;
  });
}

const numbers = (count: number): number[] => Array.from({ length: count }, (_, n) => n);

const placesOf = (fleet: readonly FleetOrder[], position: Position): number[] =>
  fleet.map((order) => order.placeFor(position));

/** Which runner is the first for each of these, of which all are told. */
const firstsOf = (fleet: readonly FleetOrder[], positions: readonly Position[]): number[] =>
  positions.map((position) => placesOf(fleet, position).indexOf(0));

/** So seldom that the fleet has little to do. */
const seldom = (id: number): Position => ({ micros: id * 1_000_000, id: String(id) });

const often = (id: number): Position => ({ micros: id * 1_000, id: String(id) });

describe('FleetOrder', () => {
  it.each([1, 2, 3, 100])('gives each of %d runners a place of its own, whatever the job', (size) => {
    const fleet = fleetOf(size);
    for (const id of [1, 2, 17, 99, 100]) {
      const places = placesOf(fleet, seldom(id));
      expect(places.toSorted((a, b) => a - b)).toEqual(numbers(size));
    }
  });

  it.each([1, 2, 8, 100, 1_000])('shares the first places evenly when ids are %d apart', (step) => {
    const jobs = numbers(1_000).map((n) => ({ micros: n * 1_000_000, id: String(1 + n * step) }));
    const firsts = firstsOf(fleetOf(8), jobs);
    for (const runner of numbers(8)) {
      const share = firsts.filter((first) => first === runner).length;
      expect(share).toBeGreaterThan(0.85 * (jobs.length / 8));
      expect(share).toBeLessThan(1.15 * (jobs.length / 8));
    }
  });

  it('spreads a few jobs that come together', () => {
    const together = numbers(20).map((id) => ({ micros: 5_000_000, id: String(id) }));
    expect(new Set(firstsOf(fleetOf(8), together)).size).toBeGreaterThan(5);
  });

  it('has one first runner for a slice of time in a busy fleet, and gives each its slices', () => {
    const firsts = firstsOf(fleetOf(8), numbers(50_000).map(often)).slice(25);
    const slices = firsts.filter((first, n) => n % 25 === 0 || first !== firsts[n - 1]);
    expect(slices).toHaveLength(1_999);
    for (const runner of numbers(8)) {
      const share = firsts.filter((first) => first === runner).length;
      expect(share).toBeGreaterThan(0.85 * (firsts.length / 8));
      expect(share).toBeLessThan(1.15 * (firsts.length / 8));
    }
  });

  it('spreads jobs again when the fleet has little to do again', () => {
    const fleet = fleetOf(8);
    firstsOf(fleet, numbers(1_000).map(often));
    const fewer = numbers(60).map((n) => ({ micros: 2_000_000 + n * 21_000, id: String(n) }));
    expect(new Set(firstsOf(fleet, fewer).slice(20)).size).toBeGreaterThan(5);
    expect(fleet.map(({ busy }) => busy)).toEqual(fleet.map(() => false));
  });

  it('is the same for a runner that has heard nothing before, after a few wake-ups', () => {
    const fleet = fleetOf(3);
    firstsOf(fleet.slice(0, 2), numbers(1_000).map(often));
    const later = numbers(1_000).map((n) => often(1_000 + n));
    const places = later.map((position) => placesOf(fleet, position).toSorted((a, b) => a - b));
    for (const of of places.slice(20)) expect(of).toEqual([0, 1, 2]);
  });
});
