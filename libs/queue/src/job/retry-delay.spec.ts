import { describe, expect, it } from '@jest/globals';
import { RetryDelay } from './retry-delay.js';

const LIMITS = { minMs: 100, maxMs: 5_000 };

const delays = (delay: RetryDelay, count: number): number[] => Array.from({ length: count }, () => delay.nextMs());

describe('RetryDelay', () => {
  it('doubles from its minimum and never exceeds its maximum, however long the outage', () => {
    const waits = delays(new RetryDelay(LIMITS), 2_000);
    waits.forEach((ms, failures) => {
      const full = Math.min(5_000, 100 * 2 ** failures);
      expect(ms).toBeLessThanOrEqual(full);
      expect(ms).toBeGreaterThanOrEqual(full * 0.75);
    });
  });

  it('is jittered, so that processes that failed together spread', () => {
    const firsts = new Set(Array.from({ length: 20 }, () => new RetryDelay(LIMITS).nextMs()));
    expect(firsts.size).toBeGreaterThan(1);
  });

  it('begins anew after a success', () => {
    const delay = new RetryDelay(LIMITS);
    delays(delay, 10);
    delay.reset();
    expect(delay.nextMs()).toBeLessThanOrEqual(100);
  });

  it('ends its wait when the process stops', async () => {
    const stop = new AbortController();
    const waiting = new RetryDelay({ minMs: 3_600_000, maxMs: 3_600_000 }).wait(stop.signal);
    stop.abort();
    await expect(waiting).resolves.toBeUndefined();
  });
});
