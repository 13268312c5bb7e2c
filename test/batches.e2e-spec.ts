import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import {
  InvalidTransitionError,
  RejectJob,
  RetryAfter,
  SnoozeJob,
  type HandlerOptions,
  type Job,
  type JobBatch,
} from 'nestmq';
import { z } from 'zod';
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

const SOON: HandlerOptions = { backoff: { type: 'fixed', base: 1, jitter: 0 } };
const NEVER: HandlerOptions = { backoff: '1h' };

let app: TestApp;
let work: BatchWork;

beforeEach(() => tables.clear());

/** Within a group, so that it comes before the check that none was left open. */
const closeAfterEach = (): void => afterEach(() => app.close());

interface Setting {
  readonly options?: HandlerOptions & { batch?: number };
  readonly concurrency?: number;
  readonly onError?: (error: unknown, job: Job) => void;
}

async function open(
  behaviour: BatchBehaviour,
  { options = {}, concurrency = 1, onError }: Setting = {},
): Promise<void> {
  const Work = batchWith({ batch: 8, ...options }, behaviour);
  const queue = { ...POLLING_OFF, concurrency, ...(onError && { onError }) };
  app = await startApp({ ...database, queue, providers: [Work] });
  work = app.get(Work);
}

/** All of one commit, so that they come together. */
async function send(payloads: readonly unknown[]): Promise<string[]> {
  const answers = await app.jobs.spawnMany(payloads.map((payload) => ({ name: 'work', payload })));
  return answers.map(({ id }) => id);
}

const isStopping = (): Promise<number> =>
  until(() => tables.number('SELECT count(*) FROM nestmq.runner WHERE stopping'), { what: 'it is stopping' });

const numbers = (batch: JobBatch): Job<number>[] => [...batch.jobs] as Job<number>[];

const idsOf = (type: 'completed' | 'released' | 'retrying' | 'dead'): string[] =>
  eventsOf(app, type)
    .map(({ id }) => id)
    .toSorted((a, b) => Number(a) - Number(b));

const stored = async (id: string) => {
  const job = await app.queue.get(id);
  return job && { state: job.state, attempts: job.attempts, error: job.lastError?.split('\n', 1)[0] ?? null };
};

