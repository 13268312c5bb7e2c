import { beforeEach, describe, expect, it } from '@jest/globals';
import { RejectJob, RetryAfter, SnoozeJob, type HandlerOptions, type QueueModuleOptions } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { laneWith, oneByOne, payloadsOf, seqsOf, upTo, type LaneWork } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, takeTime, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

const SOON = { type: 'fixed', base: 20, jitter: 0 } as const;
const LATER = { type: 'fixed', base: '1h', jitter: 0 } as const;

const drained = (): Promise<boolean> => untilDone(tables);

beforeEach(() => tables.clear());

/** Without and with runs of several jobs: a lane of quick ones is leased for more than its head. */
const RUNS: [string, QueueModuleOptions][] = [
  ['one job at a time', { prefetchMs: 0 }],
  ['many at once', { prefetchMs: 1_000 }],
];

async function startLanes(options: HandlerOptions, behaviour: Behaviour, queue: QueueModuleOptions = {}) {
  const Work = laneWith({ backoff: SOON, ...options }, behaviour);
  const app = await startApp({ ...database, queue: { ...POLLING_OFF, ...queue }, providers: [Work] });
  return { app, work: app.get(Work) };
}

/** Sends a lane's jobs at once, so that a run may take all of them. */
const send = (app: TestApp, ...payloads: unknown[]) =>
  app.jobs.spawnMany(payloads.map((payload) => ({ name: 'work', payload, key: 'lane' })));

/** A job of another lane that was sent last has run: what had to run before it has run. */
async function markerRuns(app: TestApp, work: LaneWork, marker = 'marker'): Promise<void> {
  await app.jobs.spawn('work', marker, { key: 'another lane' });
  await until(() => work.steps.includes(`${marker} ends`), { what: 'a job of another lane has run' });
}

/** What waits for a time has waited long enough. */
async function endDelays(): Promise<void> {
  await tables.sql(`UPDATE nestmq.job SET due_at = now() - interval '1 second' WHERE due_at > now()`);
  await tables.sql(`UPDATE nestmq.lane SET ready_at = now() - interval '1 second' WHERE ready_at > now()`);
}

const runsOf = (work: LaneWork): unknown[] =>
  work.runs.filter(({ key }) => key === 'lane').map(({ payload, attempt, seq }) => [payload, attempt, seq]);

