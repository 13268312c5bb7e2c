import { beforeEach, describe, expect, it } from '@jest/globals';
import {
  InvalidOptionsError,
  JobCancelledError,
  JobNotFoundError,
  RejectJob,
  RetryAfter,
  SnoozeJob,
  TransactionConflictError,
  type HandlerOptions,
  type Job,
} from 'nestmq';
import { POLLING_OFF, startApp, type TestApp, type TestAppOptions } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { laneWith, upTo } from './support/lanes.js';
import { recordSql } from './support/sql-log.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, untilAborted, workWith, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const drained = (): Promise<boolean> => untilDone(tables);

async function startWork(
  behaviour: Behaviour = () => undefined,
  options: HandlerOptions = {},
  queue: TestAppOptions['queue'] = {},
) {
  const Worker = workWith({ backoff: { type: 'fixed', base: 1, jitter: 0 }, ...options }, behaviour);
  const app = await startApp({ ...database, queue: { ...POLLING_OFF, ...queue }, providers: [Worker] });
  return { app, work: app.get(Worker) };
}

/** One that runs nothing. */
const startSender = (queue: TestAppOptions['queue'] = {}): Promise<TestApp> =>
  startApp({ ...database, queue: { runner: false, ...queue }, providers: [workWith()] });

/** Sends a job and waits until it runs. */
async function running({ app, work }: Awaited<ReturnType<typeof startWork>>, payload: unknown = null): Promise<string> {
  const { id } = await app.jobs.spawn('work', payload);
  await until(() => work.runs.some((run) => run.id === id), { what: 'it runs' });
  return id;
}

const ended = (app: TestApp, state: string, id: string): Promise<boolean> =>
  until(async () => (await app.queue.get(id))?.state === state, { what: `job ${id} is ${state}` });

describe('queue.cancel of a job that has not started', () => {
  it.each([
    ['ready', {}],
    ['scheduled', { delay: '1h' }],
    ['with a key', { key: 'k' }],
    ['held', { hold: '1h' }],
    ['ordered', { ordered: true, key: 'k' }],
    ['ordered and held', { ordered: true, hold: '1h' }],
  ] as const)(
    'and is %s cancels it at once, with the reason, and it is kept for `finishedRetention`',
    async (_, options) => {
      const sender = await startSender({ finishedRetention: '2d' });
      const { id } = await sender.jobs.spawn('work', { n: 1 }, options);
      expect(await sender.queue.cancel(id, { reason: 'not wanted' })).toEqual({
        outcome: 'cancelled',
        state: 'cancelled',
      });
      expect(await sender.queue.get(id)).toMatchObject({
        ...{
          state: 'cancelled',
          reason: 'not wanted',
          attempts: 0,
          payload: { n: 1 },
          seq: null,
          cancelRequested: false,
        },
        finishedAt: expect.any(Date),
      });
      expect(
        await tables.number(`SELECT count(*) FROM nestmq.finished_job WHERE delete_at > now() + interval '47 hours'`),
      ).toBe(1);
      expect(sender.events).toEqual([
        {
          type: 'cancelled',
          id,
          channel: 'work',
          key: expect.any(String),
          name: 'work',
          attempt: 0,
          reason: 'not wanted',
        },
      ]);
      await sender.close();

      const { app, work } = await startWork();
      const marker = await app.jobs.spawn('work', 'marker');
      await until(() => work.runs.some((run) => run.id === marker.id), { what: 'a later job has run' });
      await drained();
      expect(work.runs).toHaveLength(1);
      await app.close();
    },
  );

  it('and waits for a retry ends it with its last error', async () => {
    const started = await startWork(() => {
      throw new RetryAfter('1h', 'the server is away');
    });
    const { app } = started;
    const { id } = await app.jobs.spawn('work', null);
    await until(() => app.events.some(({ type }) => type === 'retrying'), { what: 'it waits for its retry' });
    expect(await app.queue.cancel(id)).toMatchObject({ outcome: 'cancelled' });
    expect(await app.queue.get(id)).toMatchObject({
      state: 'cancelled',
      attempts: 1,
      reason: null,
      lastError: expect.stringContaining('away'),
    });
    await app.close();
  });

  it('and is held lets no commit bring it back', async () => {
    const sender = await startSender();
    const reservation = await sender.jobs.spawn('work', null, { hold: '1h' });
    await sender.queue.cancel(reservation.id);
    expect(await sender.jobs.commit([reservation])).toEqual([]);
    await sender.close();
  });
});

