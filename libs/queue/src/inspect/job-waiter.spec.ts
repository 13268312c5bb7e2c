import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Subject } from 'rxjs';
import { DatabaseUnavailableError, QueueClosedError } from '../job/errors.js';
import { JobDeadError, JobNotFoundError, WaitTimeoutError } from '../job/control-errors.js';
import type { QueueEvent } from '../job/events.js';
import type { JobId } from '../job/job.js';
import type { EndedJobRow } from '../statements/wait-for.js';
import { JobWaiter } from './job-waiter.js';

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

const completed = (id: JobId, result: string | null = null): EndedJobRow => ({
  ...{ id, state: 'completed', result, reason: null, lastError: null },
});

/** A waiter on a table of ended jobs, and when it looked for which. */
function setUp() {
  const ended = new Map<JobId, EndedJobRow>();
  const looks: { readonly at: number; readonly ids: readonly JobId[] }[] = [];
  const events = new Subject<QueueEvent>();
  const table = {
    look: async (ids: readonly JobId[]): Promise<EndedJobRow[]> => ids.flatMap((id) => ended.get(id) ?? []),
  };
  const begun = Date.now();
  const waiter = new JobWaiter((ids) => {
    looks.push({ at: Date.now() - begun, ids });
    return table.look(ids);
  }, events);
  const tell = (type: 'completed' | 'started', id: JobId): void =>
    events.next({ ...{ type, id, channel: 'c', key: '', name: 'n', attempt: 1, durationMs: 1 } });
  return { waiter, ended, looks, events, table, tell };
}

/** What comes of a wait, told as soon as it is over. */
function watch(wait: Promise<unknown>): { outcome?: unknown } {
  const seen: { outcome?: unknown } = {};
  void wait.then(
    (result) => (seen.outcome = result),
    (error: unknown) => (seen.outcome = error),
  );
  return seen;
}

