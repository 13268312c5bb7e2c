import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import {
  BACKOFF_TYPES,
  backoffMs,
  DEFAULT_BACKOFF,
  resolveBackoff,
  type Backoff,
  type BackoffOptions,
} from './backoff.js';
import { InvalidOptionsError } from './errors.js';

const NO_CHANCE = (): number => 0;
const ALL_CHANCE = (): number => 1;

const backoffs = fc
  .record({
    type: fc.constantFrom(...BACKOFF_TYPES),
    baseMs: fc.integer({ min: 0, max: 3_600_000 }),
    factor: fc.double({ min: 1, max: 100, noNaN: true }),
    moreMs: fc.integer({ min: 0, max: 86_400_000 }),
    jitter: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  .map(({ moreMs, ...backoff }): Backoff => ({ ...backoff, maxMs: backoff.baseMs + moreMs }));

describe('backoffMs', () => {
  it('doubles from one second by default', () => {
    expect([1, 2, 3, 4].map((attempt) => backoffMs(DEFAULT_BACKOFF, attempt, NO_CHANCE))).toEqual([
      1_000, 2_000, 4_000, 8_000,
    ]);
  });

  it('never falls below its base by default, and jitters upwards only', () => {
    expect(backoffMs(DEFAULT_BACKOFF, 1, NO_CHANCE)).toBe(1_000);
    expect(backoffMs(DEFAULT_BACKOFF, 1, ALL_CHANCE)).toBe(1_100);
  });

  it('stays at fifteen minutes by default, jitter included', () => {
    expect(backoffMs(DEFAULT_BACKOFF, 30, ALL_CHANCE)).toBe(900_000);
  });

  it('is nothing for a base of nothing, also where the factor’s power has left the numbers', () => {
    const none = resolveBackoff({ base: 0 }, 'backoff');
    expect([1, 1_024, 1_025, 1_000_000].map((attempt) => backoffMs(none, attempt))).toEqual([0, 0, 0, 0]);
  });

  it('waits the same each time when fixed', () => {
    const fixed = resolveBackoff({ type: 'fixed', base: '3s', jitter: 0 }, 'backoff');
    expect([1, 2, 50].map((attempt) => backoffMs(fixed, attempt))).toEqual([3_000, 3_000, 3_000]);
  });

  it('draws from nothing to the exponential value with full jitter', () => {
    const full = resolveBackoff({ type: 'full-jitter', base: 100 }, 'backoff');
    expect(backoffMs(full, 3, NO_CHANCE)).toBe(0);
    expect(backoffMs(full, 3, ALL_CHANCE)).toBe(400);
  });

  it('draws from the base to three times the previous wait when decorrelated', () => {
    const decorrelated = resolveBackoff({ type: 'decorrelated', base: 100 }, 'backoff');
    expect(backoffMs(decorrelated, 4, NO_CHANCE)).toBe(100);
    expect(backoffMs(decorrelated, 1, ALL_CHANCE)).toBe(300);
    expect(backoffMs(decorrelated, 2, ALL_CHANCE)).toBe(900);
  });

  it('is a whole number from 0 to its maximum after any number of failures, whatever its options', () => {
    const property = fc.check(
      fc.property(
        backoffs,
        fc.integer({ min: 1, max: 2_147_483_647 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (b, n, chance) => {
          const ms = backoffMs(b, n, () => chance);
          return Number.isInteger(ms) && ms >= 0 && ms <= b.maxMs;
        },
      ),
    );
    expect(fc.defaultReportMessage(property)).toBeUndefined();
  });

  it('is at least its base for every type but full jitter', () => {
    const property = fc.check(
      fc.property(
        backoffs,
        fc.integer({ min: 1, max: 100 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (b, n, chance) => {
          return b.type === 'full-jitter' || backoffMs(b, n, () => chance) >= b.baseMs;
        },
      ),
    );
    expect(fc.defaultReportMessage(property)).toBeUndefined();
  });
});

describe('resolveBackoff', () => {
  it('takes a bare duration as the base', () => {
    expect(resolveBackoff('5s', 'backoff')).toEqual({ ...DEFAULT_BACKOFF, baseMs: 5_000 });
    expect(resolveBackoff(250, 'backoff')).toEqual({ ...DEFAULT_BACKOFF, baseMs: 250 });
  });

  it('raises the default maximum to a base that exceeds it', () => {
    expect(resolveBackoff('1h', 'backoff').maxMs).toBe(3_600_000);
  });

  it.each<[string, unknown]>([
    ['backoff', null],
    ['backoff', true],
    ['backoff.base', '5 seconds'],
    ['backoff.base', -1],
    ['backoff.base', Number.NaN],
    ['backoff.type', { type: 'linear' }],
    ['backoff.factor', { factor: 0.5 }],
    ['backoff.factor', { factor: 101 }],
    ['backoff.jitter', { jitter: -0.1 }],
    ['backoff.jitter', { jitter: 1.1 }],
    ['backoff.max', { base: '1m', max: '1s' }],
  ])('refuses a wrong %s: %p', (option, given) => {
    const resolve = (): Backoff => resolveBackoff(given as BackoffOptions, 'backoff');
    expect(resolve).toThrow(InvalidOptionsError);
    expect(resolve).toThrow(expect.objectContaining({ option }));
  });
});
