import { describe, expect, it } from '@jest/globals';
import { LeaseBook } from './lease-book.js';

describe('LeaseBook', () => {
  it('gives numbers that only go up, also after a lease is gone', () => {
    const book = new LeaseBook(() => []);
    const first = book.open();
    book.close(first);
    expect(book.open()).toBeGreaterThan(first);
  });

  it('reports a claim under way as held and not as filled: its lease may not exist yet', () => {
    const book = new LeaseBook(() => []);
    const lease = book.open();
    expect(book.report('1')).toEqual({ held: [lease], filled: [], highest: lease, started: [] });
    book.fill(lease, 2);
    expect(book.report('1')).toEqual({ held: [lease], filled: [lease], highest: lease, started: [] });
  });

  it('has no lease for a claim without jobs', () => {
    const book = new LeaseBook(() => []);
    const lease = book.open();
    book.fill(lease, 0);
    expect(book.has(lease)).toBe(false);
  });

  it('no longer holds an abandoned claim, whose number it still counts: the heartbeat gives that lease back', () => {
    const book = new LeaseBook(() => []);
    const lease = book.open();
    book.abandon(lease);
    expect(book.report('1')).toMatchObject({ held: [], highest: lease });
  });

  it('names the last unsettled job of a lease, and only that one', () => {
    const book = new LeaseBook(() => []);
    const lease = book.open();
    book.fill(lease, 3);
    expect([book.settling(lease), book.settling(lease), book.settling(lease)]).toEqual([false, false, true]);
  });

  it('says of a lost lease that no job of it is the last', () => {
    const book = new LeaseBook(() => []);
    const lease = book.open();
    book.fill(lease, 1);
    book.close(lease);
    expect(book.settling(lease)).toBe(false);
  });

  it('reports the runs of a runner that have begun and not ended', () => {
    const book = new LeaseBook((runner) => [`of ${runner}`]);
    expect(book.report('1').started).toEqual(['of 1']);
  });

  it('forgets leases when it starts anew, but not the numbers', () => {
    const book = new LeaseBook(() => []);
    const lease = book.open();
    book.fill(lease, 1);
    book.clear();
    expect(book.report('1')).toEqual({ held: [], filled: [], highest: lease, started: [] });
    expect(book.report('1').held).toEqual([]);
  });
});