describe('queue.cancel of a job that runs', () => {
  it('aborts its signal with a JobCancelledError, and it ends cancelled and is never run again', async () => {
    const started = await startWork(untilAborted);
    const { app, work } = started;
    const id = await running(started);
    expect(await app.queue.cancel(id, { reason: 'not wanted' })).toEqual({ outcome: 'requested', state: 'running' });
    expect(work.runs[0]!.signal.reason).toBeInstanceOf(JobCancelledError);
    expect(work.runs[0]!.signal.reason).toMatchObject({ code: 'job_cancelled', jobId: id, reason: 'not wanted' });
    await ended(app, 'cancelled', id);
    expect(await app.queue.get(id)).toMatchObject({
      reason: 'not wanted',
      attempts: 1,
      lastError: expect.stringContaining('not wanted'),
    });
    await drained();
    expect(work.runs).toHaveLength(1);
    expect(app.events).toContainEqual({
      type: 'cancelled',
      id,
      channel: 'work',
      key: '',
      name: 'work',
      attempt: 1,
      reason: 'not wanted',
    });
    await app.close();
  });

  it('is shown while it has not ended, and the first reason stays', async () => {
    const { opened, open } = gate();
    const started = await startWork(() => opened.then(() => Promise.reject(new Error('broken'))));
    const { app } = started;
    const id = await running(started);
    expect(await app.queue.get(id)).toMatchObject({ state: 'running', cancelRequested: false });
    await app.queue.cancel(id, { reason: 'first' });
    expect(await app.queue.get(id)).toMatchObject({ state: 'running', cancelRequested: true });
    expect(await app.queue.cancel(id, { reason: 'second' })).toMatchObject({ outcome: 'requested' });
    open();
    await ended(app, 'cancelled', id);
    expect(await app.queue.get(id)).toMatchObject({ reason: 'first' });
    await app.close();
  });

  it.each([
    ['an error', () => new Error('broken'), 4],
    ['an error on its last attempt', () => new Error('broken'), 0],
    ['RejectJob', () => new RejectJob('no'), 4],
    ['RetryAfter', () => new RetryAfter('1h'), 4],
    ['SnoozeJob', () => new SnoozeJob('1h'), 4],
  ])('ends it cancelled, whatever it throws then: %s', async (_, errorOf, retries) => {
    const started = await startWork((job) => untilAborted(job).catch(() => Promise.reject(errorOf())), { retries });
    const { app, work } = started;
    const id = await running(started);
    await app.queue.cancel(id);
    await ended(app, 'cancelled', id);
    await drained();
    expect(work.runs).toHaveLength(1);
    expect(app.events.filter(({ type }) => type === 'dead' || type === 'retrying')).toEqual([]);
    await app.close();
  });

  it.each([
    ['an error', () => new Error('broken'), 4],
    ['an error on its last attempt', () => new Error('broken'), 0],
    ['RejectJob', () => new RejectJob('no'), 4],
    ['SnoozeJob', () => new SnoozeJob('1h'), 4],
  ])('ends it cancelled also when its process has not heard of it: %s', async (_, errorOf, retries) => {
    const { opened, open } = gate();
    const started = await startWork(() => opened.then(() => Promise.reject(errorOf())), {
      retries,
      onError: () => void told.push('hook'),
    });
    const told: string[] = [];
    const { app, work } = started;
    const id = await running(started);
    await tables.sql(`UPDATE nestmq.job SET cancel_requested_at = now(), cancel_reason = 'by hand'`);
    open();
    await ended(app, 'cancelled', id);
    await drained();
    expect(await app.queue.get(id)).toMatchObject({ reason: 'by hand' });
    expect(work.runs).toHaveLength(1);
    expect(app.events.at(-1)).toMatchObject({ type: 'cancelled', id, reason: 'by hand' });
    expect(told).toEqual([]);
    await app.close();
  });

  it.each([
    ['returns', async () => undefined],
    ['completes it', (job: Job) => job.complete()],
  ])('tells the truth when its handler succeeds all the same: it %s', async (_, succeed) => {
    const started = await startWork((job) => untilAborted(job).catch(() => succeed(job)), { retention: '1h' });
    const { app } = started;
    const id = await running(started);
    expect(await app.queue.cancel(id)).toMatchObject({ outcome: 'requested' });
    await ended(app, 'completed', id);
    expect(await app.queue.get(id)).toMatchObject({ reason: null });
    expect(app.events.filter(({ type }) => type === 'cancelled')).toEqual([]);
    await app.close();
  });

  it('ends it cancelled when its own transaction of the completion rolled back', async () => {
    const started = await startWork((job) =>
      untilAborted(job).catch(() =>
        started.app.dataSource.transaction(async (manager) => {
          await job.complete({ manager });
          throw new Error('rolled back');
        }),
      ),
    );
    const { app } = started;
    const id = await running(started);
    await app.queue.cancel(id);
    await ended(app, 'cancelled', id);
    expect(app.events.filter(({ type }) => type === 'completed')).toEqual([]);
    await app.close();
  });

  it('rolls back what a transactional handler has written, and ends it cancelled', async () => {
    await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint)');
    const started = await startWork(
      async (job) => {
        await job.manager.query('INSERT INTO effect VALUES ($1)', [job.id]);
        await untilAborted(job);
      },
      { transactional: true },
    );
    const { app, work } = started;
    const id = await running(started);
    await app.queue.cancel(id, { reason: 'not wanted' });
    await ended(app, 'cancelled', id);
    await drained();
    expect(work.runs).toHaveLength(1);
    expect(await tables.number('SELECT count(*) FROM effect')).toBe(0);
    await app.close();
  });

  it('waits for a transaction of its handler that has it locked, and says what became of it', async () => {
    const { opened, open } = gate();
    const inTransaction = gate();
    const started = await startWork((job) =>
      started.app.dataSource.transaction(async (manager) => {
        await job.complete({ manager });
        inTransaction.open();
        await opened;
      }),
    );
    const { app } = started;
    const id = await running(started);
    await inTransaction.opened;
    const sent = recordSql();
    const cancelling = app.queue.cancel(id);
    const looks = (): number => sent.filter((text) => text.includes('AS wanted (id)')).length;
    await until(() => looks() > 1, { what: 'it was refused the row, and looks for the job again' });
    open();
    // The handler keeps no result: nothing is left of the job but that it was completed.
    expect(await cancelling).toEqual({ outcome: 'already finished', state: 'completed' });
    await drained();
    await app.close();
  });

  it('gives up after some time when such a transaction does not end', async () => {
    const { opened, open } = gate();
    const inTransaction = gate();
    const started = await startWork((job) =>
      started.app.dataSource.transaction(async (manager) => {
        await job.checkpoint({ payload: 1 }, { manager });
        inTransaction.open();
        await opened;
      }),
    );
    const { app } = started;
    const id = await running(started);
    await inTransaction.opened;
    await expect(app.queue.cancel(id)).rejects.toThrow(TransactionConflictError);
    open();
    await drained();
    await app.close();
  });

  it('reaches a run by queue.runOne', async () => {
    const Worker = workWith({}, untilAborted);
    const app = await startApp({ ...database, queue: { runner: false }, providers: [Worker] });
    const { id } = await app.jobs.spawn('work', null);
    const run = app.queue.runOne();
    await until(() => app.get(Worker).runs.length, { what: 'it runs' });
    expect(await app.queue.cancel(id, { reason: 'enough' })).toMatchObject({ outcome: 'requested' });
    expect(await run).toMatchObject({ id, outcome: 'cancelled', reason: 'enough' });
    await app.close();
  });

  it('ends it cancelled when it has outlived a lease with an end', async () => {
    const { opened, open } = gate();
    const started = await startWork(() => opened, { keepAlive: false }, { leaseMs: 1_000 });
    const { app, work } = started;
    const id = await running(started);
    await app.queue.cancel(id, { reason: 'too long' });
    await ended(app, 'cancelled', id);
    expect(await app.queue.get(id)).toMatchObject({ reason: 'too long', attempts: 1 });
    open();
    await drained();
    expect(work.runs).toHaveLength(1);
    await app.close();
  });
});

