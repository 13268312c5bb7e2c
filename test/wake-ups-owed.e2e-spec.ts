import { beforeEach, describe, expect, it } from '@jest/globals';
import { RejectJob, type Reservation, type SpawnItem } from 'nestmq';
import pg from 'pg';
import { beginOwning } from '../libs/queue/src/statements/transaction.js';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilEvents } from './support/events.js';
import { payloadsOf, upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until, type UntilOptions } from './support/until.js';
import { blockEventLoop, gate, untilAborted, workWith, type Behaviour, type Work } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
beforeEach(() => tables.clear());

/** Heartbeats and rescues, which make a runner look as well, are as rare as polls. */
const QUEUE = { ...POLLING_OFF, leaseMs: 600_000 };

/** Long for what a runner was told of, and too short for a poll: that comes after 45 s at the earliest. */
const withoutPoll = (what: string): UntilOptions => ({ timeoutMs: 20_000, what });

const Marker = workWith({ name: 'marker' });

/** Polling is off, and what its first looks find is found: from now on it knows only what it is told. */
async function startRunner(queue: object, ...providers: (new () => Work)[]): Promise<TestApp> {
  const app = await startApp({ ...database, queue: { ...QUEUE, ...queue }, providers });
  await until(() => app.events.some((event) => event.type === 'listening' && event.listening), { what: 'it listens' });
  return app;
}

/**
 * In a transaction: then notifications alone tell of the jobs, in the order of the commits. Else one could come behind
 * what the process knows by itself, and make it look once more.
 */
const send = (app: TestApp, ...items: (SpawnItem & { name: string })[]): Promise<unknown> =>
  app.dataSource.transaction((manager) => app.jobs.spawnMany(items, { manager }));

/** The runner has looked for all that it was told of so far: a job that was sent behind it has run. */
async function untilLooked(app: TestApp, channel = 'work'): Promise<void> {
  const { runs } = app.get(Marker);
  const { length } = runs;
  await send(app, { name: 'marker', payload: null, channel });
  await until(() => runs.length > length, { what: 'the marker has run' });
}

const untilRan = (work: Work, ...payloads: unknown[]): Promise<boolean> =>
  until(
    () => payloads.every((payload) => payloadsOf(work).includes(payload)),
    withoutPoll(`${payloads.join(', ')} ran`),
  );

describe('the next suspect of a lane', () => {
  it('runs in the other process, which has its handler', async () => {
    const door = gate();
    const First = workWith({ name: 'first', ordered: true }, () => door.opened);
    const Second = workWith({ name: 'second', ordered: true });
    const sender = await startApp({ ...database, queue: { runner: false }, providers: [First, Second] });
    await send(sender, ...['first', 'second'].map((name) => ({ name, payload: name, key: 'lane' })));
    await tables.sql('UPDATE nestmq.job SET suspect = true, attempt = 1');
    const one = await startRunner({}, First);
    const two = await startRunner({}, Second, Marker);
    await untilRan(one.get(First), 'first');
    await untilLooked(two);
    expect(payloadsOf(two.get(Second))).toEqual([]);
    door.open();
    await untilRan(two.get(Second), 'second');
    await Promise.all([sender.close(), one.close(), two.close()]);
  });
});

describe('the room of a handler at its limit, kept for the next job of a lane', () => {
  it('goes to another lane when a dead job blocks that one', async () => {
    const Worker = workWith({ ordered: true, concurrency: 1, onDead: 'block' });
    // Where jobs have been quick, a lane is leased for several of them.
    const app = await startRunner({ prefetchMs: 1_000 }, Worker);
    const work = app.get(Worker);
    await send(app, ...upTo(20).map((payload) => ({ name: 'work', payload, key: 'quick' })));
    await untilEvents(app, 'completed', 20);
    work.behaviour = async (job) => {
      if (job.payload !== 'bad') return;
      const undone = app.dataSource.transaction(async (manager) => {
        await job.complete({ manager });
        throw new Error('changed my mind');
      });
      await undone.catch(() => undefined);
      throw new RejectJob('bad');
    };
    await send(
      app,
      { name: 'work', payload: 'bad', key: 'blocked' },
      { name: 'work', payload: 'behind', key: 'blocked' },
      { name: 'work', payload: 'other', key: 'free' },
    );
    await untilRan(work, 'other');
    expect(payloadsOf(work, 'blocked')).toEqual(['bad']);
    await app.close();
  });
});

