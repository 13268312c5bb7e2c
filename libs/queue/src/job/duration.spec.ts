import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { durationMs, MAX_DURATION_MS } from './duration.js';
import { InvalidOptionsError } from './errors.js';

function outcomeOf(work: () => unknown): unknown {
  try {
    return work();
  } catch (error) {
    return error;
  }
}

describe('durationMs', () => {
  it.each<[unknown, number]>([
    [0, 0],
    [1.4, 1],
    ['250ms', 250],
    ['30s', 30_000],
    ['5m', 300_000],
    ['1.5h', 5_400_000],
    ['7d', 604_800_000],
    ['3650d', MAX_DURATION_MS],
  ])('reads %p as %d ms', (given, ms) => {
    expect(durationMs(given, 'delay')).toBe(ms);
  });

  it.each<[unknown]>([
    ['5'],
    ['5 s'],
    [' 5s'],
    ['5S'],
    ['5w'],
    ['-5s'],
    ['1e3s'],
    ['.5s'],
    ['5.s'],
    ['s'],
    [''],
    ['5s5s'],
    [-1],
    [Number.NaN],
    [Infinity],
    [5n],
    [null],
    [undefined],
    [{}],
    [['5s']],
    [new Date(0)],
    ['3651d'],
    [`${'9'.repeat(400)}d`],
    [MAX_DURATION_MS + 1],
  ])('refuses %p, and says what it got and what it wants', (given) => {
    expect(() => durationMs(given, 'delay')).toThrow(InvalidOptionsError);
    expect(() => durationMs(given, 'delay')).toThrow(
      /^Option "delay" is .+ Give milliseconds or a duration such as "30s"/,
    );
  });

  it('holds the limits that its caller sets', () => {
    expect(durationMs('1s', 'timeout', 1_000, 1_000)).toBe(1_000);
    expect(() => durationMs(999, 'timeout', 1_000, 2_000)).toThrow('from 1000 ms to 2000 ms');
    expect(() => durationMs('3s', 'timeout', 1_000, 2_000)).toThrow('from 1000 ms to 2000 ms');
  });

  it('answers a whole number or refuses, whatever the text', () => {
    const property = fc.check(
      fc.property(fc.oneof(fc.string(), fc.double(), fc.stringMatching(/^[\d.]{1,20}(ms|s|m|h|d)$/)), (given) => {
        const ms = outcomeOf(() => durationMs(given, 'delay'));
        const isDuration = Number.isInteger(ms) && Number(ms) >= 0 && Number(ms) <= MAX_DURATION_MS;
        return isDuration || ms instanceof InvalidOptionsError;
      }),
    );
    expect(fc.defaultReportMessage(property)).toBeUndefined();
  });
});