describe('queue.cancel of a job that was taken ahead of its slot', () => {
  it('ends it without a run', async () => {
    const { opened, open } = gate();
    // Quick ones first, so that others are taken ahead; then one that holds the only slot.
    const { app, work } = await startWork(
      ({ payload }) => (payload === 'hold' ? opened : undefined),
      {},
      { concurrency: 1, prefetchMs: 1_000 },
    );
    await app.jobs.spawnMany([
      ...upTo(300).map(() => ({ name: 'work', payload: 'quick' })),
      { name: 'work', payload: 'hold' },
      ...upTo(20).map((n) => ({ name: 'work', payload: n })),
    ]);
    await until(() => work.runs.some(({ payload }) => payload === 'hold'), { what: 'the slot is held' });
    const jobs = await tables.sql<{ id: string }>(
      `SELECT id::text FROM nestmq.job WHERE json_typeof(payload) = 'number' ORDER BY id`,
    );
    const outcomes = await Promise.all(jobs.map(({ id }) => app.queue.cancel(id)));
    expect(new Set(outcomes.map(({ outcome }) => outcome))).not.toContain('already finished');
    await until(async () => (await tables.number('SELECT count(*) FROM nestmq.job')) === 1, {
      what: 'only one is left',
    });
    open();
    await drained();
    expect(work.runs.filter(({ payload }) => typeof payload === 'number')).toEqual([]);
    expect(
      await tables.number(`SELECT count(*) FROM nestmq.finished_job WHERE state = 'cancelled' AND attempt = 0`),
    ).toBe(jobs.length);
    await app.close();
  });
});

