import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { NotTransactionalError, RejectJob, type HandlerOptions, type Job, type JobBatch } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { batchesOf, batchWith, type BatchBehaviour, type BatchWork } from './support/batches.js';
import { useDatabase } from './support/database.js';
import { eventsOf, untilDone, untilEvents } from './support/events.js';
import { upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

const drained = (): Promise<boolean> => untilDone(tables);

const NEVER: HandlerOptions = { backoff: '1h' };
const SOON: HandlerOptions = { backoff: { type: 'fixed', base: 1, jitter: 0 } };

let app: TestApp;
let work: BatchWork;

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (nth int, xid text DEFAULT pg_current_xact_id()::text)');
  await tables.sql('TRUNCATE effect');
});

/** Within a group, so that it comes before the check that none was left open. */
const closeAfterEach = (): void => afterEach(() => app.close());

async function open(behaviour: BatchBehaviour, options: HandlerOptions & { batch?: number } = {}): Promise<void> {
  const Work = batchWith({ batch: 5, transactional: true, ...options }, behaviour);
  app = await startApp({ ...database, queue: { ...POLLING_OFF, concurrency: 1 }, providers: [Work] });
  work = app.get(Work);
}

async function send(payloads: readonly unknown[], key?: string): Promise<string[]> {
  const answers = await app.jobs.spawnMany(
    payloads.map((payload) => ({ name: 'work', payload, ...(key !== undefined && { key }) })),
  );
  return answers.map(({ id }) => id);
}

const idsOf = (type: 'completed' | 'released' | 'retrying' | 'dead'): string[] =>
  eventsOf(app, type)
    .map(({ id }) => id)
    .toSorted((a, b) => Number(a) - Number(b));

const numbers = (batch: JobBatch): Job<number>[] => [...batch.jobs] as Job<number>[];

const write = (job: Job): Promise<unknown> => job.manager.query('INSERT INTO effect (nth) VALUES ($1)', [job.payload]);

const effects = async (): Promise<number[]> =>
  (await tables.sql<{ nth: number }>('SELECT nth FROM effect ORDER BY nth')).map(({ nth }) => nth);

const transactions = (): Promise<number> => tables.number('SELECT count(DISTINCT xid) FROM effect');

const attemptsOf = (payload: number): number[] =>
  work.runs.filter((job) => job.payload === payload).map(({ attempt }) => attempt);