describe('JobWaiter', () => {
  it('looks soon at first, then more and more rarely, and once a second in the end', async () => {
    const { waiter, ended, looks } = setUp();
    const seen = watch(waiter.waitFor('1'));
    await jest.advanceTimersByTimeAsync(10_000);
    const gaps = looks.slice(1).map(({ at }, index) => at - looks[index]!.at);
    expect(looks[0]!.at).toBeLessThanOrEqual(1);
    expect(gaps.slice(0, 7)).toEqual([25, 50, 100, 200, 400, 800, 1_000]);
    expect(new Set(gaps.slice(6))).toEqual(new Set([1_000]));
    ended.set('1', completed('1', '{"total":3}'));
    await jest.advanceTimersByTimeAsync(1_000);
    expect(seen.outcome).toEqual({ total: 3 });
  });

  it('looks for everybody at once, and for nobody twice', async () => {
    const { waiter, looks } = setUp();
    for (const id of ['1', '2', '2', '3']) watch(waiter.waitFor(id));
    await jest.advanceTimersByTimeAsync(1);
    expect(looks.map(({ ids }) => ids)).toEqual([['1', '2', '3']]);
    await waiter.close();
  });

  it('begins anew with short waits for whoever comes later', async () => {
    const { waiter, ended, looks } = setUp();
    watch(waiter.waitFor('1'));
    await jest.advanceTimersByTimeAsync(10_000);
    const before = looks.length;
    const seen = watch(waiter.waitFor('2'));
    await jest.advanceTimersByTimeAsync(1);
    expect(looks.slice(before).map(({ ids }) => ids)).toEqual([['1', '2']]);
    ended.set('2', completed('2'));
    await jest.advanceTimersByTimeAsync(25);
    expect(seen).toEqual({ outcome: undefined });
    await waiter.close();
  });

  it('has no timer, and hears no event, when nobody waits', async () => {
    const { waiter, ended, looks, events } = setUp();
    ended.set('1', completed('1'));
    await Promise.all([waiter.waitFor('1', { timeout: '1h' }), jest.advanceTimersByTimeAsync(1)]);
    expect(jest.getTimerCount()).toBe(0);
    expect(events.observed).toBe(false);
    await jest.advanceTimersByTimeAsync(60_000);
    expect(looks).toHaveLength(1);
  });

  it('looks at once when a run of the job has ended in this process, and not for other jobs or events', async () => {
    const { waiter, ended, looks, tell } = setUp();
    const seen = watch(waiter.waitFor('1'));
    await jest.advanceTimersByTimeAsync(10_000);
    const before = looks.length;
    tell('completed', '2');
    tell('started', '1');
    await jest.advanceTimersByTimeAsync(1);
    expect(looks).toHaveLength(before);
    ended.set('1', completed('1', '"done"'));
    tell('completed', '1');
    await jest.advanceTimersByTimeAsync(1);
    expect(seen.outcome).toBe('done');
  });

  it('looks again when the event came during a look, whose snapshot is older', async () => {
    const { waiter, ended, table, tell } = setUp();
    let answer!: (rows: EndedJobRow[]) => void;
    const look = table.look;
    table.look = () => new Promise((resolve) => (answer = resolve));
    const seen = watch(waiter.waitFor('1'));
    await jest.advanceTimersByTimeAsync(1);
    ended.set('1', completed('1', '5'));
    tell('completed', '1');
    table.look = look;
    answer([]);
    await jest.advanceTimersByTimeAsync(1);
    expect(seen.outcome).toBe(5);
  });

  it('tells a result that is null from none', async () => {
    const { waiter, ended } = setUp();
    ended.set('1', completed('1', 'null'));
    ended.set('2', completed('2'));
    const results = Promise.all([waiter.waitFor('1'), waiter.waitFor('2')]);
    await jest.advanceTimersByTimeAsync(1);
    expect(await results).toEqual([null, undefined]);
  });

  it('rejects for a job that is dead, or nowhere', async () => {
    const { waiter, ended } = setUp();
    ended.set('1', { id: '1', state: 'dead', result: null, reason: 'exhausted', lastError: 'Error: no\n    at x' });
    ended.set('2', { id: '2', state: null, result: null, reason: null, lastError: null });
    const seen = ['1', '2'].map((id) => watch(waiter.waitFor(id)));
    await jest.advanceTimersByTimeAsync(1);
    expect(seen[0]!.outcome).toBeInstanceOf(JobDeadError);
    expect(seen[0]!.outcome).toMatchObject({ jobId: '1', reason: 'exhausted', lastError: 'Error: no\n    at x' });
    expect((seen[0]!.outcome as Error).message).toContain('(exhausted): Error: no.');
    expect(seen[1]!.outcome).toBeInstanceOf(JobNotFoundError);
    expect((seen[1]!.outcome as Error).message).toContain('`retention`');
  });

  it('gives up at the timeout of each wait, and goes on for the others', async () => {
    const { waiter, ended } = setUp();
    const [first, second] = [watch(waiter.waitFor('1', { timeout: 70 })), watch(waiter.waitFor('1'))];
    await jest.advanceTimersByTimeAsync(100);
    expect(first.outcome).toBeInstanceOf(WaitTimeoutError);
    expect(first.outcome).toMatchObject({ jobId: '1', timeoutMs: 70 });
    expect(second).toEqual({});
    ended.set('1', completed('1', '1'));
    await jest.advanceTimersByTimeAsync(1_000);
    expect(second.outcome).toBe(1);
  });

  it('gives up when the signal aborts, with its reason, also one that has aborted before', async () => {
    const { waiter, looks } = setUp();
    const controller = new AbortController();
    const seen = watch(waiter.waitFor('1', { signal: controller.signal }));
    await jest.advanceTimersByTimeAsync(1);
    const reason = new Error('the client went away');
    controller.abort(reason);
    await jest.advanceTimersByTimeAsync(0);
    expect(seen.outcome).toBe(reason);
    expect(jest.getTimerCount()).toBe(0);
    const before = looks.length;
    await expect(waiter.waitFor('1', { signal: controller.signal })).rejects.toBe(reason);
    expect(looks).toHaveLength(before);
  });

  it('outlasts a database that is away for a while, and no other error', async () => {
    const { waiter, ended, table } = setUp();
    const { look } = table;
    table.look = () => Promise.reject(new DatabaseUnavailableError({ cause: new Error('gone') }));
    const seen = watch(waiter.waitFor('1'));
    await jest.advanceTimersByTimeAsync(5_000);
    expect(seen).toEqual({});
    ended.set('1', completed('1', '1'));
    table.look = look;
    await jest.advanceTimersByTimeAsync(1_000);
    expect(seen.outcome).toBe(1);

    const error = new Error('permission denied for table job');
    table.look = () => Promise.reject(error);
    const other = watch(waiter.waitFor('2'));
    await jest.advanceTimersByTimeAsync(1);
    expect(other.outcome).toBe(error);
    expect(jest.getTimerCount()).toBe(0);
  });

  it('ends at the shutdown: one last look, then QueueClosedError, also for later waits', async () => {
    const { waiter, ended } = setUp();
    const seen = ['1', '2'].map((id) => watch(waiter.waitFor(id)));
    await jest.advanceTimersByTimeAsync(5_000);
    ended.set('1', completed('1', '1'));
    await waiter.close();
    await jest.advanceTimersByTimeAsync(0);
    expect(seen[0]!.outcome).toBe(1);
    expect(seen[1]!.outcome).toBeInstanceOf(QueueClosedError);
    await expect(waiter.waitFor('3')).rejects.toThrow(QueueClosedError);
    expect(jest.getTimerCount()).toBe(0);
  });

  it('ends at the shutdown also when the database does not answer', async () => {
    const { waiter, table } = setUp();
    table.look = () => new Promise(() => undefined);
    const seen = watch(waiter.waitFor('1'));
    await jest.advanceTimersByTimeAsync(1);
    const closing = waiter.close();
    await jest.advanceTimersByTimeAsync(5_000);
    await closing;
    expect(seen.outcome).toBeInstanceOf(QueueClosedError);
  });
});