describe('queue.cancel of a job that is no more', () => {
  it('says how it has finished', async () => {
    const started = await startWork(
      ({ payload }) => {
        if (payload === 'reject') throw new RejectJob('no');
      },
      { retention: '1h' },
    );
    const { app } = started;
    const [done, dead] = [await running(started), await running(started, 'reject')];
    await ended(app, 'completed', done);
    await ended(app, 'dead', dead);
    expect(await app.queue.cancel(done)).toEqual({ outcome: 'already finished', state: 'completed' });
    expect(await app.queue.cancel(dead)).toEqual({ outcome: 'already finished', state: 'dead' });
    expect(await app.queue.get(dead)).toMatchObject({ state: 'dead', reason: 'rejected' });
    const { id } = await app.jobs.spawn('work', null, { delay: '1h' });
    await app.queue.cancel(id);
    expect(await app.queue.cancel(id)).toEqual({ outcome: 'already finished', state: 'cancelled' });
    await app.close();
  });

  it('or never was is a JobNotFoundError', async () => {
    const sender = await startSender();
    await expect(sender.queue.cancel('999')).rejects.toThrow(JobNotFoundError);
    const released = await sender.jobs.spawn('work', null, { hold: '1h', ordered: true });
    await released.release();
    await expect(sender.queue.cancel(released.id)).rejects.toMatchObject({ code: 'not_found' });
    await sender.close();
  });

  it('refuses what is no id and no reason', async () => {
    const sender = await startSender();
    const wrong: [unknown, unknown?][] = [
      ['x'],
      [7],
      ['1', { reason: '' }],
      ['1', { reason: 'r'.repeat(1_025) }],
      ['1', { why: 'x' }],
    ];
    for (const [id, options] of wrong) {
      await expect(sender.queue.cancel(id as string, options as never)).rejects.toThrow(InvalidOptionsError);
    }
    await sender.close();
  });
});