describe.each(RUNS)('a lane that is leased for %s', (_, queue) => {
  it('is held by a head that waits for its retry, and goes on in order', async () => {
    const { app, work } = await startLanes(
      {},
      ({ payload, attempt }) => {
        if (payload === 2 && attempt < 3) throw new Error('once more');
      },
      queue,
    );
    await send(app, ...upTo(5));
    await drained();
    expect(runsOf(work)).toEqual([
      [1, 1, 1],
      [2, 1, 2],
      [2, 2, 2],
      [2, 3, 2],
      [3, 1, 3],
      [4, 1, 4],
      [5, 1, 5],
    ]);
    await app.close();
  });

  // acceptance: modkit-db outbox G decoupled_retry_does_not_advance_cursor
  it('keeps what ran before the failure completed, and spends no attempt of what stands behind it', async () => {
    const { app, work } = await startLanes(
      { backoff: LATER, retention: '1h' },
      ({ payload }) => {
        if (payload === 'fails') throw new Error('told to fail');
      },
      queue,
    );
    const ids = (await send(app, 'before', 'fails', 'behind 1', 'behind 2')).map(({ id }) => id);
    await until(() => app.events.some(({ type }) => type === 'retrying'), { what: 'the second one has failed' });
    await markerRuns(app, work);
    const found = await Promise.all(ids.map((id) => app.queue.get(id)));
    expect(found.map((job) => [job?.state, job?.attempts, job?.seq])).toEqual([
      ['completed', 1, 1],
      ['waiting', 1, 2],
      ['waiting', 0, null],
      ['waiting', 0, null],
    ]);
    expect(found[1]!.lastError).toContain('told to fail');
    expect(payloadsOf(work, 'lane')).toEqual(['before', 'fails']);
    await app.close();
  });

  // acceptance: modkit-db outbox G adaptive_batch_isolates_poison_message, batch_size_one_partial_failure_is_noop
  it.each([1, 2, 3, 4])('passes by a job that is rejected in place %d of four, which alone is dead', async (place) => {
    const { app, work } = await startLanes(
      { retention: '1h' },
      ({ payload }) => {
        if (payload === place) throw new RejectJob('poison');
      },
      queue,
    );
    const ids = (await send(app, ...upTo(4))).map(({ id }) => id);
    await drained();
    expect(work.steps).toEqual(oneByOne(...upTo(4)));
    expect(seqsOf(work)).toEqual(upTo(4));
    const states = await Promise.all(ids.map(async (id) => (await app.queue.get(id))?.state));
    expect(states).toEqual(upTo(4).map((nth) => (nth === place ? 'dead' : 'completed')));
    expect(await app.queue.get(ids[place - 1]!)).toMatchObject({ reason: 'rejected', attempts: 1, seq: place });
    await app.close();
  });

  it('passes by several dead jobs in a row', async () => {
    const { app, work } = await startLanes(
      { retries: 1, backoff: { type: 'fixed', base: 1, jitter: 0 } },
      ({ payload }) => {
        if (payload !== 4) throw new Error('told to fail');
      },
      queue,
    );
    await send(app, ...upTo(4));
    await drained();
    expect(payloadsOf(work)).toEqual([1, 1, 2, 2, 3, 3, 4]);
    expect(await tables.number(`SELECT count(*) FROM nestmq.finished_job WHERE state = 'dead'`)).toBe(3);
    await app.close();
  });

  it('is held by a head that was snoozed, whose run does not count, and by one that says when', async () => {
    const { app, work } = await startLanes(
      { retries: 1 },
      ({ payload, attempt }) => {
        if (payload === 'snoozed' && work.runs.length < 4) throw new SnoozeJob(20);
        if (payload === 'later' && attempt === 1) throw new RetryAfter(20, 'later');
      },
      queue,
    );
    await send(app, 'snoozed', 'later', 'last');
    await drained();
    expect(runsOf(work)).toEqual([
      ['snoozed', 1, 1],
      ['snoozed', 1, 1],
      ['snoozed', 1, 1],
      ['snoozed', 1, 1],
      ['later', 1, 2],
      ['later', 2, 2],
      ['last', 1, 3],
    ]);
    await app.close();
  });
});

// acceptance: 7 row 6; sqlxmq code 1 and #46; modkit-db outbox 3
describe('an exhausted head', () => {
  it('lets its lane go on, is kept as dead with its number, and is told of', async () => {
    const { app, work } = await startLanes({ retries: 2 }, ({ payload }) => {
      if (payload === 'exhausted') throw new Error('told to fail');
    });
    const [dead] = await send(app, 'exhausted', 'follower');
    await drained();
    expect(payloadsOf(work)).toEqual(['exhausted', 'exhausted', 'exhausted', 'follower']);
    expect(await app.queue.get(dead!.id)).toMatchObject({
      ...{ state: 'dead', reason: 'exhausted', attempts: 3, maxAttempts: 3, seq: 1 },
      lastError: expect.stringContaining('told to fail'),
    });
    expect(app.events).toEqual(expect.arrayContaining([expect.objectContaining({ type: 'dead', id: dead!.id })]));
    expect(await app.queue.stats()).toMatchObject([{ channel: 'work', dead: 1, ready: 0, running: 0 }]);
    await app.close();
  });

  it('does not spend the attempts of the next', async () => {
    const { app, work } = await startLanes({ retries: 1 }, ({ payload, attempt }) => {
      if (payload === 'exhausted' || attempt === 1) throw new Error('told to fail');
    });
    await send(app, 'exhausted', 'next');
    await drained();
    expect(runsOf(work)).toEqual([
      ['exhausted', 1, 1],
      ['exhausted', 2, 1],
      ['next', 1, 2],
      ['next', 2, 2],
    ]);
    await app.close();
  });
});

