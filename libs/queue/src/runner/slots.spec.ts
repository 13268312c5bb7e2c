import { describe, expect, it } from '@jest/globals';
import type { RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import { Slots } from './slots.js';

const job = (id: number): ClaimedJob => ({ id: String(id) }) as ClaimedJob;
const handler = (concurrency: number | null = null): RegisteredHandler =>
  ({ concurrency, isolation: null }) as RegisteredHandler;
const jobs = (count: number): ClaimedJob[] => Array.from({ length: count }, (_, id) => job(id));

function filled(count: number, settings = { min: 2, max: 4, prefetchMs: 0, maxTransactions: 8 }): Slots {
  const slots = new Slots(settings);
  for (const one of jobs(count)) slots.take(one, handler());
  return slots;
}

describe('Slots', () => {
  it('wants as many as bring it to the maximum while fewer than the minimum run', () => {
    expect(filled(0).demand(0, true)).toEqual({ limit: 4, slots: 4, run: 1 });
    expect(filled(1).demand(0, true)).toEqual({ limit: 3, slots: 3, run: 1 });
  });

  it('wants nothing from the minimum on', () => {
    expect(filled(2).demand(0, true)).toEqual({ limit: 0, slots: 0, run: 0 });
  });

  it('never runs more than the maximum', () => {
    const slots = filled(6);
    const started = [1, 2, 3, 4, 5, 6].map(() => slots.start(0)?.id);
    expect(started).toEqual(['0', '1', '2', '3', undefined, undefined]);
    expect(slots.runningCount).toBe(4);
    slots.end(handler(), 1);
    expect(slots.start(0)?.id).toBe('4');
  });

  it('claims at most what one lease holds', () => {
    expect(filled(0, { min: 10_000, max: 10_000, prefetchMs: 0, maxTransactions: 8 }).demand(0, true).limit).toBe(500);
  });

  it('takes jobs ahead at the measured rate, beyond the slots', () => {
    const slots = new Slots({ min: 2, max: 2, prefetchMs: 5, maxTransactions: 8 });
    for (const one of jobs(64)) slots.take(one, handler());
    for (let i = 0; i < 32; i++) {
      slots.start(0);
      slots.end(handler(), 0.1);
    }
    slots.withdraw(
      () => true,
      () => handler(),
    );
    expect(slots.demand(3.2, true)).toEqual({ limit: 77, slots: 2, run: 50 });
    expect(slots.demand(3.2, false)).toEqual({ limit: 2, slots: 2, run: 50 });
  });

  it.each([
    ['takes jobs ahead of transactions that take as long as commits do', 12, true],
    ['takes none ahead of slow transactions', 60, false],
  ])('%s, beside nearly as many connections as slots', (_, durationMs, takesAhead) => {
    const slots = new Slots({ min: 16, max: 32, prefetchMs: 5, maxTransactions: 30 });
    const transactional = { concurrency: null, isolation: 'READ COMMITTED' } as RegisteredHandler;
    const startedAt = performance.now();
    for (const one of jobs(60)) slots.take(one, transactional);
    for (let i = 0; i < 60; i++) {
      slots.start(startedAt);
      slots.end(transactional, durationMs);
    }
    for (const one of jobs(30)) slots.take(one, transactional);
    for (let i = 0; i < 30; i++) slots.start(startedAt);
    expect(slots.demand(startedAt + 30, true).limit > 0).toBe(takesAhead);
  });

  it('gives a suspect the next free slot, before what was taken ahead', () => {
    const slots = filled(3);
    slots.start(0);
    slots.take({ ...job(9), suspect: true }, handler());
    expect([slots.start(0)?.id, slots.start(0)?.id]).toEqual(['9', '1']);
  });

  it('takes back only what has not started', () => {
    const slots = filled(4);
    slots.start(0);
    expect(
      slots
        .withdraw(
          ({ id }) => id !== '2',
          () => handler(),
        )
        .map(({ id }) => id),
    ).toEqual(['1', '3']);
    expect(slots.aheadCount).toBe(1);
    expect(slots.start(0)?.id).toBe('2');
    expect(slots.runningCount).toBe(2);
  });

  it('counts taken and running jobs of a handler with a limit of its own', () => {
    const slots = new Slots({ min: 8, max: 8, prefetchMs: 0, maxTransactions: 8 });
    const limited = handler(2);
    expect(slots.room(limited)).toBe(2);
    slots.take(job(1), limited);
    slots.take(job(2), limited);
    expect(slots.room(limited)).toBe(0);
    slots.start(0);
    slots.end(limited, 1);
    expect(slots.room(limited)).toBe(1);
    slots.withdraw(
      () => true,
      () => limited,
    );
    expect(slots.room(limited)).toBe(2);
    expect(slots.room(handler())).toBe(Infinity);
  });
});
