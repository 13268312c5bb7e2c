import { beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { JobHandler, type HandlerOptions, type Job, type QueueModuleOptions } from 'nestmq';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { laneWith, payloadsOf, seqsOf, turn, upTo } from './support/lanes.js';
import { silencingProxy } from './support/silencing-proxy.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

const drained = (): Promise<boolean> => untilDone(tables);

beforeEach(() => tables.clear());

interface Start {
  readonly queue?: QueueModuleOptions;
  readonly options?: HandlerOptions;
  readonly url?: string;
}

async function startLanes(behaviour?: Behaviour, { queue = {}, options = {}, url = database.url }: Start = {}) {
  const Work = laneWith({ backoff: { type: 'fixed', base: 20, jitter: 0 }, ...options }, behaviour);
  const app = await startApp({ url, queue: { ...POLLING_OFF, ...queue }, providers: [Work] });
  return { app, work: app.get(Work) };
}

const startSender = async () => (await startLanes(undefined, { queue: { runner: false } })).app;

const ONE_BY_ONE = { concurrency: 1, prefetchMs: 0 } as const;

// The order of the due times agrees with what is expected, so that the tenth claim, which goes by them, changes nothing.
describe('priority', () => {
  it('orders lanes by their heads, however urgent the jobs behind them are', async () => {
    const sender = await startSender();
    const items: [string, string, number][] = [
      ['a1', 'a', 0],
      ['b1', 'b', 1],
      ['c1', 'c', 2],
      ['d1', 'd', 5],
      ['d2', 'd', -9],
    ];
    await sender.jobs.spawnMany(items.map(([payload, key, priority]) => ({ name: 'work', payload, key, priority })));
    await sender.close();
    const { app, work } = await startLanes(undefined, { queue: ONE_BY_ONE });
    await drained();
    expect(payloadsOf(work)).toEqual(['a1', 'b1', 'c1', 'd1', 'd2']);
    await app.close();
  });

  it('of a lane is that of its next head when the first one has ended', async () => {
    const sender = await startSender();
    const items: [string, string, number][] = [
      ['a1', 'a', 0],
      ['b1', 'b', 5],
      ['a2', 'a', 9],
    ];
    await sender.jobs.spawnMany(items.map(([payload, key, priority]) => ({ name: 'work', payload, key, priority })));
    await sender.close();
    const { app, work } = await startLanes(undefined, { queue: ONE_BY_ONE });
    await drained();
    expect(payloadsOf(work)).toEqual(['a1', 'b1', 'a2']);
    await app.close();
  });

  it('of jobs that are spawned while others run counts in the same way', async () => {
    const held = gate();
    const { app, work } = await startLanes(({ payload }) => (payload === 'held' ? held.opened : undefined), {
      queue: ONE_BY_ONE,
    });
    await app.jobs.spawn('work', 'held', { key: 'held' });
    await until(() => work.runs.length, { what: 'the only slot is taken' });
    await app.jobs.spawn('work', 'a1', { key: 'a', priority: 1 });
    await app.jobs.spawn('work', 'b1', { key: 'b', priority: 5 });
    await app.jobs.spawn('work', 'b2', { key: 'b', priority: -5 });
    held.open();
    await drained();
    expect(payloadsOf(work)).toEqual(['held', 'a1', 'b1', 'b2']);
    await app.close();
  });
});

describe('ordered and unordered jobs of one channel', () => {
  it('do not hinder each other: unordered ones run beside a lane that is held, of the same key too', async () => {
    const { opened, open } = gate();
    const { app, work } = await startLanes(({ payload }) => (payload === 'head' ? opened : undefined));
    await app.jobs.spawnMany(['head', 'follower'].map((payload) => ({ name: 'work', payload, key: 'k' })));
    await until(() => work.runs.length, { what: 'the head runs' });
    await app.jobs.spawnMany(
      upTo(50).map((payload) => ({ name: 'work', payload, ordered: false, key: payload % 2 ? 'k' : '' })),
    );
    await until(() => work.runs.length === 51, { what: 'all unordered ones have run' });
    expect(payloadsOf(work)).not.toContain('follower');
    open();
    await drained();
    expect(payloadsOf(work).at(-1)).toBe('follower');
    await app.close();
  });

  it.each([
    ['an ordered job', 'a backlog of unordered ones', true, false],
    ['an unordered job', 'a backlog in one lane', false, true],
    ['an ordered job of another lane', 'a backlog in one lane', true, true],
  ])('let %s start long before the end of %s', async (_, __, ordered, inLane) => {
    const sender = await startSender();
    await sender.jobs.spawnMany(
      upTo(1_000).map((payload) => ({ name: 'work', payload, ordered: inLane, key: inLane ? 'long' : '' })),
    );
    await sender.jobs.spawn('work', 'single', { ordered, key: 'single' });
    await sender.close();
    const { app, work } = await startLanes(turn, { queue: { concurrency: 1 } });
    await drained();
    expect(payloadsOf(work).indexOf('single')).toBeLessThan(500);
    expect(seqsOf(work, 'long')).toEqual(inLane ? upTo(1_000) : []);
    await app.close();
  });
});

describe('a paused channel', () => {
  it('starts no lane, nor the next job of a lane that runs, until it is resumed, without a poll', async () => {
    const { opened, open } = gate();
    const { app, work } = await startLanes(({ payload }) => (payload === 'running' ? opened : undefined), {
      queue: { prefetchMs: 0 },
    });
    await app.jobs.spawn('work', 'running', { key: 'a' });
    await app.jobs.spawn('work', 'follower', { key: 'a' });
    await until(() => work.runs.length, { what: 'the head runs' });
    await app.queue.pause('work');
    await app.jobs.spawn('work', 'another lane', { key: 'b' });
    open();
    await until(() => app.events.some(({ type }) => type === 'completed'), { what: 'the head is completed' });
    await app.jobs.spawn('work', 'marker', { key: 'a', channel: 'open' });
    await until(() => work.steps.includes('marker ends'), { what: 'a job of another channel has run' });
    expect(payloadsOf(work)).toEqual(['running', 'marker']);
    await app.queue.resume('work');
    await drained();
    expect(new Set(payloadsOf(work))).toEqual(new Set(['another lane', 'follower', 'marker', 'running']));
    await app.close();
  });
});

describe('the concurrency', () => {
  it('of the runner is never passed by lanes, and all of it is used', async () => {
    let [now, most] = [0, 0];
    const { app, work } = await startLanes(
      async () => {
        most = Math.max(most, (now += 1));
        await tables.sql('SELECT pg_sleep(0.002)');
        now -= 1;
      },
      { queue: { concurrency: 4 } },
    );
    await app.jobs.spawnMany(upTo(200).map((payload) => ({ name: 'work', payload, key: `k${payload % 20}` })));
    await drained();
    expect(most).toBe(4);
    for (const n of [0, 7, 19]) expect(seqsOf(work, `k${n}`)).toEqual(upTo(10));
    await app.close();
  });

  it('of a handler counts over its lanes, and does not hold up lanes of another one', async () => {
    const { opened, open } = gate();
    @Injectable()
    class Two {
      readonly slow: Job[] = [];
      readonly quick: Job[] = [];
      now = 0;
      most = 0;

      @JobHandler('work', { name: 'slow', ordered: true, concurrency: 2 })
      async takeLong(job: Job): Promise<void> {
        this.slow.push(job);
        this.most = Math.max(this.most, (this.now += 1));
        await opened;
        await turn();
        this.now -= 1;
      }

      @JobHandler('work', { name: 'quick', ordered: true })
      beQuick(job: Job): void {
        this.quick.push(job);
      }
    }
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Two] });
    const two = app.get(Two);
    await app.jobs.spawnMany(
      upTo(30).flatMap((n) => [
        { name: 'slow', payload: n, key: `slow ${n % 6}` },
        { name: 'quick', payload: n, key: `quick ${n % 6}` },
      ]),
    );
    // The head is of the full handler: what stands behind it has to wait, whatever its own handler.
    await app.jobs.spawn('quick', 'behind', { key: 'slow 5' });
    await until(() => two.quick.length === 30 && two.slow.length >= 2, {
      what: 'all lanes of the other handler are through',
    });
    open();
    await drained();
    expect(two.most).toBe(2);
    expect(two.quick.at(-1)!.payload).toBe('behind');
    for (const n of [0, 1, 2, 3, 4, 5]) {
      const lane = two.slow.filter(({ key }) => key === `slow ${n}`);
      expect(lane.map(({ seq }) => seq)).toEqual(upTo(5));
      expect(lane.map(({ payload }) => payload)).toEqual(upTo(30).filter((payload) => payload % 6 === n));
    }
    await app.close();
  });
});