describe('queue.waitFor', () => {
  it('rejects with a JobCancelledError, at once where the job ends in this process', async () => {
    const started = await startWork(untilAborted);
    const { app } = started;
    const id = await running(started);
    const waiting = app.queue.waitFor(id);
    waiting.catch(() => undefined);
    const { id: later } = await app.jobs.spawn('work', null, { delay: '1h' });
    const waitingLater = app.queue.waitFor(later);
    waitingLater.catch(() => undefined);
    await app.queue.cancel(id, { reason: 'not wanted' });
    await app.queue.cancel(later);
    await expect(waiting).rejects.toMatchObject({ code: 'job_cancelled', jobId: id, reason: 'not wanted' });
    await expect(waitingLater).rejects.toThrow(JobCancelledError);
    await app.close();
  });
});

describe('many calls of queue.cancel at once', () => {
  it('share transactions, and each is answered', async () => {
    const sender = await startSender();
    const sent = await sender.jobs.spawnMany(upTo(200).map((n) => ({ name: 'work', payload: n, key: `k${n % 7}` })));
    const statements = recordSql();
    const reasonOf = (n: number): object => (n % 2 === 0 ? { reason: 'even' } : {});
    const asked = [...sent, ...sent.slice(0, 10)];
    const results = await Promise.all(asked.map(({ id }, n) => sender.queue.cancel(id, reasonOf(n))));
    expect(new Set(results.map(({ outcome }) => outcome))).toEqual(new Set(['cancelled']));
    expect(statements.filter((text) => text.includes('nestmq.finished_job (')).length).toBeLessThan(10);
    expect(
      await tables.sql('SELECT reason, count(*)::int FROM nestmq.finished_job GROUP BY reason ORDER BY reason'),
    ).toEqual([
      { reason: 'even', count: 100 },
      { reason: null, count: 100 },
    ]);
    await sender.close();
  });

  it('answer the unknown ones and the finished ones apart', async () => {
    const sender = await startSender();
    const { id } = await sender.jobs.spawn('work', 1);
    await sender.queue.cancel(id);
    const { id: other } = await sender.jobs.spawn('work', 2);
    const ended = await Promise.allSettled([id, '999999', other].map((one) => sender.queue.cancel(one)));
    expect(ended).toMatchObject([
      { value: { outcome: 'already finished', state: 'cancelled' } },
      { reason: expect.any(JobNotFoundError) },
      { value: { outcome: 'cancelled' } },
    ]);
    await sender.close();
  });
});