describe('a handler with batch', () => {
  closeAfterEach();

  it('gets the jobs of one commit together, and what it does not tell of is completed when it returns', async () => {
    await open(() => undefined, { options: { batch: 5 } });
    const ids = await send(upTo(5));
    await drained();
    expect(batchesOf(work)).toEqual([upTo(5)]);
    expect(work.runs.map(({ id, attempt, channel, name }) => ({ id, attempt, channel, name }))).toEqual(
      ids.map((id) => ({ id, attempt: 1, channel: 'work', name: 'work' })),
    );
    expect(idsOf('completed')).toEqual(ids);
    expect(eventsOf(app, 'started')).toHaveLength(5);
    expect(await tables.number('SELECT count(*) FROM nestmq.finished_job')).toBe(0);
  });

  it('never gets more than it says, and a backlog drains in full batches without a poll', async () => {
    await open(() => undefined, { options: { batch: 6 } });
    await send(upTo(20));
    await drained();
    expect(work.batches.map(({ jobs }) => jobs.length)).toEqual([6, 6, 6, 2]);
    expect(work.runs.map(({ payload }) => payload)).toEqual(upTo(20));
  });

  it('gets a batch of one, too', async () => {
    await open(() => undefined);
    await send(['alone']);
    await drained();
    expect(batchesOf(work)).toEqual([['alone']]);
  });

  it('takes one slot for each of its batches: never more at once than its concurrency, and they fill meanwhile', async () => {
    const gates = [gate(), gate(), gate()];
    await open((batch) => gates[work.batches.indexOf(batch)]?.opened, {
      options: { batch: 4, concurrency: 2 },
      concurrency: 8,
    });
    await send(['first']);
    await until(() => work.batches.length === 1, { what: 'one batch runs' });
    await send(['second']);
    await until(() => work.batches.length === 2, { what: 'two batches run' });
    for (const payload of upTo(7)) await send([payload]);
    expect(work.batches).toHaveLength(2);
    gates[0]!.open();
    await until(() => work.batches.length === 3, { what: 'a third one runs' });
    expect(app.queue.running).toBe(2);
    expect(batchesOf(work)[2]).toEqual([1, 2, 3, 4]);
    gates[1]!.open();
    gates[2]!.open();
    await drained();
    expect(batchesOf(work)[3]).toEqual([5, 6, 7]);
  });

  it('never runs more batches at once than the runner has slots', async () => {
    let running = 0;
    let most = 0;
    await open(
      async () => {
        most = Math.max(most, ++running);
        await new Promise((resolve) => setImmediate(resolve));
        running -= 1;
      },
      { options: { batch: 3 }, concurrency: 2 },
    );
    await send(upTo(60));
    await drained();
    expect(most).toBe(2);
    expect(work.runs).toHaveLength(60);
  });

  it('tells of each job by itself: completed with a result, rejected, to be retried', async () => {
    await open(
      (batch) => {
        const [first, second, third] = numbers(batch);
        batch.complete(first!, { told: true });
        batch.reject(second!, 'no such user');
        batch.retry(third!, new Error('come back'));
      },
      { options: { retention: '1h', ...NEVER } },
    );
    const ids = await send(upTo(4));
    await until(() => app.events.filter(({ type }) => type !== 'started').length >= 4, { what: 'all have ended' });
    expect(await Promise.all(ids.map(stored))).toEqual([
      { state: 'completed', attempts: 1, error: null },
      { state: 'dead', attempts: 1, error: 'RejectJob: no such user' },
      { state: 'waiting', attempts: 1, error: 'Error: come back' },
      { state: 'completed', attempts: 1, error: null },
    ]);
    expect(await app.queue.get(ids[0]!)).toMatchObject({ result: { told: true } });
    expect(await app.queue.get(ids[1]!)).toMatchObject({ reason: 'rejected' });
    expect([idsOf('completed'), idsOf('dead'), idsOf('retrying')]).toEqual([[ids[0], ids[3]], [ids[1]], [ids[2]]]);
  });

  it('retries after the time that it says, and makes a job dead whose attempts are spent', async () => {
    await open((batch) => numbers(batch).forEach((job) => batch.retry(job, new Error('again'), '2h')), {
      options: { retries: 1, ...SOON },
    });
    const [id] = await send(['fails']);
    await untilEvents(app, 'retrying');
    expect(eventsOf(app, 'retrying')).toMatchObject([{ id, delayMs: 7_200_000 }]);
    await tables.sql('UPDATE nestmq.job SET due_at = clock_timestamp()');
    await app.queue.resume('work');
    await untilEvents(app, 'dead');
    expect(eventsOf(app, 'dead')).toMatchObject([{ id, reason: 'exhausted', attempt: 2 }]);
  });

  it('writes what is told of a job at once, not when the batch ends', async () => {
    const { opened, open: goOn } = gate();
    await open(async (batch) => {
      batch.complete(batch.jobs[0]!);
      await opened;
    });
    const ids = await send(upTo(2));
    await until(async () => !(await app.queue.exists(ids[0]!)), { what: 'the first one is gone' });
    expect(await app.queue.get(ids[1]!)).toMatchObject({ state: 'running' });
    expect(app.queue.running).toBe(1);
    goOn();
    await drained();
  });

  it('refuses to be told twice, of a job of another batch, or after its end', async () => {
    const refused: unknown[] = [];
    const attempt = (what: () => void): void => {
      try {
        what();
      } catch (error) {
        refused.push(error);
      }
    };
    const batches: JobBatch[] = [];
    await open((batch) => {
      batches.push(batch);
      const [job] = batch.jobs;
      if (batches.length === 1) {
        batch.complete(job!);
        attempt(() => batch.retry(job!));
      } else attempt(() => batch.complete(batches[0]!.jobs[0]!));
    });
    await send(['first']);
    await drained();
    await send(['second']);
    await drained();
    attempt(() => batches[1]!.reject(batches[1]!.jobs[0]!, 'late'));
    expect(refused).toEqual(upTo(3).map(() => expect.any(InvalidTransitionError)));
    expect(eventsOf(app, 'completed')).toHaveLength(2);
  });

  it('tells the error hooks of each failed job, and of no other', async () => {
    const heard: string[] = [];
    await open(
      (batch) => {
        const [, second, third] = numbers(batch);
        batch.retry(second!, new Error('two'));
        batch.reject(third!, new Error('three'));
      },
      {
        options: NEVER,
        onError: (error, job) => void heard.push(`${String(job.payload)}: ${(error as Error).message}`),
      },
    );
    await send(upTo(4));
    await until(() => heard.length === 2, { what: 'both failures are heard of' });
    expect(heard.toSorted()).toEqual(['2: two', '3: three']);
  });

  it('does not get a job whose payload its schema refuses, which alone fails', async () => {
    await open(() => undefined, { options: { schema: z.number(), ...NEVER } });
    const ids = await send([1, 2, 3]);
    await drained();
    const more = await app.dataSource.transaction(async (manager) => {
      const answers = await app.jobs.spawnMany(
        [1, 2, 3].map((payload) => ({ name: 'work', payload })),
        { manager },
      );
      await manager.query(`UPDATE nestmq.job SET payload = '"no number"' WHERE id = $1`, [answers[1]!.id]);
      return answers.map(({ id }) => id);
    });
    await untilEvents(app, 'retrying');
    await untilEvents(app, 'completed', 5);
    expect(batchesOf(work)).toEqual([
      [1, 2, 3],
      [1, 3],
    ]);
    expect(idsOf('completed')).toEqual([...ids, more[0], more[2]]);
    expect(eventsOf(app, 'retrying')).toMatchObject([{ id: more[1], error: { code: 'payload_invalid' } }]);
  });

  it('may complete one of its jobs in a transaction, which commits its writes with it', async () => {
    await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint)');
    await open(
      async (batch) => {
        const [first, second] = batch.jobs;
        await app.dataSource.transaction(async (manager) => {
          await manager.query('INSERT INTO effect VALUES ($1)', [first!.id]);
          await first!.complete({ manager });
        });
        await app.dataSource
          .transaction(async (manager) => {
            await second!.complete({ manager });
            throw new Error('rolled back');
          })
          .catch(() => undefined);
      },
      { options: NEVER },
    );
    const ids = await send(upTo(3));
    await until(() => eventsOf(app, 'retrying').length === 1 && eventsOf(app, 'completed').length === 2, {
      what: 'all end',
    });
    expect(idsOf('completed')).toEqual([ids[0], ids[2]]);
    expect(idsOf('retrying')).toEqual([ids[1]]);
    expect(await tables.sql('SELECT job_id::text AS id FROM effect')).toEqual([{ id: ids[0] }]);
  });

  it('aborts its signal at the timeout; what was told stays, and the others are released', async () => {
    const seen: unknown[] = [];
    await open(
      async (batch) => {
        if (work.batches.length > 1) return;
        seen.push(batch.remainingMs() > 0 && batch.remainingMs() <= 200);
        batch.complete(batch.jobs[0]!);
        await new Promise((resolve) => batch.signal.addEventListener('abort', resolve));
        seen.push((batch.signal.reason as { code: string }).code, batch.jobs[1]!.signal.aborted);
        // A timer may come a fraction of a millisecond early.
        seen.push(batch.remainingMs() < 1);
        throw batch.signal.reason;
      },
      { options: { timeout: 200 } },
    );
    const ids = await send(upTo(3));
    await drained();
    expect(seen).toEqual([true, 'job_timeout', true, true]);
    expect(idsOf('released')).toEqual([ids[1], ids[2]]);
    expect(batchesOf(work)).toEqual([[1, 2, 3], [2], [3]]);
    expect(work.runs.map(({ attempt }) => attempt)).toEqual([1, 1, 1, 1, 1]);
  });

  it('has no limit of time where nobody has set one', async () => {
    const seen: number[] = [];
    await open((batch) => void seen.push(batch.remainingMs()));
    await send(['one']);
    await drained();
    expect(seen).toEqual([Infinity]);
  });

  it('is given up when it does not obey: its jobs run again, and what it says later is refused', async () => {
    const { opened, open: goOn } = gate();
    const late: unknown[] = [];
    const Work = batchWith({ batch: 2, timeout: 50, retries: 3 }, async (batch) => {
      if (batch.jobs.length === 1) return;
      await opened;
      try {
        batch.complete(batch.jobs[0]!);
      } catch (error) {
        late.push(error);
      }
    });
    app = await startApp({
      ...database,
      queue: { ...POLLING_OFF, concurrency: 1, abortGraceMs: 50 },
      providers: [Work],
    });
    work = app.get(Work);
    await send(upTo(2));
    await drained();
    goOn();
    await until(() => late.length === 1, { what: 'the first batch has gone on' });
    expect(late).toEqual([expect.any(InvalidTransitionError)]);
    expect(batchesOf(work)).toEqual([[1, 2], [1], [2]]);
    expect(eventsOf(app, 'stuck')).toHaveLength(2);
  });
});

