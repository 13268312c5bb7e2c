import { beforeEach, describe, expect, it } from '@jest/globals';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { laneWith, oneByOne, payloadsOf, seqsOf, turn, upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

const LEVELS = ['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'] as const;

const drained = (): Promise<boolean> => untilDone(tables);

beforeEach(() => tables.clear());

/** An application whose lanes take one job at a time, so that each next head is looked for when its turn comes. */
async function startLanes(behaviour?: Behaviour, queue = {}) {
  const Work = laneWith({ backoff: { type: 'fixed', base: 1, jitter: 0 } }, behaviour);
  const app = await startApp({
    ...database,
    queue: { ...POLLING_OFF, prefetchMs: 0, ...queue },
    providers: [Work],
    typeorm: { poolSize: 40 },
  });
  return { app, work: app.get(Work) };
}

/** Spawns in a transaction of its own, which stays open until it is told to commit. */
async function spawnOpen(app: TestApp, payload: unknown, key = 'lane') {
  const { opened, open } = gate();
  const spawned = gate();
  const committed = app.dataSource.transaction(async (manager) => {
    await app.jobs.spawn('work', payload, { key, manager });
    spawned.open();
    await opened;
  });
  await spawned.opened;
  return {
    commit: (): Promise<void> => {
      open();
      return committed;
    },
  };
}

describe('the order of a lane', () => {
  it('is the order of the calls within a transaction, singly and many at once', async () => {
    const { app, work } = await startLanes(turn);
    await app.dataSource.transaction(async (manager) => {
      await app.jobs.spawn('work', 1, { key: 'lane', manager });
      await app.jobs.spawnMany(
        [2, 3, 4].map((payload) => ({ name: 'work', payload, key: 'lane' })),
        { manager },
      );
      await app.jobs.spawn('work', 5, { key: 'lane', manager });
    });
    await drained();
    expect(work.steps).toEqual(oneByOne(...upTo(5)));
    await app.close();
  });

  // acceptance: modkit-db outbox enqueue_batch_mixed_partitions; sqlxmq code 6
  it('is the order of the items of one call, whatever their number, lanes and due times', async () => {
    const { app, work } = await startLanes();
    const past = new Date(Date.now() - 60_000);
    await app.jobs.spawnMany(
      upTo(1_200).map((payload) => ({
        ...{ name: 'work', payload, key: `lane ${payload % 3}` },
        ...(payload % 5 === 0 && { runAt: past }),
      })),
    );
    await drained();
    for (const lane of [0, 1, 2]) {
      expect(payloadsOf(work, `lane ${lane}`)).toEqual(upTo(1_200).filter((payload) => payload % 3 === lane));
      expect(seqsOf(work, `lane ${lane}`)).toEqual(upTo(400));
    }
    await app.close();
  });

  it.each(LEVELS)('puts a job behind all that was committed before its spawn was called, at %s', async (level) => {
    const { app: sender } = await startLanes(undefined, { runner: false });
    await sender.dataSource.transaction(level, async (manager) => {
      // Its snapshot is older than the other transaction.
      await manager.query('SELECT count(*) FROM nestmq.job');
      await sender.dataSource.transaction((other) => sender.jobs.spawn('work', 1, { key: 'lane', manager: other }));
      await sender.jobs.spawn('work', 2, { key: 'lane' });
      await sender.jobs.spawn('work', 3, { key: 'lane', manager });
    });
    await sender.close();
    const { app, work } = await startLanes();
    await drained();
    expect(payloadsOf(work)).toEqual([1, 2, 3]);
    await app.close();
  });

  it('goes by the transactions as a history of random, overlapping and rolled back ones shows', async () => {
    const { app, work } = await startLanes();
    const LANES = ['a', 'b', 'c'];
    interface Sent {
      readonly key: string;
      readonly payload: string;
      readonly calledAt: number;
      committedAt: number;
    }
    const sent: Sent[] = [];
    const produce = async (producer: number): Promise<void> => {
      for (const nth of upTo(30)) {
        const mine: Sent[] = [];
        await app.dataSource
          .transaction(LEVELS[nth % 3]!, async (manager) => {
            for (const call of upTo(1 + (nth % 3))) {
              const key = LANES[Math.floor(Math.random() * LANES.length)]!;
              const payload = `${producer}.${nth}.${call}`;
              mine.push({ key, payload, calledAt: performance.now(), committedAt: Infinity });
              await app.jobs.spawn('work', payload, { key, manager });
              await manager.query('SELECT pg_sleep(random() * 0.005)');
            }
            if (Math.random() < 0.2) throw new Error('rolled back');
          })
          .then(
            () => mine.map((job) => Object.assign(job, { committedAt: performance.now() })),
            (error: Error) => {
              if (error.message !== 'rolled back') throw error;
              mine.length = 0;
            },
          );
        sent.push(...mine);
      }
    };
    await Promise.all(upTo(6).map(produce));
    await drained();

    for (const lane of LANES) {
      const jobs = sent.filter(({ key }) => key === lane);
      const ran = payloadsOf(work, lane) as string[];
      expect(ran.toSorted()).toEqual(jobs.map(({ payload }) => payload).toSorted());
      expect(seqsOf(work, lane)).toEqual(upTo(ran.length));
      const place = new Map(ran.map((payload, index) => [payload, index]));
      const placeOf = ({ payload }: Sent): number => place.get(payload)!;
      const ofOneTransaction = (one: Sent, other: Sent): boolean =>
        one.payload.replace(/\.\d+$/, '') === other.payload.replace(/\.\d+$/, '') && one.calledAt < other.calledAt;
      const wrong = jobs.flatMap((one) =>
        jobs
          .filter((other) => one.committedAt < other.calledAt || ofOneTransaction(one, other))
          .filter((other) => placeOf(one) > placeOf(other))
          .map((other) => `${other.payload} ran before ${one.payload}`),
      );
      expect(wrong).toEqual([]);
    }
    await app.close();
  });
});

// acceptance: 7 row 4
describe('a lower number that commits late', () => {
  it('comes next when the lane is running, before the others that wait', async () => {
    const head = gate();
    const { app, work } = await startLanes(({ payload }) => (payload === 'head' ? head.opened : undefined));
    const late = await spawnOpen(app, 'late');
    for (const payload of ['head', 'waiting']) await app.jobs.spawn('work', payload, { key: 'lane' });
    await until(() => work.runs.length, { what: 'the head runs' });
    await late.commit();
    head.open();
    await drained();
    expect(work.steps).toEqual(oneByOne('head', 'late', 'waiting'));
    expect(seqsOf(work)).toEqual([1, 2, 3]);
    await app.close();
  });

  it('does not pass a head that waits for its retry', async () => {
    const { app, work } = await startLanes(({ payload, attempt }) => {
      if (payload === 'head' && attempt === 1) throw new Error('once more');
    });
    const late = await spawnOpen(app, 'late');
    await app.jobs.spawn('work', 'head', { key: 'lane', backoff: { type: 'fixed', base: '1h', jitter: 0 } });
    await app.jobs.spawn('work', 'waiting', { key: 'lane' });
    await until(() => app.events.some(({ type }) => type === 'retrying'), { what: 'the head waits for its retry' });
    await late.commit();
    await app.jobs.spawn('work', 'marker', { key: 'another lane' });
    await until(() => payloadsOf(work).includes('marker'), { what: 'a job of another lane has run' });
    expect(payloadsOf(work, 'lane')).toEqual(['head']);
    // Its backoff is over.
    await tables.sql(`UPDATE nestmq.job SET due_at = now() - interval '1 second' WHERE seq IS NOT NULL`);
    await tables.sql(`UPDATE nestmq.lane SET ready_at = now() - interval '1 second' WHERE key = 'lane'`);
    await app.close();

    const { app: next, work: later } = await startLanes();
    await drained();
    expect(later.runs.map(({ payload, seq, attempt }) => [payload, seq, attempt])).toEqual([
      ['head', 1, 2],
      ['late', 2, 1],
      ['waiting', 3, 1],
    ]);
    await next.close();
  });

  it('wakes a lane that has come to rest, without a poll', async () => {
    const { app, work } = await startLanes();
    const late = await spawnOpen(app, 'late');
    await app.jobs.spawn('work', 'early', { key: 'lane' });
    await until(() => app.events.some(({ type }) => type === 'completed'), { what: 'the early one is completed' });
    await late.commit();
    await drained();
    expect(payloadsOf(work)).toEqual(['early', 'late']);
    await app.close();
  });

  it('is found without a poll whenever it commits, also while the lane is coming to rest', async () => {
    const { app, work } = await startLanes();
    for (const round of upTo(100)) {
      const late = await spawnOpen(app, 'late');
      let committed: Promise<void> | undefined;
      // The commit and the settlement of this run are under way at once.
      work.behaviour = ({ payload }) => {
        if (payload !== 'early') return;
        const delay = round % 4;
        committed =
          delay === 0
            ? late.commit()
            : app.dataSource.query(`SELECT pg_sleep(${delay / 1_000})`).then(() => late.commit());
      };
      await app.jobs.spawn('work', 'early', { key: 'lane' });
      await until(() => work.runs.length === 2 * round, { what: `the late job of round ${round} has run` });
      await committed;
    }
    expect(seqsOf(work)).toEqual(upTo(200));
    await app.close();
  });
});

// acceptance: sqlxmq #9
describe('spawners into one lane', () => {
  it.each(LEVELS)('never wait for each other: 32 open transactions at %s, and the lane runs on', async (level) => {
    const { app, work } = await startLanes();
    const commit = gate();
    let open = 0;
    const transactions = upTo(32).map((n) =>
      app.dataSource.transaction(level, async (manager) => {
        await app.jobs.spawn('work', `${n} first`, { key: 'lane', manager });
        open += 1;
        await commit.opened;
        await app.jobs.spawn('work', `${n} second`, { key: 'lane', manager });
      }),
    );
    await until(() => open === 32, { what: 'all are open, each with a spawned job' });
    await app.jobs.spawn('work', 'plain', { key: 'lane' });
    await until(() => payloadsOf(work).includes('plain'), { what: 'a plain job runs in the meantime' });
    commit.open();
    await Promise.all(transactions);
    await drained();
    const ran = payloadsOf(work);
    expect(ran).toHaveLength(65);
    expect(seqsOf(work)).toEqual(upTo(65));
    for (const n of upTo(32)) expect(ran.indexOf(`${n} first`)).toBeLessThan(ran.indexOf(`${n} second`));
    expect(new Set(ran).size).toBe(65);
    await app.close();
  });

  it('never deadlock: lanes in opposite order, while a runner works in both', async () => {
    const { app, work } = await startLanes();
    const pair = (keys: readonly string[], mine: () => void, others: Promise<void>): Promise<void> =>
      app.dataSource.transaction(async (manager) => {
        await app.jobs.spawn('work', keys[0], { key: keys[0]!, manager });
        mine();
        await others;
        await app.jobs.spawn('work', keys[1], { key: keys[1]!, manager });
      });
    for (const _ of upTo(20)) {
      const [one, other] = [gate(), gate()];
      await app.jobs.spawnMany(['a', 'b'].map((key) => ({ name: 'work', payload: key, key })));
      await Promise.all([pair(['a', 'b'], one.open, other.opened), pair(['b', 'a'], other.open, one.opened)]);
    }
    await drained();
    for (const key of ['a', 'b']) expect(seqsOf(work, key)).toEqual(upTo(60));
    await app.close();
  });

  it('wait for no runner: a spawn goes through while all lanes are locked', async () => {
    const { app: sender } = await startLanes(undefined, { runner: false });
    await sender.dataSource.transaction(async (manager) => {
      await manager.query(
        'LOCK TABLE nestmq.lane, nestmq.lease, nestmq.runner, nestmq.handler_policy IN ACCESS EXCLUSIVE MODE',
      );
      await sender.jobs.spawn('work', 'plain', { key: 'lane' });
      await sender.dataSource.transaction((other) =>
        sender.jobs.spawn('work', 'joined', { key: 'lane', manager: other }),
      );
    });
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(2);
    await sender.close();
  });
});
