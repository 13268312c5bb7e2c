import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { HandlerOptions, Job, JobBatch } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { batchesOf, batchWith, type BatchBehaviour, type BatchWork } from './support/batches.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';

const database = useDatabase();
const tables = useTables(database);

const LEVELS = ['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'] as const;
/** Their transactions see the tables as they were at their first statement. */
const SNAPSHOTS = ['REPEATABLE READ', 'SERIALIZABLE'] as const;

let app: TestApp;
let work: BatchWork;

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (nth int)');
  await tables.sql('TRUNCATE effect');
});

/** Within a group, so that it comes before the check that none was left open. */
const closeAfterEach = (): void => afterEach(() => app.close());

/** Runs five jobs as a batch, and what follows of it; answers how each has ended, by its payload. */
async function runFive(
  behaviour: BatchBehaviour,
  options: HandlerOptions = {},
  key = '',
): Promise<Record<string, string>> {
  const Work = batchWith({ batch: 5, retries: 0, retention: '1h', ...options }, behaviour);
  app = await startApp({ ...database, queue: { ...POLLING_OFF, concurrency: 1 }, providers: [Work] });
  work = app.get(Work);
  await app.jobs.spawnMany(upTo(5).map((payload) => ({ name: 'work', payload, key })));
  await untilDone(tables);
  const rows = await tables.sql<{ nth: string; state: string; attempt: number }>(
    'SELECT payload::text AS nth, state, attempt FROM nestmq.finished_job',
  );
  expect(rows.filter(({ state, attempt }) => state !== 'cancelled' && attempt !== 1)).toEqual([]);
  return Object.fromEntries(rows.map(({ nth, state }) => [nth, state]));
}

const endedBut = (cancelled: number): Record<string, string> =>
  Object.fromEntries(upTo(5).map((nth) => [nth, nth === cancelled ? 'cancelled' : 'completed']));

const numbers = (batch: JobBatch): Job<number>[] => [...batch.jobs] as Job<number>[];
const cancel = (nth: number): Promise<unknown> => {
  const job = work.runs.find(({ payload }) => payload === nth)!;
  return app.queue.cancel(job.id);
};
const write = (job: Job): Promise<unknown> => job.manager.query('INSERT INTO effect VALUES ($1)', [job.payload]);
const effects = async (): Promise<number[]> =>
  (await tables.sql<{ nth: number }>('SELECT nth FROM effect ORDER BY nth')).map(({ nth }) => nth);

describe('a cancelled job of a batch', () => {
  closeAfterEach();

  it('has its own signal aborted, and not that of the batch; told of as failed it ends cancelled, and no other', async () => {
    const aborted: boolean[][] = [];
    const ended = await runFive(async (batch) => {
      await cancel(3);
      aborted.push(
        batch.jobs.map(({ signal }) => signal.aborted),
        [batch.signal.aborted],
      );
      const third = numbers(batch)[2]!;
      batch.retry(third, third.signal.reason);
    });
    expect(aborted).toEqual([[false, false, true, false, false], [false]]);
    expect(ended).toEqual(endedBut(3));
    expect(batchesOf(work)).toEqual([upTo(5)]);
  });

  it('is completed when the handler has done it all the same', async () => {
    const ended = await runFive(() => cancel(3));
    expect(ended).toEqual(endedBut(0));
  });

  it('ends a batch that throws what its signal says: the others come again, together', async () => {
    const ended = await runFive(async (batch) => {
      if (batch.jobs.length === 5) await cancel(3);
      for (const job of numbers(batch)) {
        job.signal.throwIfAborted();
        batch.complete(job);
      }
    });
    expect(ended).toEqual(endedBut(3));
    expect(batchesOf(work)).toEqual([upTo(5), [4, 5]]);
    expect(app.events.filter(({ type }) => type === 'batch-failed')).toEqual([]);
  });

  it('is not begun by each, which goes on with the next', async () => {
    const begun: unknown[] = [];
    const ended = await runFive((batch) =>
      batch.each(async ({ payload }) => {
        begun.push(payload);
        if (payload === 2) await cancel(4);
      }),
    );
    expect(begun).toEqual([1, 2, 3, 5]);
    expect(ended).toEqual(endedBut(4));
    expect(batchesOf(work)).toEqual([upTo(5)]);
  });

  it('lets its lane go on behind it, in order and without a lost attempt', async () => {
    const begun: unknown[] = [];
    const ended = await runFive(
      (batch) =>
        batch.each(async ({ payload }) => {
          begun.push(payload);
          if (payload === 2) await cancel(4);
        }),
      { ordered: true, retries: 1 },
      'lane',
    );
    expect(begun).toEqual([1, 2, 3, 5]);
    expect(ended).toEqual(endedBut(4));
  });
});