// acceptance: section 1 G
describe('a poison job', () => {
  closeAfterEach();

  const poisoned =
    (how: () => Error): BatchBehaviour =>
    (batch) => {
      if (numbers(batch).some(({ payload }) => payload === 3)) throw how();
    };

  it('spoils a batch that cannot tell it from the others once, and burns none of them', async () => {
    await open(
      poisoned(() => new Error('poison')),
      { options: { retries: 1, ...SOON } },
    );
    const ids = await send(upTo(8));
    await untilEvents(app, 'dead');
    await drained();
    expect(batchesOf(work)[0]).toEqual(upTo(8));
    const runsOf = (n: number): Job[] => work.runs.filter(({ payload }) => payload === n);
    for (const n of upTo(8).filter((n) => n !== 3)) {
      expect(runsOf(n).map(({ attempt }) => attempt)).toEqual([1, 1]);
    }
    // With the others, and then alone until its attempts are spent.
    expect(runsOf(3).map(({ attempt }) => attempt)).toEqual([1, 1, 2]);
    expect(eventsOf(app, 'dead')).toMatchObject([{ id: ids[2], reason: 'exhausted', attempt: 2 }]);
    expect(idsOf('completed')).toEqual(ids.filter((_, index) => index !== 2));
    expect(eventsOf(app, 'batch-failed')).toMatchObject([
      { name: 'work', channel: 'work', jobs: 8, processed: 0, error: { message: 'poison' } },
    ]);
  });

  it('over which a loop stumbles comes alone the next time: those before it stay completed, the tail keeps its attempts', async () => {
    await open(
      (batch) => {
        for (const job of numbers(batch)) {
          if (job.payload === 2) throw new Error('stumbled');
          batch.complete(job);
        }
      },
      { options: NEVER },
    );
    const ids = await send(upTo(3));
    await until(() => eventsOf(app, 'retrying').length === 1 && eventsOf(app, 'completed').length === 2, {
      what: 'all end',
    });
    expect(batchesOf(work)).toEqual([[1, 2, 3], [2], [3]]);
    expect(await stored(ids[1]!)).toEqual({ state: 'waiting', attempts: 1, error: 'Error: stumbled' });
    expect(work.runs.map(({ attempt }) => attempt)).toEqual([1, 1, 1, 1, 1]);
    expect(eventsOf(app, 'batch-failed')).toMatchObject([{ jobs: 3, processed: 1 }]);
  });

  it.each([1, 3, 5])('that is rejected in place %d of five is dead alone, the others are completed', async (poison) => {
    await open((batch) =>
      batch.each((job) => {
        if (job.payload === poison) throw new RejectJob('poison');
      }),
    );
    const ids = await send(upTo(5));
    await drained();
    expect(batchesOf(work)).toEqual([upTo(5)]);
    expect(idsOf('dead')).toEqual([ids[poison - 1]]);
    expect(idsOf('completed')).toEqual(ids.filter((_, index) => index !== poison - 1));
  });

  it('that is alone and rejected is dead, and the handler goes on', async () => {
    await open(({ jobs }) => {
      if (jobs[0]!.payload === 'poison') throw new RejectJob('no');
    });
    const [id] = await send(['poison']);
    await untilEvents(app, 'dead');
    await send(['good']);
    await drained();
    expect(idsOf('dead')).toEqual([id]);
    expect(eventsOf(app, 'completed')).toHaveLength(1);
  });
});

