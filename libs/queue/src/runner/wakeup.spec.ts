import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Wakeup } from './wakeup.js';

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

describe('Wakeup', () => {
  it('keeps a signal that came while nobody waited, once', async () => {
    const wakeup = new Wakeup();
    wakeup.signal();
    await wakeup.wait(null);
    let woken = false;
    void wakeup.wait(null).then(() => (woken = true));
    await jest.advanceTimersByTimeAsync(86_400_000);
    expect(woken).toBe(false);
    wakeup.signal();
    await jest.advanceTimersByTimeAsync(0);
    expect(woken).toBe(true);
  });

  it('wakes by itself at the due time, and leaves no timer', async () => {
    const wakeup = new Wakeup();
    let woken = false;
    void wakeup.wait(500).then(() => (woken = true));
    await jest.advanceTimersByTimeAsync(499);
    expect(woken).toBe(false);
    await jest.advanceTimersByTimeAsync(1);
    expect(woken).toBe(true);
    void wakeup.wait(500);
    wakeup.signal();
    await jest.advanceTimersByTimeAsync(0);
    expect(jest.getTimerCount()).toBe(0);
  });

  it('can wait for years without the timer running off at once', async () => {
    const wakeup = new Wakeup();
    let woken = false;
    void wakeup.wait(10 * 365 * 86_400_000).then(() => (woken = true));
    await jest.advanceTimersByTimeAsync(60_000);
    expect(woken).toBe(false);
    wakeup.signal();
  });
});