describe('queue.cancelMany', () => {
  it('cancels what waits and asks what runs to stop, by channel, key and name', async () => {
    const { app, work } = await startWork(untilAborted, {}, { openNames: true });
    await app.jobs.spawnMany([
      { name: 'work', payload: 'runs', key: 'a' },
      { name: 'work', payload: 'waits', key: 'a', delay: '1h' },
      { name: 'work', payload: 'held', key: 'a', hold: '1h' },
      { name: 'work', payload: 'lane', key: 'a', ordered: true, delay: '1h' },
      { name: 'other', payload: 'of another name', key: 'a', channel: 'work', delay: '1h' },
      { name: 'work', payload: 'of another key', key: 'b', delay: '1h' },
      { name: 'work', payload: 'of another channel', key: 'a', channel: 'else', delay: '1h' },
    ]);
    await until(() => work.runs.length, { what: 'one runs' });
    expect(await app.queue.cancelMany({ channel: 'work', key: 'a', name: 'work' }, { reason: 'gone' })).toEqual({
      cancelled: 3,
      requested: 1,
    });
    await until(async () => (await tables.number('SELECT count(*) FROM nestmq.job')) === 3, {
      what: 'four are cancelled',
    });
    const left = await tables.sql<{ payload: string }>('SELECT payload FROM nestmq.job ORDER BY id');
    expect(left.map(({ payload }) => payload)).toEqual(['of another name', 'of another key', 'of another channel']);
    expect(await app.queue.cancelMany({ channel: 'work' })).toEqual({ cancelled: 2, requested: 0 });
    await app.close();
  });

  it('goes through more jobs than one statement takes, and through given ids of several channels', async () => {
    const sender = await startSender();
    const sent = await sender.jobs.spawnMany(
      upTo(12_003).map((n) => ({ name: 'work', payload: n, ...(n > 11_000 && { channel: 'other' }) })),
    );
    expect(await sender.queue.cancelMany({ channel: 'work' })).toEqual({ cancelled: 11_000, requested: 0 });
    const ids = [...sent.slice(10_990, 11_011).map(({ id }) => id), '999999'];
    expect(await sender.queue.cancelMany({ ids })).toEqual({ cancelled: 11, requested: 0 });
    expect(await sender.queue.cancelMany({ ids: [] })).toEqual({ cancelled: 0, requested: 0 });
    await sender.close();
  });

  it('cancels several jobs of a lane that no runner has met, and leaves the others in it', async () => {
    const sender = await startSender();
    const sent = await sender.jobs.spawnMany(
      upTo(3).map((n) => ({ name: 'work', payload: n, key: 'a', ordered: true, delay: '1h' as const })),
    );
    const ids = sent.slice(0, 2).map(({ id }) => id);
    expect(await sender.queue.cancelMany({ ids })).toEqual({ cancelled: 2, requested: 0 });
    expect(await sender.queue.lanes('work')).toMatchObject([{ key: 'a', headId: sent[2]!.id }]);
    await sender.close();
  });

  it('of several callers at once cancels each job once', async () => {
    const senders = await Promise.all([startSender(), startSender()]);
    await senders[0].jobs.spawnMany(upTo(3_000).map((n) => ({ name: 'work', payload: n, key: `k${n % 7}` })));
    const counts = await Promise.all(
      senders.flatMap(({ queue }) => [queue.cancelMany({ channel: 'work' }), queue.cancelMany({ channel: 'work' })]),
    );
    expect(counts.reduce((sum, { cancelled }) => sum + cancelled, 0)).toBe(3_000);
    await Promise.all(senders.map((sender) => sender.close()));
  });

  it('refuses what names no jobs', async () => {
    const sender = await startSender();
    for (const filter of [
      {},
      { key: 'k' },
      { name: 'work' },
      { channel: 'work', ids: ['1'] },
      { ids: ['1'], key: 'k' },
      { ids: 'x' },
      { ids: ['x'] },
      { channel: '' },
      { colour: 'red' },
      null,
    ]) {
      await expect(sender.queue.cancelMany(filter as never)).rejects.toThrow(InvalidOptionsError);
    }
    await sender.close();
  });
});

