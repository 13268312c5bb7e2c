import { describe, expect, it } from '@jest/globals';
import { MAX_PARTITIONS, partitionOf } from './partition.js';

describe('partitionOf', () => {
  it.each([
    ['', 4, 0],
    ['customer 4711', 4, 1],
    ['customer 4711', 7, 3],
    ['Zürich 🚲', 1_024, 991],
  ])('is the same for ever: %j of %d', (key, partitions, partition) => {
    expect(partitionOf(key, partitions)).toBe(partition);
  });

  it('is the only one where there is one', () => {
    expect(partitionOf('anything', 1)).toBe(0);
  });

  it.each([2, 3, 64, MAX_PARTITIONS])('spreads keys evenly over %d partitions', (partitions) => {
    const counts = new Array<number>(partitions).fill(0);
    for (let key = 0; key < partitions * 100; key++) counts[partitionOf(`customer ${key}`, partitions)]! += 1;
    expect(Math.min(...counts)).toBeGreaterThan(50);
    expect(Math.max(...counts)).toBeLessThan(170);
  });
});