describe('the lane of a run', () => {
  it('that passes its timeout and does not end is held until the run is given up, never beside it', async () => {
    const ended = gate();
    const { app, work } = await startLanes(
      { timeout: 20, retries: 0 },
      ({ payload }) => (payload === 'hangs' ? ended.opened : undefined),
      { abortGraceMs: 200 },
    );
    await send(app, 'hangs', 'follower');
    await until(() => work.runs[0]?.signal.aborted, { what: 'it is aborted' });
    await markerRuns(app, work);
    expect(payloadsOf(work, 'lane')).toEqual(['hangs']);
    await until(() => payloadsOf(work, 'lane').length === 2, { what: 'the follower runs when it was given up' });
    expect(app.events).toEqual(expect.arrayContaining([expect.objectContaining({ type: 'dead', attempt: 1 })]));
    ended.open();
    await drained();
    await app.close();
  });

  it('that completes in its own transaction goes on when the handler has returned, and not before the commit', async () => {
    const { opened, open } = gate();
    const seen: unknown[] = [];
    const { app, work } = await startLanes({}, async (job) => {
      if (job.payload === 'follower') seen.push(await tables.number('SELECT count(*) FROM nestmq.job'));
      if (job.payload !== 'completes') return;
      await app.dataSource.transaction(async (manager) => {
        await job.complete({ manager });
        work.steps.push('completed');
        await opened;
      });
      work.steps.push('committed');
      await takeTime(5);
    });
    await send(app, 'completes', 'follower');
    await until(() => work.steps.includes('completed'), { what: 'it has completed, and not committed' });
    await markerRuns(app, work);
    open();
    await drained();
    expect(work.steps.filter((step) => !step.startsWith('marker'))).toEqual([
      ...['completes starts', 'completed', 'committed', 'completes ends'],
      ...oneByOne('follower'),
    ]);
    expect(seen).toEqual([1]);
    await app.close();
  });

  it('whose completing transaction rolls back is held by its retry', async () => {
    const { app, work } = await startLanes({}, async (job) => {
      if (job.payload !== 'rolls back' || job.attempt > 1) return;
      await app.dataSource
        .transaction(async (manager) => {
          await job.complete({ manager });
          throw new Error('rolled back');
        })
        .catch(() => undefined);
    });
    await send(app, 'rolls back', 'follower');
    await drained();
    expect(runsOf(work)).toEqual([
      ['rolls back', 1, 1],
      ['rolls back', 2, 1],
      ['follower', 1, 2],
    ]);
    await app.close();
  });
});

describe('a delayed head', () => {
  it('holds its lane until it is due, however long the others are due', async () => {
    const first = await startLanes({}, () => undefined);
    await first.app.jobs.spawn('work', 'delayed', { key: 'lane', delay: '1h' });
    await first.app.jobs.spawn('work', 'due', { key: 'lane', runAt: new Date(0) });
    await markerRuns(first.app, first.work);
    expect(payloadsOf(first.work)).toEqual(['marker']);
    await first.app.close();
    await endDelays();
    const { app, work } = await startLanes({}, () => undefined);
    await drained();
    expect(payloadsOf(work)).toEqual(['delayed', 'due']);
    expect(seqsOf(work)).toEqual([1, 2]);
    await app.close();
  });

  it('that becomes due is started without a poll', async () => {
    const { app, work } = await startLanes({}, () => undefined);
    await app.jobs.spawn('work', 'delayed', { key: 'lane', delay: 200 });
    await app.jobs.spawn('work', 'due', { key: 'lane', runAt: new Date(0) });
    await drained();
    expect(work.steps).toEqual(oneByOne('delayed', 'due'));
    await app.close();
  });

  it('behind a running one holds the lane when its turn comes', async () => {
    const { opened, open } = gate();
    const { app, work } = await startLanes({}, ({ payload }) => (payload === 'head' ? opened : undefined));
    await send(app, 'head');
    await until(() => work.runs.length, { what: 'the head runs' });
    await app.jobs.spawn('work', 'delayed', { key: 'lane', delay: 200 });
    await send(app, 'due');
    open();
    await drained();
    expect(work.steps).toEqual(oneByOne('head', 'delayed', 'due'));
    await app.close();
  });
});
