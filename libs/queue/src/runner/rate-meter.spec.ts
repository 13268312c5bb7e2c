import { describe, expect, it } from '@jest/globals';
import { RateMeter } from './rate-meter.js';

const PREFETCH_MS = 5;
const SLOW_MS = 20;

/** So many jobs of `jobMs` each, ended within `busyMs`. */
function measured(jobs: number, jobMs: number, busyMs: number): RateMeter {
  const meter = new RateMeter(PREFETCH_MS, SLOW_MS);
  meter.begin(0);
  for (let i = 0; i < jobs; i++) meter.end(jobMs);
  meter.ahead(busyMs);
  return meter;
}

describe('RateMeter', () => {
  it('holds nothing ahead until a rate is measured', () => {
    const meter = new RateMeter(PREFETCH_MS, SLOW_MS);
    expect(meter.ahead(0)).toBe(0);
    meter.begin(0);
    for (let i = 0; i < 15; i++) meter.end(0.1);
    expect(meter.ahead(1)).toBe(0);
  });

  it('holds ahead what starts within the prefetch at the measured rate', () => {
    expect(measured(1_000, 0.05, 10).ahead(10)).toBe(500);
  });

  it('holds as many ahead of handlers that take longer than the prefetch', () => {
    expect(measured(1_000, 20, 40).ahead(40)).toBe(125);
  });

  it('holds nothing ahead of slow ones, however many run at once', () => {
    expect(measured(1_000, 20.1, 40).ahead(40)).toBe(0);
  });

  it('holds nothing ahead with a prefetch of 0', () => {
    const meter = new RateMeter(0, 0);
    meter.begin(0);
    for (let i = 0; i < 100; i++) meter.end(0);
    expect(meter.ahead(1)).toBe(0);
  });

  it('takes no burst for a rate: runs that began together end together', () => {
    const meter = new RateMeter(PREFETCH_MS, SLOW_MS);
    for (const wave of [0, 12, 24, 36]) {
      meter.begin(wave);
      for (let i = 1; i <= 32; i++) {
        meter.end(10);
        meter.ahead(wave + 10 + i / 100);
      }
    }
    expect(meter.ahead(46.4)).toBeLessThanOrEqual((32 / 10) * PREFETCH_MS);
  });

  it('forgets the rate when nothing is left to run', () => {
    const meter = measured(1_000, 0.05, 10);
    meter.idle();
    expect(meter.ahead(20)).toBe(0);
  });

  it('follows a rate that changes', () => {
    const meter = measured(1_000, 0.05, 10);
    for (let i = 0; i < 100; i++) meter.end(50);
    expect(meter.ahead(70)).toBe(0);
  });

  it('gives one lane as many jobs as it runs within the prefetch, whatever a few of them took', () => {
    const meter = new RateMeter(PREFETCH_MS, SLOW_MS);
    for (let i = 0; i < 64; i++) meter.end(0.1);
    meter.end(500);
    expect(meter.inTurn()).toBeGreaterThan(30);
  });

  it('gives one lane one job when all of them have become slow', () => {
    const meter = new RateMeter(PREFETCH_MS, SLOW_MS);
    for (let i = 0; i < 64; i++) meter.end(0.01);
    for (let i = 0; i < 200; i++) meter.end(10);
    expect(meter.inTurn()).toBe(1);
  });

  it('knows tiny jobs when it has seen many of them', () => {
    const meter = new RateMeter(PREFETCH_MS, SLOW_MS);
    expect(meter.tiny).toBe(false);
    for (let i = 0; i < 127; i++) meter.end(0.05);
    expect(meter.tiny).toBe(false);
    meter.end(0.05);
    expect(meter.tiny).toBe(true);
  });

  it.each([
    [0.49, true],
    [0.51, false],
  ])('takes jobs of %d ms to be tiny: %s', (jobMs, tiny) => {
    expect(measured(500, jobMs, 10).tiny).toBe(tiny);
  });

  it('takes them to be tiny until they are four times as long', () => {
    const meter = measured(500, 0.1, 10);
    expect(meter.tiny).toBe(true);
    for (let i = 0; i < 1_000; i++) meter.end(1.95);
    expect(meter.tiny).toBe(true);
    for (let i = 0; i < 1_000; i++) meter.end(2.05);
    expect(meter.tiny).toBe(false);
    for (let i = 0; i < 1_000; i++) meter.end(1.95);
    expect(meter.tiny).toBe(false);
  });

  it.each([
    [5, true],
    [3, false],
  ])('takes jobs to be tiny of which one in %d waits for the processor: %s', (every, tiny) => {
    const meter = new RateMeter(PREFETCH_MS, SLOW_MS);
    for (let i = 0; i < 1_000; i++) meter.end(i % every === 0 ? 20 : 0.1);
    expect(meter.tiny).toBe(tiny);
  });

  it('takes them to be tiny while two in three are', () => {
    const meter = measured(500, 0.1, 10);
    for (let i = 0; i < 1_000; i++) meter.end(i % 3 === 0 ? 20 : 0.1);
    expect(meter.tiny).toBe(true);
    for (let i = 0; i < 1_000; i++) meter.end(i % 3 === 0 ? 0.1 : 20);
    expect(meter.tiny).toBe(false);
  });

  it('is not misled by a rest, or by one job that met a hiccup', () => {
    const meter = measured(500, 0.1, 10);
    meter.idle();
    meter.end(1_000);
    expect(meter.tiny).toBe(true);
  });
});