describe('a batch that throws', () => {
  closeAfterEach();

  it('RejectJob rejects every job that was not told of', async () => {
    await open(() => {
      throw new RejectJob('all of them');
    });
    const ids = await send(upTo(3));
    await untilEvents(app, 'dead', 3);
    expect(idsOf('dead')).toEqual(ids);
    expect(eventsOf(app, 'dead').map(({ reason }) => reason)).toEqual(['rejected', 'rejected', 'rejected']);
  });

  it('RejectJob leaves those alone that were told of', async () => {
    await open((batch) => {
      batch.complete(batch.jobs[1]!);
      throw new RejectJob('the rest');
    });
    const ids = await send(upTo(3));
    await untilEvents(app, 'dead', 2);
    expect([idsOf('completed'), idsOf('dead')]).toEqual([[ids[1]], [ids[0], ids[2]]]);
  });

  it('RetryAfter and SnoozeJob put off every job that was not told of, a snooze without a run', async () => {
    await open(
      (batch) => {
        throw batch.jobs[0]!.payload === 'retry' ? new RetryAfter('1h') : new SnoozeJob('1h');
      },
      { options: { batch: 2 } },
    );
    const retried = await send(['retry', 'retry']);
    await untilEvents(app, 'retrying', 2);
    const snoozed = await send(['snooze', 'snooze']);
    await untilEvents(app, 'snoozed', 2);
    const attempts = async (ids: readonly string[]) => Promise.all(ids.map(async (id) => (await stored(id))?.attempts));
    expect([await attempts(retried), await attempts(snoozed)]).toEqual([
      [1, 1],
      [0, 0],
    ]);
  });

  it('after all its jobs were told of changes nothing', async () => {
    await open((batch) => {
      for (const job of batch.jobs) batch.complete(job);
      throw new Error('too late');
    });
    const ids = await send(upTo(2));
    await drained();
    expect(idsOf('completed')).toEqual(ids);
    expect(work.batches).toHaveLength(1);
  });

  it('comes to smaller ones, which grow again: 8, 3, 6, 8', async () => {
    await open((batch) => {
      if (work.batches.length > 1) return;
      for (const job of batch.jobs.slice(0, 3)) batch.complete(job);
      throw new RejectJob('after three of eight');
    });
    await send(upTo(40));
    await drained();
    expect(work.batches.map(({ jobs }) => jobs.length)).toEqual([8, 3, 6, 8, 8, 7]);
  });
});