describe('a lane', () => {
  async function startLane(behaviour: Behaviour, options: HandlerOptions = {}, queue: TestAppOptions['queue'] = {}) {
    const Work = laneWith({ backoff: { type: 'fixed', base: 1, jitter: 0 }, ...options }, behaviour);
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, ...queue }, providers: [Work] });
    const send = async (...payloads: unknown[]): Promise<string[]> =>
      (await app.jobs.spawnMany(payloads.map((payload) => ({ name: 'work', payload, key: 'lane' })))).map(
        ({ id }) => id,
      );
    const ran = (): [unknown, number | null][] => app.get(Work).runs.map(({ payload, seq }) => [payload, seq]);
    return { app, work: app.get(Work), send, ran };
  }

  it.each([
    ['delayed', { delay: '1h' }],
    ['held', { hold: '1h' }],
  ] as const)('goes on without its head when that is %s and cancelled', async (_, options) => {
    const { app, send, ran } = await startLane(() => undefined);
    const { id } = await app.jobs.spawn('work', 'head', { key: 'lane', ...options });
    await send('second', 'third');
    await app.jobs.spawn('work', 'marker', { key: 'another lane' });
    await until(() => ran().length === 1, { what: 'a job of another lane has run' });
    expect(await app.queue.cancel(id)).toMatchObject({ outcome: 'cancelled' });
    await drained();
    expect(ran().slice(1)).toEqual([
      ['second', 1],
      ['third', 2],
    ]);
    await app.close();
  });

  it('goes on without its head when that waits for a retry, and its number stays used', async () => {
    const { app, send, ran } = await startLane(({ payload }) => {
      if (payload === 'head') throw new RetryAfter('1h');
    });
    const [head] = await send('head', 'second');
    await until(() => app.events.some(({ type }) => type === 'retrying'), { what: 'it waits' });
    expect(await app.queue.cancel(head!)).toMatchObject({ outcome: 'cancelled' });
    await drained();
    expect(ran()).toEqual([
      ['head', 1],
      ['second', 2],
    ]);
    expect(await app.queue.get(head!)).toMatchObject({ state: 'cancelled', seq: 1 });
    await app.close();
  });

  it.each(['skip', 'block'] as const)('goes on when its running head is cancelled, with onDead: %s', async (onDead) => {
    const { app, send, ran } = await startLane((job) => (job.payload === 'head' ? untilAborted(job) : undefined), {
      onDead,
      retries: 0,
    });
    const [head] = await send('head', 'second', 'third');
    await until(() => ran().length, { what: 'it runs' });
    expect(await app.queue.cancel(head!)).toMatchObject({ outcome: 'requested' });
    await drained();
    expect(ran()).toEqual([
      ['head', 1],
      ['second', 2],
      ['third', 3],
    ]);
    expect(await app.queue.get(head!)).toMatchObject({ state: 'cancelled', seq: 1 });
    await app.close();
  });

  it('is not blocked by a head that would have died, had it not been cancelled, unheard of by its process', async () => {
    const { opened, open } = gate();
    const { app, send, ran } = await startLane(
      ({ payload }) => (payload === 'head' ? opened.then(() => Promise.reject(new Error('broken'))) : undefined),
      { onDead: 'block', retries: 0 },
    );
    const [head] = await send('head', 'second');
    await until(() => ran().length, { what: 'it runs' });
    await tables.sql(`UPDATE nestmq.job SET cancel_requested_at = now() WHERE id = $1`, [head]);
    open();
    await drained();
    expect(ran()).toEqual([
      ['head', 1],
      ['second', 2],
    ]);
    expect(await tables.number('SELECT count(*) FROM nestmq.lane WHERE blocked_by IS NOT NULL')).toBe(0);
    await app.close();
  });

  it('runs on, numbered without a gap, when jobs behind its head are cancelled', async () => {
    const { opened, open } = gate();
    const { app, send, ran } = await startLane(({ payload }) => (payload === 'head' ? opened : undefined));
    const ids = await send('head', 'second', 'third', 'fourth', 'fifth');
    await until(() => ran().length, { what: 'the head runs' });
    await app.queue.cancelMany({ ids: [ids[1]!, ids[3]!] });
    open();
    await drained();
    expect(ran()).toEqual([
      ['head', 1],
      ['third', 2],
      ['fifth', 3],
    ]);
    await app.close();
  });

  it('does so also when they were leased with it', async () => {
    const { opened, open } = gate();
    const { app, send, ran } = await startLane(
      ({ payload }) => (payload === 'hold' ? opened : undefined),
      {},
      { prefetchMs: 1_000 },
    );
    // Quick ones first: from then on several are leased at once.
    await send(...upTo(200));
    await drained();
    await app.queue.pause('work');
    const ids = await send('first', 'hold', ...upTo(20).map((n) => `behind ${n}`));
    await app.queue.resume('work');
    await until(() => ran().some(([payload]) => payload === 'hold'), { what: 'it holds the lane' });
    const leased = await tables.number('SELECT max(cardinality(job_ids)) FROM nestmq.lease');
    expect(leased).toBeGreaterThan(3);
    const outcomes = await app.queue.cancelMany({ ids: [ids[3]!, ids[5]!, ids[21]!] });
    expect(outcomes.cancelled + outcomes.requested).toBe(3);
    open();
    await drained();
    expect(
      ran()
        .slice(200)
        .map(([, seq]) => seq),
    ).toEqual(upTo(19).map((n) => n + 200));
    expect(
      ran()
        .slice(202)
        .map(([payload]) => payload),
    ).toEqual(
      upTo(20)
        .filter((n) => ![2, 4, 20].includes(n))
        .map((n) => `behind ${n}`),
    );
    expect(
      await tables.number(`SELECT count(*) FROM nestmq.finished_job WHERE state = 'cancelled' AND seq IS NULL`),
    ).toBe(3);
    await app.close();
  });
});