describe('a job of queue.runOne', () => {
  const FIRST_RUNS: [what: string, outcome: string, firstRun: Behaviour][] = [
    [
      'has failed',
      'retrying',
      () => {
        throw new Error('once more');
      },
    ],
    [
      'has outlived its lease',
      'lease-lost',
      async (job) => {
        await job.keepAlive(100);
        await untilAborted(job);
      },
    ],
  ];

  it.each(FIRST_RUNS)('that %s runs again in a process that runs jobs', async (_, outcome, firstRun) => {
    const door = gate();
    const Worker = workWith({ backoff: { type: 'fixed', base: 100, jitter: 0 } }, async (job) => {
      if (job.attempt > 1) return;
      await door.opened;
      await firstRun(job);
    });
    const single = await startApp({ ...database, queue: { ...QUEUE, runner: false }, providers: [Worker] });
    await send(single, { name: 'work', payload: 'x' });
    const running = single.queue.runOne();
    await untilRan(single.get(Worker), 'x');
    const other = await startRunner({}, Worker, Marker);
    await untilLooked(other);
    door.open();
    expect(await running).toMatchObject({ outcome });
    await untilRan(other.get(Worker), 'x');
    await Promise.all([single.close(), other.close()]);
  });
});

describe('a job that fails while its process stops', () => {
  it('is retried by another one', async () => {
    const door = gate();
    const Worker = workWith({ backoff: { type: 'fixed', base: 100, jitter: 0 } }, async ({ attempt }) => {
      if (attempt > 1) return;
      await door.opened;
      throw new Error('once more');
    });
    const one = await startRunner({}, Worker);
    await send(one, { name: 'work', payload: 'x' });
    await untilRan(one.get(Worker), 'x');
    const two = await startRunner({}, Worker, Marker);
    await untilLooked(two);
    const closed = one.close();
    await until(() => tables.number('SELECT count(*) FROM nestmq.runner WHERE stopping'), { what: 'it stops' });
    door.open();
    await closed;
    await untilRan(two.get(Worker), 'x');
    await two.close();
  });
});

describe('reservations that are due at the same time', () => {
  it('run, both, when a transaction commits the later one first and its runner has passed that time', async () => {
    const Worker = workWith();
    const app = await startRunner({}, Worker, Marker);
    const runAt = new Date(Date.now() + 1_000);
    const reserve = (payload: string): Promise<Reservation> => app.jobs.spawn('work', payload, { runAt, hold: '5m' });
    const [first, second] = [await reserve('first'), await reserve('second')];
    await app.dataSource.transaction(async (manager) => {
      await second.commit({ manager });
      await first.commit({ manager });
      await until(() => tables.number('SELECT (clock_timestamp() > $1)::int', [runAt]), { what: 'they are due' });
      await untilLooked(app);
    });
    await untilRan(app.get(Worker), 'first', 'second');
    await app.close();
  });
});

describe('an ordered job that comes while its channel is paused', () => {
  it('runs when that is resumed, also behind one that waits for a handler at its limit', async () => {
    const door = gate();
    const Busy = workWith({ name: 'busy', ordered: true, concurrency: 1 }, () => door.opened);
    const Idle = workWith({ name: 'idle', ordered: true });
    const app = await startRunner({}, Busy, Idle, Marker);
    await send(app, { name: 'busy', payload: 'runs', key: 'a' });
    await untilRan(app.get(Busy), 'runs');
    await send(app, { name: 'busy', payload: 'waits', key: 'b' });
    await send(app, { name: 'idle', payload: 'before', key: 'c' });
    await untilRan(app.get(Idle), 'before');
    await app.queue.pause('work');
    await send(app, { name: 'idle', payload: 'during', key: 'd' });
    await untilLooked(app, 'another channel');
    await app.queue.resume('work');
    await untilRan(app.get(Idle), 'during');
    expect(payloadsOf(app.get(Busy))).toEqual(['runs']);
    door.open();
    await app.close();
  });
});

describe('a process whose event loop was blocked', () => {
  const LOCK_WAITS = `SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'advisory'`;

  it('starts what is due at once, though the database’s clock came late to it', async () => {
    const order: unknown[] = [];
    const Worker = workWith({}, ({ payload }) => void order.push(payload));
    const app = await startRunner({}, Worker, Marker);
    await untilLooked(app);
    const brake = new pg.Client({ connectionString: database.url });
    await brake.connect();

    // A look that finds nothing, since its job is gone when it comes to that.
    await brake.query(beginOwning('nestmq', 'work'));
    await app.jobs.spawn('work', 'gone', { delay: 300 });
    await tables.sql('DELETE FROM nestmq.job');
    await until(() => tables.number(LOCK_WAITS), { what: 'the look has begun' });
    const ended = brake.query('COMMIT');
    blockEventLoop(2_000);
    await ended;
    await brake.end();

    // The first look in a channel waits for no clock. It brings the time, too, so nothing else tells what is late.
    await app.dataSource.transaction(async (manager) => {
      await app.jobs.spawn('work', 'known channel', { manager });
      await app.jobs.spawn('work', 'new channel', { manager, channel: 'new' });
      // Due for longer than any answer took but the one behind the blocked event loop.
      await manager.query('SELECT pg_sleep(0.5)');
    });
    await until(() => order.length === 2, withoutPoll('both ran'));
    expect(order).toEqual(['known channel', 'new channel']);
    await app.close();
  });
});