// acceptance: section 1 D, G, J
describe('a transactional batch', () => {
  closeAfterEach();

  it('completes all its jobs in one transaction with the handler’s own writes', async () => {
    const xids: string[] = [];
    await open(async (batch) => {
      for (const job of numbers(batch)) await write(job);
      const [row] = (await batch.manager.query('SELECT pg_current_xact_id()::text AS xid')) as { xid: string }[];
      xids.push(row!.xid);
    });
    const ids = await send(upTo(5));
    await drained();
    expect(batchesOf(work)).toEqual([upTo(5)]);
    expect(await effects()).toEqual(upTo(5));
    expect(await tables.sql('SELECT DISTINCT xid FROM effect')).toEqual([{ xid: xids[0] }]);
    expect(idsOf('completed')).toEqual(ids);
  });

  it('keeps the results that it was told of', async () => {
    await open(
      async (batch) => {
        const [first, second] = batch.jobs;
        batch.complete(first!, { nth: 1 });
        await second!.complete({ result: { nth: 2 } });
      },
      { retention: '1h' },
    );
    const ids = await send(upTo(3));
    await drained();
    expect(await Promise.all(ids.map(async (id) => (await app.queue.get(id))?.result))).toEqual([
      { nth: 1 },
      { nth: 2 },
      null,
    ]);
  });

  it('that throws is rolled back: nothing of it is completed, none is dead, and each job comes alone', async () => {
    await open(
      async (batch) => {
        for (const job of numbers(batch)) {
          await write(job);
          if (job.payload === 2) throw new Error('poison');
          batch.complete(job);
        }
      },
      { retries: 1, ...SOON },
    );
    const ids = await send(upTo(3));
    await untilEvents(app, 'dead');
    await drained();
    expect(eventsOf(app, 'batch-failed')).toMatchObject([{ jobs: 3, processed: 1, error: { message: 'poison' } }]);
    expect(batchesOf(work).slice(0, 4)).toEqual([upTo(3), [1], [2], [3]]);
    expect(await effects()).toEqual([1, 3]);
    expect(idsOf('completed')).toEqual([ids[0], ids[2]]);
    expect([attemptsOf(1), attemptsOf(2), attemptsOf(3)]).toEqual([
      [1, 1],
      [1, 1, 2],
      [1, 1],
    ]);
  });

  it('that swallows an SQL error is not committed, nor are its jobs', async () => {
    await open(async (batch) => {
      for (const job of numbers(batch)) await write(job);
      if (batch.jobs.length > 1) await batch.manager.query('SELECT 1 / 0').catch(() => undefined);
    }, NEVER);
    await send(upTo(3));
    await drained();
    expect(await effects()).toEqual(upTo(3));
    expect(await transactions()).toBe(3);
    expect(eventsOf(app, 'batch-failed')).toMatchObject([{ error: { code: 'transaction_aborted' } }]);
    expect(work.runs.map(({ attempt }) => attempt).every((attempt) => attempt === 1)).toBe(true);
  });

  it('that throws RejectJob rejects every job that was not told of; a told completion is undone, and comes again', async () => {
    await open(async (batch) => {
      if (work.batches.length > 1) return;
      for (const job of numbers(batch)) await write(job);
      batch.complete(batch.jobs[0]!);
      throw new RejectJob('the rest');
    });
    const ids = await send(upTo(3));
    await drained();
    expect([idsOf('completed'), idsOf('dead')]).toEqual([[ids[0]], [ids[1], ids[2]]]);
    expect(await effects()).toEqual([]);
  });

  it('spawns what lives and dies with it', async () => {
    await open(async (batch) => {
      for (const job of numbers(batch)) {
        if (job.payload < 10) await app.jobs.spawn('work', job.payload + 10, { manager: batch.manager });
      }
      if (work.batches.length === 1) throw new RejectJob('rolled back');
    });
    await send(upTo(2));
    await untilEvents(app, 'dead', 2);
    await send([3]);
    await drained();
    expect(batchesOf(work)).toEqual([[1, 2], [3], [13]]);
  });

  it('at a timeout is rolled back, and its jobs come again without a lost attempt', async () => {
    await open(
      async (batch) => {
        for (const job of numbers(batch)) await write(job);
        if (batch.jobs.length === 1) return;
        await new Promise((_, reject) =>
          batch.signal.addEventListener('abort', () => reject(batch.signal.reason as Error)),
        );
      },
      { timeout: 200 },
    );
    await send(upTo(2));
    await drained();
    expect(batchesOf(work)).toEqual([upTo(2), [1], [2]]);
    expect(await effects()).toEqual([1, 2]);
    expect(work.runs.map(({ attempt }) => attempt)).toEqual([1, 1, 1, 1]);
  });

  it('whose lease is gone is not committed', async () => {
    let taken = false;
    await open(async (batch) => {
      for (const job of numbers(batch)) await write(job);
      if (taken) return;
      taken = true;
      await tables.sql('UPDATE nestmq.job SET run = run + 1 WHERE id = $1', [batch.jobs[1]!.id]);
    });
    await send(upTo(3));
    await drained();
    expect(eventsOf(app, 'batch-failed')).toMatchObject([{ jobs: 3, error: { code: 'lease_lost' } }]);
    expect(await effects()).toEqual(upTo(3));
    expect(await transactions()).toBe(3);
  });

  it('has no manager where the handler is not transactional', async () => {
    const errors: unknown[] = [];
    await open(
      (batch) => {
        try {
          void batch.manager;
        } catch (error) {
          errors.push(error);
        }
      },
      { transactional: false },
    );
    await send([1]);
    await drained();
    expect(errors).toEqual([expect.any(NotTransactionalError)]);
  });
});

