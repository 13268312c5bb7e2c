import { beforeEach, describe, expect, it } from '@jest/globals';
import { InvalidOptionsError, RejectJob, type HandlerOptions, type QueueModuleOptions } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { laneWith, payloadsOf, seqsOf, upTo, type LaneWork } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

const LANE = { channel: 'work', key: 'lane' };

const drained = (): Promise<boolean> => untilDone(tables);

beforeEach(() => tables.clear());

async function startLanes(options: HandlerOptions, behaviour: Behaviour, queue: QueueModuleOptions = {}) {
  const Work = laneWith({ backoff: { type: 'fixed', base: 1, jitter: 0 }, ...options }, behaviour);
  const app = await startApp({ ...database, queue: { ...POLLING_OFF, ...queue }, providers: [Work] });
  return { app, work: app.get(Work) };
}

const send = (app: TestApp, ...payloads: unknown[]) =>
  app.jobs.spawnMany(payloads.map((payload) => ({ name: 'work', payload, key: 'lane' })));

const isDead = (app: TestApp): Promise<boolean> =>
  until(() => app.events.some(({ type }) => type === 'dead'), { what: 'the head is dead' });

async function markerRuns(app: TestApp, work: LaneWork, marker = 'marker'): Promise<void> {
  await app.jobs.spawn('work', marker, { key: 'another lane' });
  await until(() => work.steps.includes(`${marker} ends`), { what: 'a job of another lane has run' });
}

const failing: Behaviour = ({ payload }) => {
  if (payload === 'dies') throw new Error('told to fail');
  if (payload === 'rejected') throw new RejectJob('told to reject');
};

// acceptance: 7 row 6; sqlxmq #46; spec 6
describe('a lane whose handler says onDead: block', () => {
  it.each([
    ['dies', 'exhausted'],
    ['rejected', 'rejected'],
  ])('stays behind a head that %s, and is listed with the reason; other lanes go on', async (payload, reason) => {
    const { app, work } = await startLanes({ onDead: 'block', retries: 1 }, failing);
    const [head] = await send(app, payload, 'follower 1', 'follower 2');
    await isDead(app);
    await send(app, 'later');
    await markerRuns(app, work);
    expect(new Set(payloadsOf(work, 'lane'))).toEqual(new Set([payload]));
    expect(await app.queue.get(head!.id)).toMatchObject({ state: 'dead', reason, seq: 1 });
    const [lane, ...others] = (await app.queue.lanes('work')).filter(({ key }) => key === 'lane');
    expect(others).toEqual([]);
    expect(lane).toMatchObject({
      ...{ channel: 'work', key: 'lane', state: 'blocked', reason: 'dead', lastSeq: 1, dueAt: null, runner: null },
      ...{ headId: head!.id, headName: 'work', lastError: expect.stringContaining('told to') },
    });
    await app.close();
  });

  it('stays so over restarts, until the dead job is discarded, without a poll and without a gap in its numbers', async () => {
    const first = await startLanes({ onDead: 'block', retries: 0 }, failing);
    await send(first.app, 'good', 'dies', 'follower 1', 'follower 2');
    await isDead(first.app);
    await first.app.close();

    const { app, work } = await startLanes({ onDead: 'block', retries: 0 }, failing);
    await markerRuns(app, work);
    expect(payloadsOf(work, 'lane')).toEqual([]);
    expect(await app.deadLetters.discard(LANE)).toBe(1);
    await drained();
    expect(payloadsOf(work, 'lane')).toEqual(['follower 1', 'follower 2']);
    expect(seqsOf(work, 'lane')).toEqual([3, 4]);
    expect(await app.deadLetters.discard(LANE)).toBe(0);
    await app.close();
  });

  it('blocks again at the next dead job', async () => {
    const { app, work } = await startLanes({ onDead: 'block', retries: 0 }, failing);
    await send(app, 'dies', 'rejected', 'good');
    for (const dead of [1, 2]) {
      await until(() => app.events.filter(({ type }) => type === 'dead').length === dead, { what: 'a job is dead' });
      await until(() => app.deadLetters.discard(LANE), { what: 'its letter is discarded' });
    }
    await drained();
    expect(payloadsOf(work)).toEqual(['dies', 'rejected', 'good']);
    await app.close();
  });

  it('is let go by another process, whose runners hear of it', async () => {
    const { app, work } = await startLanes({ onDead: 'block', retries: 0 }, failing);
    const sender = await startApp({
      ...database,
      queue: { runner: false },
      providers: [laneWith({ onDead: 'block', retries: 0 })],
    });
    await send(sender, 'dies', 'follower');
    await isDead(app);
    await until(() => sender.deadLetters.discard(LANE), { what: 'its letter is discarded' });
    await drained();
    expect(payloadsOf(work)).toEqual(['dies', 'follower']);
    await sender.close();
    await app.close();
  });

  it('does not hold up unordered jobs of the same channel and key', async () => {
    const { app, work } = await startLanes({ onDead: 'block', retries: 0 }, failing);
    await send(app, 'dies', 'follower');
    await isDead(app);
    await app.jobs.spawn('work', 'unordered', { key: 'lane', ordered: false });
    await until(() => work.steps.includes('unordered ends'), { what: 'the unordered job has run' });
    expect(payloadsOf(work)).toEqual(['dies', 'unordered']);
    await app.close();
  });

  it('is blocked by jobs of that handler only: those of another in the same lane are passed by', async () => {
    const Skip = laneWith({ retries: 0 }, failing);
    const app = await startApp({
      ...database,
      queue: POLLING_OFF,
      providers: [Skip, { provide: 'other', useFactory: () => new (workWith({ name: 'other', ordered: true }))() }],
    });
    await app.jobs.spawn('work', 'dies', { key: 'lane' });
    const { id } = await app.jobs.spawn('other', 'good', { key: 'lane' });
    await until(async () => (await app.queue.get(id)) === null, { what: 'the other handler’s job is completed' });
    await drained();
    await app.close();
  });
});

