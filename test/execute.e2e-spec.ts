import { beforeEach, describe, expect, it } from '@jest/globals';
import { Inject, Injectable } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { JobHandler, JobSpawner, type Job } from 'nestmq';
import { DataSource } from 'typeorm';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, takeTime, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const queue = POLLING_OFF;

const empty = (): Promise<boolean> => tables.drained();

beforeEach(() => tables.clear());

describe('a spawned job', () => {
  it('runs once, with its payload, and nothing is left of it', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work', { n: 1 }, { key: 'k', metadata: { trace: 't' } });
    await until(empty, { what: 'the job is gone' });
    const { runs } = app.get(Work);
    expect(runs).toHaveLength(1);
    expect(runs[0]).toMatchObject({
      id,
      payload: { n: 1 },
      key: 'k',
      attempt: 1,
      maxAttempts: 5,
      metadata: { trace: 't' },
    });
    expect(await app.queue.get(id)).toBeNull();
    await app.close();
  });

  it('is told of: started, then completed', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => app.events.some(({ type }) => type === 'completed'), { what: 'it is completed' });
    const told = app.events.flatMap((event) => ('id' in event ? [[event.type, event.id, event.attempt]] : []));
    expect(told).toEqual([
      ['started', id, 1],
      ['completed', id, 1],
    ]);
    await app.close();
  });

  it('reads as running, its attempt counted, while its handler runs', async () => {
    const { opened, open } = gate();
    const Work = workWith({}, () => opened);
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => app.get(Work).runs.length, { what: 'it runs' });
    expect(await app.queue.get(id)).toMatchObject({ state: 'running', attempts: 1, runner: expect.any(String) });
    open();
    await app.close();
  });

  it('that was there before the boot runs at once', async () => {
    await tables.sql(`INSERT INTO nestmq.job (channel, name) VALUES ('elsewhere', 'work')`);
    const Work = workWith();
    const app = await startApp({ ...database, queue, providers: [Work] });
    await until(() => app.get(Work).runs.length, { what: 'it runs' });
    await app.close();
  });

  it('that plain SQL has put there is found by polling', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue: { pollMs: 100 }, providers: [Work] });
    await until(() => app.events.some(({ type }) => type === 'listening'), { what: 'it listens' });
    await tables.sql(`INSERT INTO nestmq.job (channel, name) VALUES ('work', 'work')`);
    await until(() => app.get(Work).runs.length, { what: 'it runs' });
    await app.close();
  });

  it('runs without a notification of its own when its time has come', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work', null, { delay: 300 });
    expect(await app.queue.get(id)).toMatchObject({ state: 'waiting', attempts: 0 });
    await until(() => app.get(Work).runs.length, { what: 'it runs' });
    const [job] = app.get(Work).runs;
    expect(await tables.number('SELECT extract(epoch FROM clock_timestamp()) * 1000')).toBeGreaterThanOrEqual(
      job!.dueAt.getTime(),
    );
    expect(job!.dueAt.getTime() - job!.createdAt.getTime()).toBeGreaterThanOrEqual(299);
    await app.close();
  });

  it('runs when its time has come although every slot was busy then', async () => {
    const first = gate();
    const Work = workWith({}, (job) => (job.payload === 'slow' ? first.opened : undefined));
    const app = await startApp({ ...database, queue: { ...queue, concurrency: 1 }, providers: [Work] });
    await app.jobs.spawn('work', 'slow');
    await until(() => app.get(Work).runs.length, { what: 'the slot is busy' });
    const { id } = await app.jobs.spawn('work', 'later', { delay: 50 });
    await until(() => tables.number(`SELECT (due_at < now())::int FROM nestmq.job WHERE id = ${id}`), { what: 'due' });
    first.open();
    await until(() => app.get(Work).runs.length === 2, { what: 'it runs' });
    await app.close();
  });

  it('of a name that nobody here knows is not claimed, not counted, and listed', async () => {
    await tables.sql(`INSERT INTO nestmq.job (channel, name) VALUES ('work', 'unheard-of')`);
    const Work = workWith();
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work');
    await until(() => app.events.some(({ type }) => type === 'completed'), { what: 'the known one is completed' });
    const [row] = await tables.sql('SELECT attempt, run FROM nestmq.job');
    expect(row).toEqual({ attempt: 0, run: 0 });
    expect(await app.queue.stats()).toMatchObject([{ channel: 'work', ready: 1, unknownNames: ['unheard-of'] }]);
    await app.close();
  });
});