describe('a name that nobody knows', () => {
  it('at the head holds its lane and no other, until a process knows it', async () => {
    const { app, work } = await startLanes(undefined, { queue: { openNames: true } });
    await app.jobs.spawn('of the next release', 'head', { key: 'lane', channel: 'work', ordered: true });
    await app.jobs.spawn('work', 'follower', { key: 'lane' });
    await app.jobs.spawn('work', 'marker', { key: 'another lane' });
    await until(() => work.steps.includes('marker ends'), { what: 'a job of another lane has run' });
    expect(payloadsOf(work)).toEqual(['marker']);
    expect((await app.queue.stats())[0]!.unknownNames).toEqual(['of the next release']);

    const next = await startLanes(undefined, { options: { name: 'of the next release', ordered: true } });
    await drained();
    expect(payloadsOf(next.work)).toEqual(['head']);
    expect(payloadsOf(work)).toEqual(['marker', 'follower']);
    expect(seqsOf(work, 'lane')).toEqual([2]);
    await next.app.close();
    await app.close();
  });
});

describe('without notifications', () => {
  it('a lane is found by polling, and its followers need no further poll', async () => {
    const proxy = await silencingProxy(database.url);
    const { app, work } = await startLanes(undefined, { url: proxy.url, queue: { pollMs: 100 } });
    await until(() => app.events.some(({ type }) => type === 'listening'), { what: 'it has looked around' });
    const sender = await startSender();
    await sender.jobs.spawnMany(upTo(300).map((payload) => ({ name: 'work', payload, key: 'lane' })));
    await drained();
    expect(payloadsOf(work)).toEqual(upTo(300));
    await sender.close();
    await app.close();
    await proxy.close();
  });

  it('a lane is run when the backoff of its head is over, though the process that knew of it has ended', async () => {
    const proxy = await silencingProxy(database.url);
    const fails: Behaviour = ({ payload, attempt }) => {
      if (payload === 'head' && attempt === 1) throw new Error('once more');
    };
    const first = await startLanes(fails, { options: { backoff: { type: 'fixed', base: 400, jitter: 0 } } });
    await first.app.jobs.spawnMany(['head', 'follower'].map((payload) => ({ name: 'work', payload, key: 'lane' })));
    await until(() => first.app.events.some(({ type }) => type === 'retrying'), { what: 'the head waits' });
    const { app, work } = await startLanes(fails, { url: proxy.url, queue: { pollMs: 100 } });
    await first.app.close();
    await drained();
    const runs = [...first.work.runs, ...work.runs].map(({ payload, attempt, seq }) => [payload, attempt, seq]);
    expect(runs).toEqual([
      ['head', 1, 1],
      ['head', 2, 1],
      ['follower', 1, 2],
    ]);
    await app.close();
    await proxy.close();
  });

  it('a lane whose job commits late, while nobody listens, is found as soon as somebody listens again', async () => {
    const { app, work } = await startLanes();
    const listens = (times: number): Promise<boolean> =>
      until(() => app.events.filter((event) => event.type === 'listening' && event.listening).length === times, {
        what: `it listens for the ${times}. time`,
      });
    await listens(1);
    const sender = await startSender();
    await sender.dataSource.transaction(async (manager) => {
      await sender.jobs.spawn('work', 'late', { key: 'late', manager });
      // The runner looks at what has arrived, and is through with it.
      await app.jobs.spawn('work', 'early', { key: 'early' });
      await until(() => app.events.some(({ type }) => type === 'completed'), { what: 'a later job is completed' });
      await tables.sql(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'nestmq listen'`);
    });
    await listens(2);
    await until(() => payloadsOf(work).includes('late'), { what: 'the late job runs' });
    await drained();
    await sender.close();
    await app.close();
  });

  it('lanes that plain SQL has filled are found by polling, also one that is known and rests', async () => {
    const { app, work } = await startLanes(undefined, { queue: { pollMs: 100 } });
    await app.jobs.spawn('work', 1, { key: 'lane' });
    await drained();
    await tables.sql(`
      INSERT INTO nestmq.job (id, position, channel, key, name, payload)
      SELECT 1000000 + n, 1000000 + n, 'work', 'lane', 'work', n::text::json FROM generate_series(2, 4) AS n`);
    await drained();
    expect(payloadsOf(work)).toEqual([1, 2, 3, 4]);
    expect(seqsOf(work)).toEqual([1, 2, 3, 4]);
    await app.close();
  });
});