describe('batch.each', () => {
  closeAfterEach();

  it('completes each job with what the work returns, retries or rejects it for what the work throws', async () => {
    await open(
      (batch) =>
        batch.each((job) => {
          if (job.payload === 2) throw new Error('two');
          if (job.payload === 3) throw new RejectJob('three');
          if (job.payload === 4) throw new SnoozeJob('1h');
          return { done: job.payload };
        }),
      { options: { retention: '1h', ...NEVER } },
    );
    const ids = await send(upTo(5));
    await until(() => app.events.filter(({ type }) => type !== 'started').length >= 5, { what: 'all have ended' });
    expect(await Promise.all(ids.map(stored))).toEqual([
      { state: 'completed', attempts: 1, error: null },
      { state: 'waiting', attempts: 1, error: 'Error: two' },
      { state: 'dead', attempts: 1, error: 'RejectJob: three' },
      { state: 'waiting', attempts: 0, error: null },
      { state: 'completed', attempts: 1, error: null },
    ]);
    expect(await app.queue.get(ids[4]!)).toMatchObject({ result: { done: 5 } });
    expect(eventsOf(app, 'batch-failed')).toEqual([]);
    expect(work.batches).toHaveLength(1);
  });

  it('charges a timeout to the job that was under way, and releases those behind it', async () => {
    await open(
      (batch) =>
        batch.each(async (job) => {
          if (job.payload !== 2) return;
          await new Promise((_, reject) => {
            job.signal.addEventListener('abort', () => reject(job.signal.reason as Error));
          });
        }),
      { options: { timeout: 100, ...NEVER } },
    );
    const ids = await send(upTo(4));
    await until(() => eventsOf(app, 'retrying').length === 1 && eventsOf(app, 'completed').length === 3, {
      what: 'all end',
    });
    expect(eventsOf(app, 'retrying')).toMatchObject([{ id: ids[1], attempt: 1, error: { code: 'job_timeout' } }]);
    expect(idsOf('released')).toEqual([ids[2], ids[3]]);
    expect(work.runs.map(({ attempt }) => attempt).every((attempt) => attempt === 1)).toBe(true);
  });

  it('begins no further job when the process shuts down: the tail is released, no attempt lost', async () => {
    const { opened, open: goOn } = gate();
    const begun: unknown[] = [];
    await open((batch) =>
      batch.each(async (job) => {
        begun.push(job.payload);
        await opened;
      }),
    );
    const ids = await send(upTo(4));
    await until(() => begun.length === 1, { what: 'the first one runs' });
    const closed = app.close();
    await isStopping();
    goOn();
    await closed;
    expect(begun).toEqual([1]);
    const left = await tables.sql('SELECT id::text, attempt, suspect FROM nestmq.job ORDER BY id');
    expect(left).toEqual(ids.slice(1).map((id) => ({ id, attempt: 0, suspect: false })));
  });
});

