import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { BatchSizer } from './batch-sizer.js';

const after = (most: number, steps: (sizer: BatchSizer) => void): number => {
  const sizer = new BatchSizer(most);
  steps(sizer);
  return sizer.size;
};

describe('BatchSizer', () => {
  it('begins with what the handler says', () => expect(after(8, () => undefined)).toBe(8));

  it('shrinks to what was processed before a failure, and doubles with each success: 8, 3, 6, 8', () => {
    const sizer = new BatchSizer(8);
    sizer.failed(3);
    const sizes = [sizer.size];
    for (let success = 0; success < 3; success++) {
      sizer.succeeded();
      sizes.push(sizer.size);
    }
    expect(sizes).toEqual([3, 6, 8, 8]);
  });

  it('shrinks to one when nobody knows how much was processed', () => expect(after(8, (s) => s.failed(null))).toBe(1));

  it('shrinks to one when nothing was processed', () => expect(after(8, (s) => s.failed(0))).toBe(1));

  it.each([9, 8, 1_000])('never grows by a failure: %d of 8 processed', (processed) =>
    expect(after(8, (s) => s.failed(processed))).toBe(8),
  );

  it('stays at one where the handler says one', () => {
    expect(after(1, (s) => s.failed(0))).toBe(1);
    expect(after(1, (s) => s.succeeded())).toBe(1);
  });

  it('is from one to what the handler says, whatever happens', () => {
    const step = fc.option(fc.integer({ min: -5, max: 2_000 }), { nil: undefined });
    const property = fc.check(
      fc.property(fc.integer({ min: 1, max: 500 }), fc.array(fc.tuple(fc.boolean(), step)), (most, steps) => {
        const sizer = new BatchSizer(most);
        return steps.every(([success, processed]) => {
          if (success) sizer.succeeded();
          else sizer.failed(processed ?? null);
          return Number.isInteger(sizer.size) && sizer.size >= 1 && sizer.size <= most;
        });
      }),
    );
    expect(fc.defaultReportMessage(property)).toBeUndefined();
  });
});