describe('jobs', () => {
  it('run in parallel: both are in flight at once', async () => {
    const { opened, open } = gate();
    const Work = workWith({}, () => opened);
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawnMany([
      { name: 'work', payload: 1 },
      { name: 'work', payload: 2 },
    ]);
    await until(() => app.get(Work).runs.length === 2, { what: 'both run' });
    open();
    await app.close();
    expect(await empty()).toBe(true);
  });

  it('claimed together call the handler once each', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue, providers: [Work] });
    const spawned = await app.jobs.spawnMany([1, 2, 3].map((payload) => ({ name: 'work', payload })));
    await until(empty, { what: 'all are done' });
    expect(app.get(Work).runs.map(({ id }) => id)).toEqual(spawned.map(({ id }) => id));
    await app.close();
  });

  it('of two channels reach each its own handler', async () => {
    const seen: string[] = [];
    @Injectable()
    class Two {
      @JobHandler('one', { name: 'one' })
      one(job: Job): void {
        seen.push(`one ${job.channel}`);
      }
      @JobHandler('two', { name: 'two' })
      two(job: Job): void {
        seen.push(`two ${job.channel}`);
      }
    }
    const app = await startApp({ ...database, queue, providers: [Two] });
    await app.jobs.spawnMany(['one', 'two'].map((name) => ({ name, payload: null })));
    await until(empty, { what: 'both are done' });
    expect(seen.toSorted()).toEqual(['one one', 'two two']);
    await app.close();
  });

  it('never run more at once than concurrency allows, and never hold more than the free slots when they are slow', async () => {
    let [running, most, mostAhead] = [0, 0, 0];
    const Work = workWith({}, async () => {
      most = Math.max(most, (running += 1));
      await takeTime(8);
      running -= 1;
    });
    const app = await startApp({
      ...database,
      queue: { ...queue, concurrency: { min: 1, max: 3 } },
      providers: [Work],
    });
    await app.jobs.spawnMany(Array.from({ length: 40 }, () => ({ name: 'work', payload: null })));
    let seen = 0;
    await until(
      async () => {
        const held = await tables.sql<{ id: string }>('SELECT unnest(job_ids)::text AS id FROM nestmq.lease');
        const started = new Set(app.get(Work).runs.map(({ id }) => id));
        seen += held.length;
        mostAhead = Math.max(mostAhead, held.filter(({ id }) => !started.has(id)).length);
        return empty();
      },
      { what: 'all are done' },
    );
    expect(seen).toBeGreaterThan(0);
    expect(most).toBe(3);
    expect(mostAhead).toBeLessThanOrEqual(3);
    await app.close();
  });

  it('of a limited handler never run more at once than its limit, wherever they were spawned to', async () => {
    const { opened, open } = gate();
    let running = 0;
    let most = 0;
    const Work = workWith({ concurrency: 2 }, async () => {
      most = Math.max(most, ++running);
      await opened;
      running -= 1;
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawnMany(Array.from({ length: 6 }, () => ({ name: 'work', payload: null })));
    await until(() => running === 2, { what: 'two run' });
    open();
    await until(empty, { what: 'all are done' });
    expect(most).toBe(2);
    await app.close();
  });

  it('of a limited handler wake its runner in any channel', async () => {
    const Work = workWith({ concurrency: 2 });
    const app = await startApp({ ...database, queue, providers: [Work] });
    await until(() => app.events.some(({ type }) => type === 'listening'), { what: 'it listens' });
    await app.jobs.spawn('work', null, { channel: 'another' });
    await until(() => app.get(Work).runs.length, { what: 'it runs' });
    await app.close();
  });
});

describe('the options of a handler', () => {
  it('stand on the stored row and its policy, a preset below explicit ones; its dependencies are injected', async () => {
    @Injectable()
    class Clock {
      readonly answer = 42;
    }
    @Injectable()
    class Foo {
      seen: unknown;

      constructor(private readonly clock: Clock) {}

      @JobHandler('foo', { preset: { retries: 9, backoff: '2s', timeout: '1m' }, retries: 3, name: 'foo' })
      run(job: Job<string>): void {
        this.seen = [this.clock.answer, job.payload, job.maxAttempts];
      }
    }
    const app = await startApp({ ...database, queue, providers: [Clock, Foo] });
    await app.queue.pause('foo');
    await app.jobs.spawn(Foo, 'run', 'hello');
    const [row] = await tables.sql(
      `SELECT channel, job.name, max_attempts, retries, (handler_policy.backoff ->> 'baseMs')::int AS base, timeout_ms::int
       FROM nestmq.job JOIN nestmq.handler_policy ON handler_policy.id = policy_id`,
    );
    expect(row).toEqual({ channel: 'foo', name: 'foo', max_attempts: 4, retries: 3, base: 2_000, timeout_ms: 60_000 });
    await app.queue.resume('foo');
    await until(() => app.get(Foo).seen, { what: 'it runs' });
    expect(app.get(Foo).seen).toEqual([42, 'hello', 4]);
    await app.close();
  });
});