describe('queue.lanes', () => {
  it('lists the lanes of a channel with what holds them', async () => {
    const { opened, open } = gate();
    const { app, work } = await startLanes(
      { onDead: 'block', retries: 1, backoff: { type: 'fixed', base: '1h', jitter: 0 } },
      ({ payload }) => {
        if (payload === 'running') return opened;
        if (payload === 'rejected') throw new RejectJob('told to reject');
        if (payload === 'retrying') throw new Error('told to fail');
        return undefined;
      },
      { openNames: true },
    );
    for (const payload of ['running', 'rejected', 'retrying']) {
      await app.jobs.spawn('work', payload, { key: payload });
      await app.jobs.spawn('work', 'follower', { key: payload });
    }
    await app.jobs.spawn('work', null, { key: 'delayed', delay: '1h' });
    await app.jobs.spawn('nobody knows', null, { key: 'unknown', channel: 'work', ordered: true });
    await app.jobs.spawn('work', null, { key: 'unknown' });
    await app.jobs.spawn('work', null, { key: 'another channel', channel: 'other' });
    await until(() => app.events.filter(({ type }) => type === 'retrying' || type === 'dead').length === 2, {
      what: 'two heads have failed',
    });
    await markerRuns(app, work);
    const lanes = await app.queue.lanes('work');
    expect(lanes.map(({ key, state, reason, lastSeq }) => [key, state, reason, lastSeq])).toEqual([
      ['delayed', 'blocked', 'delayed', 0],
      ['rejected', 'blocked', 'dead', 1],
      ['retrying', 'blocked', 'retry', 1],
      ['running', 'running', null, expect.any(Number)],
      ['unknown', 'blocked', 'unknown name', 0],
    ]);
    const lane = (key: string) => lanes.find((found) => found.key === key);
    expect(lane('running')?.runner).toEqual(expect.any(String));
    expect(lane('unknown')).toMatchObject({ headName: 'nobody knows', runner: null, lastError: null });
    expect(lane('retrying')?.lastError).toContain('told to fail');
    expect(lane('delayed')?.dueAt?.getTime()).toBeGreaterThan(Date.now());
    open();
    await app.close();
  });

  it('goes by pages, in the order of the keys', async () => {
    const { app } = await startLanes({}, () => undefined);
    const keys = upTo(25).map((n) => `key ${String(n).padStart(2, '0')}`);
    await app.jobs.spawnMany(keys.map((key) => ({ name: 'work', payload: null, key, delay: '1h' })));
    const pages: string[][] = [];
    for (let after: string | undefined; ;) {
      const page = await app.queue.lanes('work', { limit: 10, ...(after !== undefined && { after }) });
      if (page.length === 0) break;
      pages.push(page.map(({ key }) => key));
      after = page.at(-1)!.key;
    }
    expect(pages.map(({ length }) => length)).toEqual([10, 10, 5]);
    expect(pages.flat()).toEqual(keys);
    await app.close();
  });

  it('tells of a pause and of what is ready, and nothing of lanes at rest', async () => {
    const { app, work } = await startLanes({}, () => undefined);
    await markerRuns(app, work);
    await drained();
    expect(await app.queue.lanes('work')).toEqual([]);
    await app.queue.pause('work');
    await send(app, 'waiting');
    expect(await app.queue.lanes('work')).toMatchObject([{ key: 'lane', state: 'blocked', reason: 'paused' }]);
    await app.close();

    const sender = await startApp({ ...database, queue: { runner: false }, providers: [laneWith()] });
    await sender.queue.resume('work');
    expect(await sender.queue.lanes('work')).toMatchObject([{ key: 'lane', state: 'ready', reason: null, lastSeq: 0 }]);
    await sender.close();
  });

  it('refuses what is no channel, no key and no limit', async () => {
    const { app } = await startLanes({}, () => undefined, { runner: false });
    for (const [channel, options] of [
      ['', {}],
      ['work', { limit: 0 }],
      ['work', { limit: 10_001 }],
      ['work', { after: 'k'.repeat(1_025) }],
      ['work', { after: 7 as never }],
    ] as const) {
      expect(() => app.queue.lanes(channel, options)).toThrow(InvalidOptionsError);
    }
    await app.close();
  });
});
