import { beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { InvalidOptionsError, JobHandler, QueueClosedError, RejectJob, SnoozeJob, type HandlerOptions } from 'nestmq';
import { startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, untilAborted, workWith, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const testing = (Work: new () => unknown, queue: object = {}): Promise<TestApp> =>
  startApp({ ...database, queue: { runner: false, ...queue }, providers: [Work] });

async function withWork<T>(
  options: HandlerOptions,
  behaviour: Behaviour,
  test: (app: TestApp, id: string) => Promise<T>,
): Promise<T> {
  const app = await testing(workWith(options, behaviour));
  try {
    const { id } = await app.jobs.spawn('work', 'x', { key: 'k' });
    return await test(app, id);
  } finally {
    await app.close();
  }
}

describe('queue.runOne', () => {
  it('runs exactly one due job, and answers null when none is left', async () => {
    const Work = workWith();
    const app = await testing(Work);
    await app.jobs.spawnMany(['a', 'b', 'c'].map((payload) => ({ name: 'work', payload })));
    await app.jobs.spawn('work', 'later', { delay: '1h' });
    const ran = () => app.get(Work).runs.map(({ payload }) => payload);
    expect(await app.queue.runOne()).toMatchObject({ name: 'work', channel: 'work', attempt: 1, outcome: 'completed' });
    expect(ran()).toEqual(['a']);
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(3);
    await app.queue.runOne();
    await app.queue.runOne();
    expect(await app.queue.runOne()).toBeNull();
    expect(ran()).toEqual(['a', 'b', 'c']);
    expect(await app.queue.stats()).toMatchObject([{ channel: 'work', scheduled: 1, ready: 0, running: 0 }]);
    await app.close();
  });

  it('goes the real way: the completion is written, and its event told, when it answers', () =>
    withWork(
      { retention: '1h' },
      () => ({ done: true }),
      async (app, id) => {
        expect(await app.queue.runOne()).toMatchObject({ id, key: 'k', outcome: 'completed' });
        expect(await app.queue.get(id)).toMatchObject({ state: 'completed', attempts: 1, result: { done: true } });
        expect(app.events.map(({ type }) => type)).toEqual(['started', 'completed']);
        expect(await app.queue.waitFor(id)).toEqual({ done: true });
      },
    ));

  it('answers what the handler threw, and what follows: a retry, then death', () =>
    withWork(
      { retries: 1, backoff: 0 },
      ({ attempt }) => Promise.reject(new Error(`run ${attempt}`)),
      async (app, id) => {
        const first = await app.queue.runOne();
        expect(first).toMatchObject({ id, attempt: 1, outcome: 'retrying', delayMs: 0, error: new Error('run 1') });
        const second = await app.queue.runOne();
        expect(second).toMatchObject({
          id,
          attempt: 2,
          outcome: 'dead',
          reason: 'exhausted',
          error: new Error('run 2'),
        });
        expect(await app.queue.get(id)).toMatchObject({ state: 'dead', reason: 'exhausted', attempts: 2 });
      },
    ));

  it.each<[string, Error, object]>([
    ['RejectJob', new RejectJob('no such user'), { outcome: 'dead', reason: 'rejected' }],
    ['SnoozeJob', new SnoozeJob('10m'), { outcome: 'snoozed', delayMs: 600_000 }],
  ])('answers what %s made of it', (_, error, expected) =>
    withWork(
      {},
      () => Promise.reject(error),
      async (app, id) => expect(await app.queue.runOne()).toMatchObject({ id, ...expected }),
    ),
  );

  it('knows of a completion in the handler’s own transaction', async () => {
    const Work = workWith({}, (job) => app.dataSource.transaction((manager) => job.complete({ manager })));
    const app = await testing(Work);
    await app.jobs.spawn('work');
    expect(await app.queue.runOne()).toMatchObject({ outcome: 'completed' });
    expect(await tables.drained()).toBe(true);
    await app.close();
  });

  it('takes a job whose last lease was lost as well', () =>
    withWork(
      {},
      () => undefined,
      async (app, id) => {
        await tables.sql(`UPDATE nestmq.job SET suspect = true, attempt = 1, run = 1`);
        expect(await app.queue.runOne()).toMatchObject({ id, attempt: 2, outcome: 'completed' });
      },
    ));

  it('looks in the given channels only', async () => {
    const Work = workWith();
    const app = await testing(Work);
    for (const channel of ['one', 'two']) await app.jobs.spawn('work', channel, { channel });
    expect(await app.queue.runOne({ channels: ['two'] })).toMatchObject({ channel: 'two' });
    expect(await app.queue.runOne({ channels: ['two'] })).toBeNull();
    expect(await app.queue.runOne()).toMatchObject({ channel: 'one' });
    await app.close();
  });

  it('keeps the order of a lane, whose next job waits for the retry of the one before', async () => {
    const fails = new Set(['b']);
    const Ordered = workWith({ ordered: true, backoff: '1h' }, ({ payload }) =>
      fails.delete(payload as string) ? Promise.reject(new Error('not yet')) : undefined,
    );
    const app = await testing(Ordered);
    await app.jobs.spawnMany(['a', 'b', 'c'].map((payload) => ({ name: 'work', payload, key: 'lane' })));
    expect(await app.queue.runOne()).toMatchObject({ outcome: 'completed' });
    expect(await app.queue.runOne()).toMatchObject({ outcome: 'retrying' });
    expect(await app.queue.runOne()).toBeNull();
    await tables.sql('UPDATE nestmq.job SET due_at = now() WHERE attempt = 1');
    await tables.sql('UPDATE nestmq.lane SET ready_at = now()');
    expect(await app.queue.runOne()).toMatchObject({ attempt: 2, outcome: 'completed' });
    expect(await app.queue.runOne()).toMatchObject({ outcome: 'completed' });
    expect(await app.queue.runOne()).toBeNull();
    const runs = app.get(Ordered).runs.map(({ payload, seq }) => [payload, seq]);
    expect(runs).toEqual([
      ['a', 1],
      ['b', 2],
      ['b', 2],
      ['c', 3],
    ]);
    await app.close();
  });

  it('runs what the handler of a job has spawned, call by call', async () => {
    @Injectable()
    class Chain {
      readonly ran: number[] = [];

      @JobHandler('chain', { name: 'link' })
      async link(job: { payload: number }): Promise<void> {
        this.ran.push(job.payload);
        if (job.payload < 3) await app.jobs.spawn('link', job.payload + 1);
      }
    }
    const app = await testing(Chain);
    await app.jobs.spawn('link', 1);
    for (let runs = 0; await app.queue.runOne(); runs++) expect(runs).toBeLessThan(3);
    expect(app.get(Chain).ran).toEqual([1, 2, 3]);
    await app.close();
  });

  it('leaves nothing behind: no runner, no lease, no connection of its own', () =>
    withWork(
      {},
      () => undefined,
      async (app) => {
        const own = `SELECT count(*) FROM pg_stat_activity
          WHERE datname = current_database() AND application_name IN ('nestmq claim', 'nestmq renew', 'nestmq listen', 'nestmq settle')`;
        app.queue.events.subscribe({});
        await app.queue.runOne();
        await until(async () => (await tables.number(own)) === 0, { what: 'the server has seen them go' });
        expect(await tables.number('SELECT count(*) FROM nestmq.runner')).toBe(0);
        expect(await tables.number('SELECT count(*) FROM nestmq.lease')).toBe(0);
        expect(app.queue.running).toBe(0);
      },
    ));

  it('of two at once takes two jobs', async () => {
    const { opened, open } = gate();
    const Work = workWith({}, () => opened);
    const app = await testing(Work);
    await app.jobs.spawnMany([1, 2, 3].map((payload) => ({ name: 'work', payload })));
    const both = [app.queue.runOne(), app.queue.runOne()];
    await until(() => app.queue.running === 2, { what: 'both run' });
    expect(await app.queue.idle({ timeout: 0 })).toBe(false);
    const idle = app.queue.idle();
    open();
    const results = await Promise.all(both);
    expect(new Set(results.map((result) => result?.id)).size).toBe(2);
    expect(await idle).toBe(true);
    expect(app.get(Work).runs).toHaveLength(2);
    await app.close();
  });

  it('that runs at a shutdown is waited for, aborted after the grace, and released; and then refused', async () => {
    const Work = workWith({}, untilAborted);
    const app = await testing(Work, { shutdown: { graceMs: 10 } });
    const { id } = await app.jobs.spawn('work');
    const running = app.queue.runOne();
    await until(() => app.queue.running === 1, { what: 'it runs' });
    await app.close();
    expect(await running).toMatchObject({ id, outcome: 'released' });
    expect(await tables.sql('SELECT attempt FROM nestmq.job')).toEqual([{ attempt: 0 }]);
    expect(await tables.number('SELECT count(*) FROM nestmq.lease')).toBe(0);
    await expect(app.queue.runOne()).rejects.toThrow(QueueClosedError);
  });

  it('is refused where a runner runs, and for what is no list of channels', async () => {
    const runner = await startApp({ ...database, providers: [workWith()] });
    await expect(runner.queue.runOne()).rejects.toMatchObject({ code: 'invalid_options', option: 'runner' });
    await runner.close();
    const app = await testing(workWith());
    await expect(app.queue.runOne({ channels: 'work' as never })).rejects.toThrow(InvalidOptionsError);
    await app.close();
  });
});