describe('batch.each in a transactional batch', () => {
  closeAfterEach();

  it.each([1, 3, 5])(
    'rolls back the rejected job in place %d of five alone; the others commit together',
    async (poison) => {
      await open((batch) =>
        batch.each(async (job) => {
          await write(job);
          if (job.payload === poison) throw new RejectJob('poison');
        }),
      );
      const ids = await send(upTo(5));
      await drained();
      expect(batchesOf(work)).toEqual([upTo(5)]);
      expect(idsOf('dead')).toEqual([ids[poison - 1]]);
      expect(idsOf('completed')).toEqual(ids.filter((_, index) => index !== poison - 1));
      expect(await effects()).toEqual(upTo(5).filter((nth) => nth !== poison));
      expect(await tables.number('SELECT count(*) FROM nestmq.lease')).toBe(0);
    },
  );

  it('rolls back an SQL error of one job, which is retried, and goes on with the next', async () => {
    await open(
      (batch) =>
        batch.each(async (job) => {
          await write(job);
          if (job.payload === 2) await job.manager.query('SELECT 1 / 0');
        }),
      NEVER,
    );
    const ids = await send(upTo(4));
    await until(() => eventsOf(app, 'retrying').length === 1 && eventsOf(app, 'completed').length === 3, {
      what: 'all end',
    });
    expect(idsOf('retrying')).toEqual([ids[1]]);
    expect(await effects()).toEqual([1, 3, 4]);
  });

  it('rolls back what a job wrote that is told of as failed, though its work returns', async () => {
    await open(
      (batch) =>
        batch.each(async (job) => {
          await write(job);
          if (job.payload === 1) batch.reject(job, 'no');
          if (job.payload === 2) batch.retry(job);
        }),
      NEVER,
    );
    const ids = await send(upTo(3));
    await untilEvents(app, 'completed');
    await until(() => eventsOf(app, 'retrying').length === 1 && eventsOf(app, 'dead').length === 1, {
      what: 'all end',
    });
    expect([idsOf('dead'), idsOf('retrying')]).toEqual([[ids[0]], [ids[1]]]);
    expect(await effects()).toEqual([3]);
  });

  it('rejects the whole batch for one job, where the handler says so', async () => {
    await open(
      (batch) =>
        batch.each(async (job) => {
          await write(job);
          if (job.payload === 3) throw new RejectJob('poison');
        }),
      { onReject: 'batch' },
    );
    const ids = await send(upTo(5));
    await untilEvents(app, 'dead', 5);
    expect(idsOf('dead')).toEqual(ids);
    expect(await effects()).toEqual([]);
  });

  it('retries one job and releases the others, where a failure is that of the whole batch', async () => {
    await open(
      (batch) =>
        batch.each(async (job) => {
          await write(job);
          if (job.payload === 2) throw new Error('poison');
        }),
      { onReject: 'batch', ...NEVER },
    );
    const ids = await send(upTo(4));
    await until(() => eventsOf(app, 'retrying').length === 1 && eventsOf(app, 'completed').length === 3, {
      what: 'all end',
    });
    expect(idsOf('retrying')).toEqual([ids[1]]);
    expect(await effects()).toEqual([1, 3, 4]);
    expect([1, 2, 3, 4].map((n) => attemptsOf(n).at(-1))).toEqual([1, 1, 1, 1]);
  });

  it('commits what is done when the process shuts down, and releases the tail', async () => {
    const { opened, open: goOn } = gate();
    let second = false;
    await open((batch) =>
      batch.each(async (job) => {
        await write(job);
        if (job.payload !== 2) return;
        second = true;
        await opened;
      }),
    );
    const ids = await send(upTo(4));
    await until(() => second, { what: 'the second one runs' });
    const closed = app.close();
    await until(() => tables.number('SELECT count(*) FROM nestmq.runner WHERE stopping'), { what: 'it is stopping' });
    goOn();
    await closed;
    expect(await effects()).toEqual([1, 2]);
    expect(await tables.sql('SELECT id::text, attempt FROM nestmq.job ORDER BY id')).toEqual(
      ids.slice(2).map((id) => ({ id, attempt: 0 })),
    );
  });
});

describe('a transactional batch of an ordered lane', () => {
  closeAfterEach();

  it('commits run after run, in order', async () => {
    await open(
      async (batch) => {
        for (const job of numbers(batch)) await write(job);
      },
      { ordered: true },
    );
    await send(upTo(12), 'lane');
    await drained();
    expect(batchesOf(work)).toEqual([upTo(5), [6, 7, 8, 9, 10], [11, 12]]);
    expect(await tables.sql('SELECT nth FROM effect')).toEqual(upTo(12).map((nth) => ({ nth })));
    expect(await transactions()).toBe(3);
  });

  it('stops at a retry in each: what is before commits, what is behind waits without a lost attempt', async () => {
    await open(
      (batch) =>
        batch.each(async (job) => {
          await write(job);
          if (job.payload === 3 && job.attempt === 1) throw new Error('not yet');
        }),
      { ordered: true, ...SOON },
    );
    await send(upTo(5), 'lane');
    await drained();
    expect(await tables.sql('SELECT nth FROM effect')).toEqual(upTo(5).map((nth) => ({ nth })));
    expect([3, 4, 5].map(attemptsOf)).toEqual([
      [1, 2],
      [1, 1],
      [1, 1],
    ]);
  });

  it('goes on past a rejection under skip', async () => {
    await open(
      (batch) =>
        batch.each(async (job) => {
          await write(job);
          if (job.payload === 2) throw new RejectJob('poison');
        }),
      { ordered: true },
    );
    const ids = await send(upTo(4), 'lane');
    await drained();
    expect(batchesOf(work)).toEqual([upTo(4)]);
    expect(idsOf('dead')).toEqual([ids[1]]);
    expect(await effects()).toEqual([1, 3, 4]);
  });

  it('that retries a job by a word is rolled back, since nobody knows what was written for those behind it', async () => {
    await open(
      async (batch) => {
        for (const job of numbers(batch)) await write(job);
        const second = numbers(batch).find(({ payload, attempt }) => payload === 2 && attempt === 1);
        if (second !== undefined) batch.retry(second);
      },
      { ordered: true, ...SOON },
    );
    await send(upTo(3), 'lane');
    await drained();
    expect(await tables.sql('SELECT nth FROM effect')).toEqual(upTo(3).map((nth) => ({ nth })));
    expect([1, 2, 3].map((n) => attemptsOf(n).at(-1))).toEqual([1, 2, 1]);
  });
});
