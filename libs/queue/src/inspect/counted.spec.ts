import { describe, expect, it } from '@jest/globals';
import { limitFor } from './counted.js';

describe('limitFor', () => {
  it.each([
    [0, 100],
    [1, 10_000],
    [2, 5_000],
    [7, 1_428],
    [50, 200],
    [51, 100],
  ])('lets %i counts go up to %i jobs each', (counts, limit) => {
    expect(limitFor(counts)).toBe(limit);
  });
});