describe('a batch at a shutdown', () => {
  closeAfterEach();

  it('may come to its end within the grace', async () => {
    const { opened, open: goOn } = gate();
    await open(() => opened);
    await send(upTo(4));
    await until(() => work.batches.length === 1, { what: 'it runs' });
    const closed = app.close();
    await isStopping();
    goOn();
    await closed;
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(0);
  });

  it('that outlasts it is aborted, and its jobs are released without a lost attempt', async () => {
    const Work = batchWith({ batch: 4 }, async ({ signal }) => {
      await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
    });
    app = await startApp({
      ...database,
      queue: { ...POLLING_OFF, concurrency: 1, shutdown: { graceMs: 20 } },
      providers: [Work],
    });
    work = app.get(Work);
    await send(upTo(3));
    await until(() => work.batches.length === 1, { what: 'it runs' });
    await app.close();
    expect(await tables.sql('SELECT attempt, suspect FROM nestmq.job')).toEqual(
      upTo(3).map(() => ({ attempt: 0, suspect: false })),
    );
  });
});

describe('queue.runOne', () => {
  closeAfterEach();

  it('runs one job as a batch of one', async () => {
    const Work = batchWith({ batch: 5 });
    app = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    work = app.get(Work);
    const [id] = await send(upTo(3));
    expect(await app.queue.runOne()).toMatchObject({ id, outcome: 'completed' });
    expect(batchesOf(work)).toEqual([[1]]);
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(2);
  });
});