describe('a cancelled job of a transactional batch', () => {
  closeAfterEach();

  const begun: unknown[] = [];
  /** Writes one job after another, each in its savepoint; while one of them is under way, one is cancelled. */
  const each = (at: number, cancelled: number, isolation: HandlerOptions['isolation'], obeys = false) => {
    begun.length = 0;
    return runFive(
      (batch) =>
        batch.each(async (job) => {
          begun.push(job.payload);
          await write(job);
          if (job.payload === at && batch.jobs.length === 5) await cancel(cancelled);
          if (obeys) job.signal.throwIfAborted();
        }),
      { transactional: true, isolation },
    );
  };

  it.each(LEVELS)('that ends on its signal is undone alone at %s; the others commit', async (isolation) => {
    expect(await each(3, 3, isolation, true)).toEqual(endedBut(3));
    expect(await effects()).toEqual([1, 2, 4, 5]);
    expect(batchesOf(work)).toEqual([upTo(5)]);
  });

  it.each(LEVELS)('is not begun by each at %s; the others commit', async (isolation) => {
    expect(await each(2, 4, isolation)).toEqual(endedBut(4));
    expect(begun).toEqual([1, 2, 3, 5]);
    expect(await effects()).toEqual([1, 2, 3, 5]);
    expect(batchesOf(work)).toEqual([upTo(5)]);
  });

  it.each([
    [3, 3],
    [3, 1],
  ])('is completed at READ COMMITTED when it is done all the same: cancelled during %d, job %d', async (...at) => {
    expect(await each(...at, 'READ COMMITTED')).toEqual(endedBut(0));
    expect(await effects()).toEqual(upTo(5));
    expect(batchesOf(work)).toEqual([upTo(5)]);
  });

  it.each(SNAPSHOTS)(
    'that does not heed its signal is undone alone at %s, since it could not commit',
    async (level) => {
      expect(await each(3, 3, level)).toEqual(endedBut(3));
      expect(await effects()).toEqual([1, 2, 4, 5]);
      expect(batchesOf(work)).toEqual([upTo(5)]);
    },
  );

  it.each(SNAPSHOTS)(
    'that was done before keeps the others from committing at %s: they come again, together',
    async (level) => {
      expect(await each(3, 1, level)).toEqual(endedBut(1));
      expect(await effects()).toEqual([2, 3, 4, 5]);
      expect(batchesOf(work)).toEqual([upTo(5), [2, 3, 4, 5]]);
      expect(app.events.filter(({ type }) => type === 'batch-failed')).toEqual([]);
    },
  );

  const together = (isolation: HandlerOptions['isolation'], obeys: boolean) =>
    runFive(
      async (batch) => {
        for (const job of batch.jobs) await write(job);
        if (batch.jobs.length === 5) await cancel(3);
        if (obeys) for (const { signal } of batch.jobs) signal.throwIfAborted();
      },
      { transactional: true, isolation },
    );

  it('is completed at READ COMMITTED by a batch that returns', async () => {
    expect(await together('READ COMMITTED', false)).toEqual(endedBut(0));
    expect(batchesOf(work)).toEqual([upTo(5)]);
  });

  it.each(SNAPSHOTS)('rolls back a batch that returns at %s: the others come again, together', async (isolation) => {
    expect(await together(isolation, false)).toEqual(endedBut(3));
    expect(await effects()).toEqual([1, 2, 4, 5]);
    expect(batchesOf(work)).toEqual([upTo(5), [1, 2, 4, 5]]);
  });

  it.each(LEVELS)(
    'rolls back a batch that ends on its signal at %s: the others come again, together',
    async (isolation) => {
      expect(await together(isolation, true)).toEqual(endedBut(3));
      expect(await effects()).toEqual([1, 2, 4, 5]);
      expect(batchesOf(work)).toEqual([upTo(5), [1, 2, 4, 5]]);
      expect(app.events.filter(({ type }) => type === 'batch-failed')).toEqual([]);
    },
  );

  it('that nobody here has heard of rolls back the batch at REPEATABLE READ, and costs no other job an attempt', async () => {
    const ended = await runFive(
      async (batch) => {
        for (const job of batch.jobs) await write(job);
        await tables.sql(`UPDATE nestmq.job SET cancel_requested_at = now() WHERE payload::text = '3'`);
      },
      { transactional: true, isolation: 'REPEATABLE READ' },
    );
    expect(ended).toEqual(endedBut(3));
    expect(await effects()).toEqual([1, 2, 4, 5]);
  });
});
