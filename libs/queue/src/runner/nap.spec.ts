import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Nap } from './nap.js';

beforeEach(() => void jest.useFakeTimers({ now: 0 }));
afterEach(() => void jest.useRealTimers());

/** A nap of a runner that is idle or not, and what it has said of listening, and when. */
function napOf(idle: boolean): { nap: Nap; said: (readonly [boolean, number])[] } {
  const said: (readonly [boolean, number])[] = [];
  const nap = new Nap({ idle: () => idle, listen: (listening) => void said.push([listening, Date.now()]) });
  return { nap, said };
}

describe('Nap', () => {
  it('lasts until a little before the turn', async () => {
    const { nap, said } = napOf(true);
    nap.begin(500);
    await jest.advanceTimersByTimeAsync(5_000);
    expect(said).toEqual([
      [false, 0],
      [true, 460],
    ]);
  });

  it('lasts a second at most', async () => {
    const { nap, said } = napOf(true);
    nap.begin(60_000);
    await jest.advanceTimersByTimeAsync(5_000);
    expect(said).toEqual([
      [false, 0],
      [true, 1_000],
    ]);
  });

  it.each([
    ['the turn is near', true, 139],
    ['the turn is now', true, 0],
    ['something runs here, which could be cancelled', false, 500],
  ])('does not begin when %s', (_, idle, turnInMs) => {
    const { nap, said } = napOf(idle);
    nap.begin(turnInMs);
    expect(said).toEqual([]);
    expect(nap.end()).toBe(false);
    expect(jest.getTimerCount()).toBe(0);
  });

  it('does not begin twice', async () => {
    const { nap, said } = napOf(true);
    nap.begin(500);
    nap.begin(900);
    await jest.advanceTimersByTimeAsync(5_000);
    expect(said.length).toBe(2);
  });

  it('ends when it is told to, once, and may begin again', async () => {
    const { nap, said } = napOf(true);
    nap.begin(500);
    expect(nap.end()).toBe(true);
    expect(nap.end()).toBe(false);
    await jest.advanceTimersByTimeAsync(1_000);
    expect(said.length).toBe(2);
    nap.begin(500);
    expect(said.at(-1)).toEqual([false, 1_000]);
  });

  it('leaves no timer, and no word, when it stops', async () => {
    const { nap, said } = napOf(true);
    nap.begin(500);
    nap.stop();
    await jest.advanceTimersByTimeAsync(1_000);
    expect(said).toEqual([[false, 0]]);
  });
});
