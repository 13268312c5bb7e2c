import { beforeEach, describe, expect, it } from '@jest/globals';
import { Reservation, type JobSpawner } from 'nestmq';
import { POLLING_OFF, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { withApp } from './support/with-app.js';
import { gate, takeTime, workWith, type Behaviour, type Work } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
beforeEach(async () => {
  await tables.clear();
  await tables.sql('TRUNCATE nestmq.lane');
});

const Sender = workWith({ ordered: true });

const withSender = <T>(work: (app: TestApp) => Promise<T>): Promise<T> =>
  withApp({ url: database.url, providers: [Sender], queue: { runner: false } }, work);

/** Without polls: what starts a job is a notification, or a time that has come. */
const withRunner = (
  work: (app: TestApp, worker: Work) => Promise<void>,
  { behaviour, queue = POLLING_OFF }: { behaviour?: Behaviour; queue?: object } = {},
): Promise<void> => {
  const Worker = workWith({ ordered: true }, behaviour);
  return withApp({ url: database.url, providers: [Worker], queue }, async (app) => {
    await until(() => app.events.some((event) => event.type === 'listening' && event.listening), {
      what: 'the runner listens',
    });
    await work(app, app.get(Worker));
  });
};

const spawn = (jobs: JobSpawner, payload: string, key = 'k'): Promise<{ id: string }> =>
  jobs.spawn('work', payload, { key });

const reserve = (jobs: JobSpawner, payload: string, options: object = {}): Promise<Reservation> =>
  jobs.spawn('work', payload, { key: 'k', hold: '5m', ...options });

const ranIn = (worker: Work, lane = 'k'): unknown[] =>
  worker.runs.filter(({ key }) => key === lane).map(({ payload }) => payload);

async function untilRan(worker: Work, ...payloads: string[]): Promise<void> {
  await until(() => ranIn(worker).length >= payloads.length, { what: `${payloads.join(', ')} have run` });
  expect(ranIn(worker)).toEqual(payloads);
}

/** Everything sent so far has been looked at: a job of another lane, sent behind it, has run. */
async function settle(jobs: JobSpawner, worker: Work, lane: string): Promise<void> {
  await spawn(jobs, 'marker', lane);
  await until(() => ranIn(worker, lane).length > 0, { what: `the marker in lane ${lane} has run` });
}

// spec 5, 6: a held job keeps its place in its lane
describe('a held job at the head of its lane', () => {
  it('holds up its lane, and no other; its commit lets it run in its place, and then those behind it', () =>
    withRunner(async ({ jobs, queue }, worker) => {
      const head = await reserve(jobs, 'held');
      await spawn(jobs, 'second');
      await spawn(jobs, 'third');
      await settle(jobs, worker, 'another');
      expect(ranIn(worker)).toEqual([]);
      const lanes = (await queue.lanes('work')).filter(({ key }) => key === 'k');
      expect(lanes).toMatchObject([{ key: 'k', state: 'blocked', reason: 'held', headId: head.id }]);
      await head.commit();
      await untilRan(worker, 'held', 'second', 'third');
      const mine = worker.runs.filter(({ key }) => key === 'k');
      expect(mine.map(({ seq }) => seq)).toEqual([1, 2, 3]);
    }));

  it('came there when those before it had run', () =>
    withRunner(async ({ jobs }, worker) => {
      const [first, held, last] = await jobs.spawnMany([
        { name: 'work', payload: 'first', key: 'k' },
        { name: 'work', payload: 'held', key: 'k', hold: '5m' },
        { name: 'work', payload: 'last', key: 'k' },
      ]);
      expect([first, held, last].map((answer) => answer instanceof Reservation)).toEqual([false, true, false]);
      await untilRan(worker, 'first');
      await settle(jobs, worker, 'another');
      await untilRan(worker, 'first');
      expect(await jobs.commit([held!.id])).toEqual([held!.id]);
      await untilRan(worker, 'first', 'held', 'last');
    }));

  it('is let run by a commit in a transaction, and stays where it is when that rolls back', () =>
    withRunner(async ({ jobs, dataSource }, worker) => {
      const head = await reserve(jobs, 'held');
      await spawn(jobs, 'second');
      const rolledBack = dataSource.transaction(async (manager) => {
        await head.commit({ manager });
        throw new Error('no');
      });
      await expect(rolledBack).rejects.toThrow('no');
      await settle(jobs, worker, 'another');
      expect(ranIn(worker)).toEqual([]);
      await dataSource.transaction(async (manager) => {
        await head.commit({ manager });
        await settle(jobs, worker, 'a third');
        expect(ranIn(worker)).toEqual([]);
      });
      await untilRan(worker, 'held', 'second');
    }));

  it('holds its lane until its own time when it is committed before', () =>
    withRunner(async ({ jobs }, worker) => {
      const head = await reserve(jobs, 'later', { delay: 400 });
      await spawn(jobs, 'second');
      await head.commit();
      await untilRan(worker, 'later', 'second');
      expect(worker.runs[0]!.dueAt.getTime()).toBeGreaterThan(worker.runs[1]!.dueAt.getTime());
    }));

  it('may be committed while another job of the lane runs', async () => {
    const going = gate();
    await withRunner(
      async ({ jobs }, worker) => {
        await spawn(jobs, 'first');
        const held = await reserve(jobs, 'held');
        await spawn(jobs, 'last');
        await until(() => worker.runs.length === 1, { what: 'the first job runs' });
        await held.commit();
        await settle(jobs, worker, 'another');
        expect(ranIn(worker)).toEqual(['first']);
        going.open();
        await untilRan(worker, 'first', 'held', 'last');
      },
      { behaviour: ({ payload }) => (payload === 'first' ? going.opened : undefined) },
    );
  });
});

describe('those behind a held job go on', () => {
  it.each<[string, (held: Reservation, app: TestApp) => Promise<boolean>]>([
    ['alone', (held) => held.release()],
    ['in a transaction', (held, { dataSource }) => dataSource.transaction((manager) => held.release({ manager }))],
  ])('when it is released, %s, by any process, without a poll', (_, release) =>
    withRunner(async ({ queue, jobs }, worker) => {
      await withSender(async (sender) => {
        const held = await reserve(sender.jobs, 'held');
        await spawn(sender.jobs, 'second');
        await spawn(sender.jobs, 'third');
        await settle(jobs, worker, 'another');
        expect(ranIn(worker)).toEqual([]);
        expect(await release(held, sender)).toBe(true);
        await untilRan(worker, 'second', 'third');
        expect(worker.runs.filter(({ key }) => key === 'k').map(({ seq }) => seq)).toEqual([1, 2]);
        expect(await queue.get(held.id)).toBeNull();
      });
    }),
  );

  it('not when its release rolls back', () =>
    withRunner(async ({ jobs, dataSource }, worker) => {
      const held = await reserve(jobs, 'held');
      await spawn(jobs, 'second');
      const rolledBack = dataSource.transaction(async (manager) => {
        await held.release({ manager });
        throw new Error('no');
      });
      await expect(rolledBack).rejects.toThrow('no');
      await settle(jobs, worker, 'another');
      expect(ranIn(worker)).toEqual([]);
      await held.commit();
      await untilRan(worker, 'held', 'second');
    }));

  it('when its hold ends, at that time and not at the next poll', async () => {
    await withSender(async ({ jobs }) => {
      await reserve(jobs, 'held', { hold: '1500ms' });
      await spawn(jobs, 'second');
    });
    await withRunner(async (_, worker) => {
      await untilRan(worker, 'second');
      expect(worker.runs[0]!.seq).toBe(1);
    });
  });

  it('when its hold has ended while no runner was alive', async () => {
    await withSender(async ({ jobs }) => {
      const held = await reserve(jobs, 'held', { hold: 1 });
      await spawn(jobs, 'second');
      const expired = (): Promise<boolean> =>
        held.commit().then(
          () => false,
          () => true,
        );
      await until(expired, { what: 'the hold has ended' });
    });
    await withRunner((_, worker) => untilRan(worker, 'second'));
  });

  it.each<[string, (held: Reservation) => Promise<unknown>]>([
    ['is released', (held) => held.release()],
    ['has expired', (held) => held.keepAlive(300)],
  ])('when it was the last of its lane, %s, and they came later', (_, end) =>
    withRunner(async ({ jobs }, worker) => {
      const [, held] = await jobs.spawnMany([
        { name: 'work', payload: 'first', key: 'k' },
        { name: 'work', payload: 'held', key: 'k', hold: '5m' },
      ]);
      const isHead = (): Promise<number> =>
        tables.number('SELECT count(*) FROM nestmq.lane WHERE head_position IS NOT NULL');
      await until(async () => (await isHead()) === 1, { what: 'the lane waits for the held job' });
      await end(held as Reservation);
      await until(
        async () => {
          await tables.sql(`SELECT pg_notify('nestmq_wake_up', '["survey"]')`);
          return (await tables.number('SELECT count(*) FROM nestmq.job')) === 0;
        },
        { what: 'the held job is removed' },
      );
      await spawn(jobs, 'later');
      await untilRan(worker, 'first', 'later');
    }),
  );

  it('although the runner that had seen it there is gone', () =>
    withSender(async ({ jobs }) => {
      let held: Reservation | undefined;
      await withRunner(async (app, worker) => {
        held = await reserve(jobs, 'held');
        await spawn(jobs, 'second');
        await settle(app.jobs, worker, 'another');
      });
      expect(await held!.release()).toBe(true);
      await withRunner((_, worker) => untilRan(worker, 'second'));
    }));
});

describe('a released job of a lane', () => {
  it('is gone at once for everybody, also while no runner is alive', () =>
    withSender(async ({ jobs, queue }) => {
      const held = await reserve(jobs, 'held');
      expect(await held.release()).toBe(true);
      expect(await held.release()).toBe(false);
      expect(await queue.get(held.id)).toBeNull();
      expect(await queue.stats()).toEqual([]);
      expect(await jobs.commit([held])).toEqual([]);
      await expect(held.commit()).rejects.toMatchObject({ reason: 'unknown' });
      await expect(held.keepAlive('1m')).rejects.toMatchObject({ reason: 'unknown' });
    }));
});

describe('lanes with holds that are committed, released and end at random', () => {
  const LANES = 12;
  const JOBS = 25;
  type Fate = 'plain' | 'commit' | 'release' | 'expire';
  const FATES: readonly Fate[] = ['plain', 'commit', 'commit', 'release', 'expire'];

  /** Sends one lane's jobs in one call, and does with the held ones what fate says; answers the payloads that are to run. */
  async function sendLane({ jobs, dataSource }: TestApp, key: string): Promise<number[]> {
    const fates = Array.from({ length: JOBS }, () => FATES[Math.floor(Math.random() * FATES.length)]!);
    const answers = await jobs.spawnMany(
      fates.map((fate, payload) => ({
        ...{ name: 'work', payload, key },
        ...(fate !== 'plain' && { hold: fate === 'expire' ? Math.ceil(Math.random() * 300) : ('5m' as const) }),
      })),
    );
    const runs = answers.map(async (answer, index) => {
      if (!(answer instanceof Reservation)) return true;
      await takeTime(Math.random() * 300);
      const fate = fates[index];
      // A transaction each second time, some of which roll back before.
      if (index % 2 === 0) {
        await dataSource
          .transaction(async (manager) => {
            await (fate === 'release' ? answer.release({ manager }) : answer.keepAlive('5m', { manager }));
            throw new Error('no');
          })
          .catch(() => undefined);
      }
      if (fate === 'release') return !(await answer.release());
      return (await jobs.commit([answer])).length > 0;
    });
    const ran = await Promise.all(runs);
    return ran.flatMap((runsToo, payload) => (runsToo ? [payload] : []));
  }

  it('run every job that was committed, once, in order, and none that was not', () =>
    withRunner(
      async (app, worker) => {
        await withRunner(
          async (_, other) => {
            await withSender(async (sender) => {
              const keys = Array.from({ length: LANES }, (__, lane) => `lane ${lane}`);
              const expected = await Promise.all(keys.map((key, lane) => sendLane(lane % 2 ? sender : app, key)));
              await untilDone(tables);
              const runs = [...worker.runs, ...other.runs].toSorted((a, b) => a.seq! - b.seq!);
              for (const [lane, key] of keys.entries()) {
                const mine = runs.filter((run) => run.key === key);
                expect(mine.map(({ payload }) => payload)).toEqual(expected[lane]);
                expect(mine.map(({ seq }) => seq)).toEqual(mine.map((__, index) => index + 1));
              }
              expect(expected.flat().length).toBeGreaterThan(LANES);
              expect(expected.flat().length).toBeLessThan(LANES * JOBS);
            });
          },
          { queue: { pollMs: 500 } },
        );
      },
      { queue: { pollMs: 500 } },
    ));
});
