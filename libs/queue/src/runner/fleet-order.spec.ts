import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { Position } from '../job/job.js';
import type { Peer } from '../statements/runners.js';
import { FleetOrder } from './fleet-order.js';

beforeEach(() => void jest.useFakeTimers({ now: 0 }));
afterEach(() => void jest.useRealTimers());

const peer = (id: string, alike = true): Peer => ({ id, alike, beat: 1, ageMs: 0 });

/** The orders of all runners of a fleet, which know of each other. */
function fleetOf(size: number): FleetOrder[] {
  const ids = numbers(size).map((i) => String(1_000 + i));
  return ids.map((own) => {
    const order = new FleetOrder();
    order.setFleet(
      own,
      ids.filter((other) => other !== own).map((id) => peer(id)),
    );
    return order;
  });
}

const numbers = (count: number): number[] => Array.from({ length: count }, (_, n) => n);

const placesOf = (fleet: readonly FleetOrder[], position: Position, tiny = false): number[] =>
  fleet.map((order) => order.placeFor(position, tiny));

/** Which runner is the first for jobs of these ids, of which all are told one after the other when they are due. */
function firstsOf(fleet: readonly FleetOrder[], ids: readonly number[], everyMs: number, tiny = false): number[] {
  return ids.map((id) => {
    jest.advanceTimersByTime(everyMs);
    return placesOf(fleet, { micros: Date.now() * 1_000, id: String(id) }, tiny).indexOf(0);
  });
}

const SELDOM_MS = 1_000;
const OFTEN_MS = 1;

const SIZES = [1, 2, 3, 5, 7, 8, 100];

function expectEven(firsts: readonly number[], runners: number): void {
  for (const runner of numbers(runners)) {
    const share = firsts.filter((first) => first === runner).length;
    expect(share).toBeGreaterThan(0.8 * (firsts.length / runners));
    expect(share).toBeLessThan(1.2 * (firsts.length / runners));
  }
}

describe('FleetOrder', () => {
  it.each(SIZES)('gives each of %d runners a place of its own, whatever the job', (size) => {
    const fleet = fleetOf(size);
    for (const id of [1, 2, 17, 99, 100]) {
      const places = placesOf(fleet, { micros: 1, id: String(id) });
      expect(places.toSorted((a, b) => a - b)).toEqual(numbers(size));
    }
  });

  it.each([2, 3, 5, 8].flatMap((size) => [1, 2, 3, 8, 89, 100, 1_000].map((step) => ({ size, step }))))(
    'shares the first places of $size runners evenly when ids are $step apart',
    ({ size, step }) => {
      const ids = numbers(2_000).map((n) => 1 + n * step);
      expectEven(firstsOf(fleetOf(size), ids, SELDOM_MS), size);
    },
  );

  it.each([2, 3, 5, 8])('spreads a few jobs over %d runners', (size) => {
    const firsts = firstsOf(fleetOf(size), numbers(19), OFTEN_MS);
    expect(new Set(firsts).size).toBeGreaterThan(size / 2);
    expect(longestRun(firsts)).toBeLessThan(8);
  });

  it.each([2, 3, 5, 7, 8])('has one of %d runners be the first of a busy fleet for one slice, or two', (size) => {
    const firsts = firstsOf(fleetOf(size), numbers(20_000), OFTEN_MS).slice(24);
    const withinSlices = firsts.filter((first, n) => n % 25 !== 0 && first !== firsts[n - 1]);
    expect(withinSlices).toEqual([]);
    expect(longestRun(firsts)).toBeLessThanOrEqual(50);
    expectEven(firsts, size);
  });

  it.each([2, 4, 8])('does not give what comes every second to one of %d runners', (size) => {
    const fleet = fleetOf(size);
    const firsts = numbers(200).map(() => {
      jest.setSystemTime(Math.ceil((Date.now() + 1) / 1_000) * 1_000);
      return firstsOf(fleet, numbers(30), 0).at(-1)!;
    });
    for (const runner of numbers(size)) expect(firsts.filter((first) => first === runner).length).toBeGreaterThan(10);
  });

  it('spreads jobs again when the fleet has little to do again', () => {
    const fleet = fleetOf(8);
    firstsOf(fleet, numbers(1_000), OFTEN_MS);
    expect(fleet.map(({ busy }) => busy)).toEqual(fleet.map(() => true));
    firstsOf(fleet, numbers(20), 21);
    expect(fleet.map(({ busy }) => busy)).toEqual(fleet.map(() => false));
  });

  it.each([2, 3, 5, 7, 8])('gives each of %d runners longer slices when jobs are tiny', (size) => {
    const firsts = firstsOf(fleetOf(size), numbers(40_000), OFTEN_MS, true).slice(199);
    expect(firsts.filter((first, n) => n % 200 !== 0 && first !== firsts[n - 1])).toEqual([]);
    expect(longestRun(firsts)).toBeLessThanOrEqual(400);
    expectEven(firsts, size);
  });

  it.each([1, 2, 3, 8, 10])('tells each of %d runners of tiny jobs when its turn is', (size) => {
    const fleet = fleetOf(size);
    firstsOf(fleet, numbers(30), OFTEN_MS, true);
    for (let turn = 0; turn < 20; turn++) {
      jest.advanceTimersByTime(137);
      for (const order of fleet) {
        order.missed();
        const placeIn = (ms: number): number => order.placeFor({ micros: (Date.now() + ms) * 1_000, id: '1' }, true);
        const untilMs = order.msUntilTurn(Date.now() * 1_000);
        // It does not look further ahead.
        expect(untilMs < 1_800 ? untilMs : -1).toBe(numbers(1_800).findIndex((ms) => placeIn(ms) === 0));
      }
    }
  });

  it('keeps long slices for a while, in which those come back that have not listened', () => {
    const fleet = fleetOf(8);
    const busy = (): boolean[] => fleet.map((order) => order.busy);
    firstsOf(fleet, numbers(100), OFTEN_MS, true);
    firstsOf(fleet, numbers(10), 149, true);
    expect(busy()).toEqual(fleet.map(() => true));
    fleet[3]!.missed();
    firstsOf(fleet, numbers(10), 149, true);
    expect(busy()).toEqual(fleet.map((_, runner) => runner === 3));
    firstsOf(fleet, numbers(2), 149, true);
    expect(busy()).toEqual(fleet.map(() => false));
  });

  it('is the same for a runner that has heard nothing before, after a few wake-ups', () => {
    const fleet = fleetOf(3);
    firstsOf(fleet.slice(0, 2), numbers(1_000), OFTEN_MS);
    const firsts = firstsOf(fleet, numbers(1_000), OFTEN_MS);
    expect(firsts.slice(20)).not.toContain(-1);
  });

  it('takes turns with runners of the same jobs only', () => {
    const order = new FleetOrder();
    const places = (): number[] => numbers(100).map((id) => order.placeFor({ micros: id * 25_000, id: String(id) }));
    order.setFleet('5', [peer('1', false), peer('9', false)]);
    expect(new Set(places())).toEqual(new Set([0]));
    order.setFleet('5', [peer('1', false), peer('9')]);
    expect(new Set(places())).toEqual(new Set([0, 1]));
  });
});

function longestRun(firsts: readonly number[]): number {
  let [longest, run] = [0, 0];
  for (const [n, first] of firsts.entries()) {
    run = first === firsts[n - 1] ? run + 1 : 1;
    longest = Math.max(longest, run);
  }
  return longest;
}