describe("a handler's own transaction", () => {
  @Injectable()
  class Emails {
    calls = 0;
    fail = false;

    constructor(
      @InjectDataSource() private readonly dataSource: DataSource,
      @Inject(JobSpawner) private readonly jobs: JobSpawner,
    ) {}

    @JobHandler('emails', { name: 'email', retries: 0, retention: '1h' })
    async send(): Promise<void> {
      this.calls += 1;
      await this.dataSource.transaction(async (manager) => {
        await this.jobs.spawn('log', { sent: true }, { manager, channel: 'activity' });
      });
      if (this.fail) throw new Error('smtp is down');
    }
  }

  const start = () => startApp({ ...database, queue: { ...queue, openNames: true }, providers: [Emails] });
  const followUps = () => tables.sql(`SELECT name, payload FROM nestmq.job WHERE channel = 'activity'`);

  it('commits its follow-up once; the handler runs exactly once, and its job is completed', async () => {
    const app = await start();
    const { id } = await app.dataSource.transaction((manager) => app.jobs.spawn('email', null, { manager }));
    await until(async () => (await app.queue.get(id))?.state === 'completed', { what: 'it is completed' });
    expect(app.get(Emails).calls).toBe(1);
    expect(await followUps()).toEqual([{ name: 'log', payload: { sent: true } }]);
    await app.close();
  });

  it('survives that the handler throws later: the follow-up stays, the job is exactly dead, with its error, after one run', async () => {
    const app = await start();
    app.get(Emails).fail = true;
    const { id } = await app.dataSource.transaction((manager) => app.jobs.spawn('email', null, { manager }));
    await until(() => app.events.some(({ type }) => type === 'dead'), { what: 'it is dead' });
    expect(await app.queue.get(id)).toMatchObject({ state: 'dead', reason: 'exhausted', attempts: 1 });
    expect((await app.queue.get(id))?.lastError).toContain('smtp is down');
    expect(await followUps()).toHaveLength(1);
    // A marker that comes later is done: a second run of the dead one would have been before it.
    app.get(Emails).fail = false;
    const marker = await app.jobs.spawn('email');
    await until(async () => (await app.queue.get(marker.id))?.state === 'completed', { what: 'the marker is done' });
    expect(app.get(Emails).calls).toBe(2);
    await app.close();
  });
});

describe('fairness', () => {
  /** Order in which jobs ran, by payload. */
  async function order(jobs: object[], concurrency: number, behaviour?: () => unknown): Promise<unknown[]> {
    const Work = workWith({}, behaviour);
    const loaded = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    await loaded.jobs.spawnMany(jobs.map((job) => ({ name: 'work', payload: null, ...job })));
    await loaded.close();
    const app = await startApp({ ...database, queue: { ...queue, concurrency }, providers: [Work] });
    await until(empty, { what: 'all have run' });
    await app.close();
    return app.get(Work).runs.map(({ payload }) => payload);
  }
  const backlog = (count: number, options: object = {}): object[] =>
    Array.from({ length: count }, () => ({ payload: 'backlog', ...options }));
  const pause = (): Promise<void> => takeTime(6);

  it.each([
    ['slow', 400, pause],
    ['fast', 10_000, undefined],
  ])(
    'lets one key with a backlog not delay the single job of another key: %s handlers',
    async (_, count, behaviour) => {
      const ran = await order([...backlog(count, { key: 'big' }), { payload: 'single', key: 'small' }], 8, behaviour);
      expect(ran.indexOf('single')).toBeLessThan(count / 2);
    },
  );

  it('lets one channel with a backlog not delay the single job of another channel', async () => {
    const ran = await order([...backlog(10_000), { payload: 'single', channel: 'other' }], 8);
    expect(ran.indexOf('single')).toBeLessThan(5_000);
  });

  it('runs smaller priorities first, then due order, and at every tenth claim the longest due', async () => {
    const jobs = [
      { payload: 'old', priority: 9 },
      ...Array.from({ length: 30 }, (__, index) => ({ payload: index, priority: 1 })),
      { payload: 'urgent', priority: -1 },
    ];
    const ran = await order(jobs, 1, pause);
    expect(ran[0]).toBe('urgent');
    expect(ran.filter((payload) => typeof payload === 'number')).toEqual(
      Array.from({ length: 30 }, (__, index) => index),
    );
    expect(ran.indexOf('old')).toBeLessThan(15);
  });
});

describe('a runner with nothing to do', () => {
  it('writes nothing for a spurious notification but its heartbeat, and goes on', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue, providers: [Work] });
    await until(() => app.events.some(({ type }) => type === 'listening'), { what: 'it listens' });
    const leased = (): Promise<number> =>
      tables.number(`SELECT n_tup_ins FROM pg_stat_user_tables WHERE relid = 'nestmq.lease'::regclass`);
    const leasedBefore = await leased();
    const [{ now }] = (await tables.sql('SELECT (extract(epoch FROM now()) * 1000000)::bigint AS now')) as [
      { now: string },
    ];
    await tables.sql(`SELECT pg_notify('nestmq_wake_up', $1)`, [
      JSON.stringify([Number(now), '1', 0, 'work', false, 'work']),
    ]);
    await until(
      () =>
        tables.number(`SELECT count(*) FROM pg_stat_activity WHERE application_name = 'nestmq claim'
          AND datname = current_database() AND state = 'idle' AND state_change > to_timestamp(${now} / 1000000.0)`),
      { what: 'it has looked' },
    );
    expect(await tables.sql('SELECT (SELECT count(*)::int FROM nestmq.lease) AS leases')).toEqual([{ leases: 0 }]);
    expect(await leased()).toBe(leasedBefore);
    await app.jobs.spawn('work');
    await until(() => app.get(Work).runs.length, { what: 'a later job runs' });
    await app.close();
  });
});
