import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { DeadLetters, InvalidTransitionError, RejectJob, RetryAfter, type HandlerOptions, type Job } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { batchesOf, batchWith, type BatchBehaviour, type BatchWork } from './support/batches.js';
import { useDatabase } from './support/database.js';
import { eventsOf, untilDone, untilEvents } from './support/events.js';
import { upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, untilAborted } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

const drained = (): Promise<boolean> => untilDone(tables);

const NEVER: HandlerOptions = { backoff: '1h' };
const SOON: HandlerOptions = { backoff: { type: 'fixed', base: 1, jitter: 0 } };

let app: TestApp;
let work: BatchWork;

beforeEach(() => tables.clear());

/** Within a group, so that it comes before the check that none was left open. */
const closeAfterEach = (): void => afterEach(() => app.close());

async function open(behaviour: BatchBehaviour, options: HandlerOptions & { batch?: number } = {}): Promise<void> {
  const Work = batchWith({ batch: 5, ordered: true, ...options }, behaviour);
  app = await startApp({ ...database, queue: { ...POLLING_OFF, concurrency: 4 }, providers: [Work] });
  work = app.get(Work);
}

async function send(payloads: readonly unknown[], key = 'lane'): Promise<string[]> {
  const answers = await app.jobs.spawnMany(payloads.map((payload) => ({ name: 'work', payload, key })));
  return answers.map(({ id }) => id);
}

const seen = (): unknown[][] => work.batches.map(({ jobs }) => jobs.map(({ payload, seq }) => [payload, seq]));

const attemptsOf = (payload: number): number[] =>
  work.runs.filter((job) => job.payload === payload).map(({ attempt }) => attempt);

const left = () =>
  tables.sql<{ payload: number; attempt: number; seq: string | null }>(
    'SELECT payload, attempt, seq FROM nestmq.job ORDER BY seq, position',
  );

// acceptance: section 1 G
describe('a batch of an ordered lane', () => {
  closeAfterEach();

  it('is a run of its next jobs, in order and numbered, and the lane goes on behind it', async () => {
    await open(() => undefined);
    await send(upTo(12));
    await drained();
    expect(batchesOf(work)).toEqual([upTo(5), [6, 7, 8, 9, 10], [11, 12]]);
    expect(work.runs.map(({ seq }) => seq)).toEqual(upTo(12));
  });

  it('never has jobs of two lanes', async () => {
    await open(() => undefined);
    await app.jobs.spawnMany(upTo(12).map((n) => ({ name: 'work', payload: n, key: `lane ${n % 3}` })));
    await drained();
    for (const { jobs } of work.batches) expect(new Set(jobs.map(({ key }) => key)).size).toBe(1);
    for (const lane of [0, 1, 2]) {
      const ofLane = work.runs.filter(({ key }) => key === `lane ${lane}`).map(({ payload }) => payload);
      expect(ofLane).toEqual(upTo(12).filter((n) => n % 3 === lane));
    }
  });

  it('does not begin before the one before it has returned, though all its jobs were told of', async () => {
    const { opened, open: goOn } = gate();
    await open(async (batch) => {
      for (const job of batch.jobs) batch.complete(job);
      if (work.batches.length === 1) await opened;
    });
    await send(upTo(8));
    await untilEvents(app, 'completed', 5);
    await send(['marker'], 'other');
    await untilEvents(app, 'completed', 6);
    expect(batchesOf(work)).toEqual([upTo(5), ['marker']]);
    goOn();
    await drained();
    expect(batchesOf(work)[2]).toEqual([6, 7, 8]);
  });

  it('stops at a retry: the tail is released in order, under its numbers, and loses no attempt', async () => {
    await open(
      (batch) =>
        batch.each((job) => {
          if (job.payload === 3 && job.attempt === 1) throw new Error('not yet');
        }),
      SOON,
    );
    await send(upTo(5));
    await drained();
    expect(seen()[0]).toEqual(upTo(5).map((n) => [n, n]));
    expect(work.runs.slice(5).map(({ payload, seq }) => [payload, seq])).toEqual([3, 4, 5].map((n) => [n, n]));
    expect([attemptsOf(3), attemptsOf(4), attemptsOf(5)]).toEqual([
      [1, 2],
      [1, 1],
      [1, 1],
    ]);
    expect(await untilEvents(app, 'retrying')).toHaveLength(1);
  });

  it('that is to be retried leaves all behind it where it was, whatever was told of it', async () => {
    const refused: unknown[] = [];
    await open((batch) => {
      const [first, second, third] = batch.jobs;
      batch.complete(third!);
      batch.complete(first!);
      batch.retry(second!, new Error('later'));
      try {
        batch.complete(batch.jobs[3]!);
      } catch (error) {
        refused.push(error);
      }
    }, NEVER);
    const ids = await send(upTo(5));
    await untilEvents(app, 'retrying');
    await until(async () => (await app.queue.lanes('work'))[0]?.state === 'blocked', { what: 'the lane waits' });
    expect(await left()).toEqual([
      { payload: 2, attempt: 1, seq: '2' },
      { payload: 3, attempt: 0, seq: '3' },
      { payload: 4, attempt: 0, seq: '4' },
      { payload: 5, attempt: 0, seq: '5' },
    ]);
    expect(await app.queue.lanes('work')).toMatchObject([{ headId: ids[1], reason: 'retry', lastSeq: 5 }]);
    expect(eventsOf(app, 'completed').map(({ id }) => id)).toEqual([ids[0]]);
  });

  it('refuses to be told of a job behind one that runs again', async () => {
    const refused: unknown[] = [];
    await open(async (batch) => {
      if (batch.jobs.length < 2) return;
      batch.retry(batch.jobs[0]!);
      await new Promise((resolve) => setImmediate(resolve));
      try {
        batch.complete(batch.jobs[1]!);
      } catch (error) {
        refused.push(error);
      }
    }, NEVER);
    await send(upTo(2));
    await untilEvents(app, 'retrying');
    await until(() => refused.length === 1, { what: 'the second one is refused' });
    expect(refused).toEqual([expect.any(InvalidTransitionError)]);
    await until(async () => (await left()).length === 2, { what: 'both wait' });
  });

  it.each([1, 2, 4])(
    'goes on past a rejection in place %d of four under skip: that one alone is dead',
    async (poison) => {
      await open((batch) =>
        batch.each((job) => {
          if (job.payload === poison) throw new RejectJob('poison');
        }),
      );
      const ids = await send(upTo(4));
      await drained();
      expect(batchesOf(work)).toEqual([upTo(4)]);
      expect((await untilEvents(app, 'dead')).map(({ id }) => id)).toEqual([ids[poison - 1]]);
      expect(await untilEvents(app, 'completed', 3)).toHaveLength(3);
      expect(work.runs.map(({ seq }) => seq)).toEqual(upTo(4));
      await send([5]);
      await drained();
      expect(work.runs.at(-1)).toMatchObject({ payload: 5, seq: 5 });
    },
  );

  it('stops at a rejection where the lane waits for a person: the tail waits, no attempt lost', async () => {
    await open(
      (batch) =>
        batch.each((job) => {
          if (job.payload === 2) throw new RejectJob('look at it');
        }),
      { onDead: 'block' },
    );
    const ids = await send(upTo(4));
    await until(async () => (await app.queue.lanes('work'))[0]?.reason === 'dead', { what: 'the lane is blocked' });
    expect(await app.queue.lanes('work')).toMatchObject([{ headId: ids[1] }]);
    expect(await left()).toEqual([
      { payload: 3, attempt: 0, seq: '3' },
      { payload: 4, attempt: 0, seq: '4' },
    ]);
    await app.get(DeadLetters).discard([ids[1]!]);
    await drained();
    expect(work.runs.slice(4).map(({ payload, seq, attempt }) => [payload, seq, attempt])).toEqual([
      [3, 3, 1],
      [4, 4, 1],
    ]);
  });

  it('rejects all that it was not told of when it throws RejectJob; RetryAfter puts off the first one only', async () => {
    await open(() => {
      throw work.batches.length === 1 ? new RetryAfter('1h') : new RejectJob('all');
    });
    const ids = await send(upTo(3));
    expect(await untilEvents(app, 'retrying')).toMatchObject([{ id: ids[0] }]);
    await until(async () => (await left()).length === 3, { what: 'all wait' });
    expect((await left()).map(({ attempt }) => attempt)).toEqual([1, 0, 0]);
    const others = await send(upTo(3), 'other');
    const dead = await untilEvents(app, 'dead', 3);
    expect(dead.map(({ id }) => id)).toEqual(others);
  });

  it('that throws for an unknown reason comes one by one, in order, and only the poison job is charged', async () => {
    await open(
      (batch) => {
        if (batch.jobs.some(({ payload }) => payload === 2)) throw new Error('poison');
      },
      { retries: 1, ...SOON },
    );
    const ids = await send(upTo(4));
    await untilEvents(app, 'dead');
    await drained();
    expect(seen().slice(0, 4)).toEqual([upTo(4).map((n) => [n, n]), [[1, 1]], [[2, 2]], [[2, 2]]]);
    expect(eventsOf(app, 'dead')).toMatchObject([{ id: ids[1], attempt: 2, reason: 'exhausted' }]);
    expect([1, 3, 4].map(attemptsOf)).toEqual([
      [1, 1],
      [1, 1],
      [1, 1],
    ]);
    expect(work.runs.map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 1, 2, 2, 3, 4]);
  });

  it('has no jobs of another handler, which waits for its turn', async () => {
    const Work = batchWith({ batch: 5, ordered: true });
    const Other = batchWith({ batch: 5, ordered: true, name: 'other' });
    app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work, Other] });
    work = app.get(Work);
    const names = ['work', 'work', 'other', 'other', 'work'];
    await app.jobs.spawnMany(names.map((name, payload) => ({ name, payload, key: 'lane' })));
    await drained();
    expect(batchesOf(work)).toEqual([[0, 1], [4]]);
    expect(batchesOf(app.get(Other))).toEqual([[2, 3]]);
    expect(app.get(Other).runs.map(({ seq }) => seq)).toEqual([3, 4]);
  });

  it('runs its tail elsewhere after a shutdown, in order and without a lost attempt', async () => {
    const { opened, open: goOn } = gate();
    const begun: unknown[] = [];
    await open((batch) =>
      batch.each(async (job) => {
        begun.push(job.payload);
        await opened;
      }),
    );
    await send(upTo(4));
    await until(() => begun.length === 1, { what: 'the first one runs' });
    const closed = app.close();
    await until(() => tables.number('SELECT count(*) FROM nestmq.runner WHERE stopping'), { what: 'it is stopping' });
    goOn();
    await closed;
    expect(begun).toEqual([1]);
    expect((await left()).map(({ payload, attempt }) => [payload, attempt])).toEqual([
      [2, 0],
      [3, 0],
      [4, 0],
    ]);
    await open(() => undefined);
    await drained();
    expect(work.runs.map(({ payload, seq, attempt }) => [payload, seq, attempt])).toEqual([
      [2, 2, 1],
      [3, 3, 1],
      [4, 4, 1],
    ]);
  });
});

describe('job.complete in a batch of an ordered lane', () => {
  closeAfterEach();
  beforeEach(async () => {
    await tables.sql('CREATE TABLE IF NOT EXISTS effect (nth int, job_id bigint)');
    await tables.sql('TRUNCATE effect');
  });

  const effects = (): Promise<object[]> => tables.sql('SELECT nth FROM effect ORDER BY nth');

  async function effect(job: Job, rollBack = false): Promise<void> {
    await app.dataSource.transaction(async (manager) => {
      await manager.query('INSERT INTO effect VALUES ($1, $2)', [job.seq, job.id]);
      await job.complete({ manager });
      if (rollBack) throw new Error('rolled back');
    });
  }

  it('commits one after another, each behind the ends of those before', async () => {
    await open((batch) => batch.each((job) => effect(job)));
    await send(upTo(7));
    await drained();
    expect(await effects()).toEqual(upTo(7).map((nth) => ({ nth })));
    expect(batchesOf(work)).toEqual([upTo(5), [6, 7]]);
    expect(await untilEvents(app, 'completed', 7)).toHaveLength(7);
  });

  it('is refused before the jobs in front have been told of', async () => {
    const refused: unknown[] = [];
    await open(async (batch) => {
      const [first, second] = batch.jobs;
      await effect(second!).catch((error: unknown) => refused.push(error));
      batch.complete(first!);
      await effect(second!);
    });
    await send(upTo(2));
    await drained();
    expect(refused).toEqual([expect.any(InvalidTransitionError)]);
    expect(await effects()).toEqual([{ nth: 2 }]);
  });

  it('that is rolled back is a failed run: nothing behind it counts', async () => {
    await open(async (batch) => {
      for (const job of batch.jobs) await effect(job, job.payload === 2).catch(() => undefined);
    }, NEVER);
    await send(upTo(4));
    await untilEvents(app, 'retrying');
    await untilEvents(app, 'released', 2);
    expect(await effects()).toEqual([{ nth: 1 }]);
    expect(await left()).toEqual([
      { payload: 2, attempt: 1, seq: '2' },
      { payload: 3, attempt: 0, seq: '3' },
      { payload: 4, attempt: 0, seq: '4' },
    ]);
  });
});

describe('a lost lease', () => {
  closeAfterEach();

  async function openAlone(behaviour: BatchBehaviour): Promise<void> {
    const Work = batchWith({ batch: 5, ordered: true }, behaviour);
    app = await startApp({ ...database, queue: { pollMs: 300, leaseMs: 1_000, concurrency: 1 }, providers: [Work] });
    work = app.get(Work);
  }

  it('of one job, which had an end of its own, takes its lane: what was told stays, the others run again in order', async () => {
    let lapsed = false;
    await openAlone((batch) =>
      batch.each(async (job) => {
        if (job.payload !== 2 || lapsed) return;
        lapsed = true;
        await job.keepAlive(50);
        await untilAborted(job);
      }),
    );
    await send(upTo(4));
    await drained();
    expect(seen()[0]).toEqual(upTo(4).map((n) => [n, n]));
    expect(attemptsOf(1)).toEqual([1]);
    const again = work.runs.slice(4).map(({ payload, seq }) => [payload, seq]);
    expect(again).toEqual([2, 3, 4].map((n) => [n, n]));
    expect(await untilEvents(app, 'completed', 4)).toHaveLength(4);
  });

  it('of all aborts the batch, which writes nothing more, and its slot is free for others', async () => {
    const codes: unknown[] = [];
    await openAlone((batch) =>
      batch.each(async (job) => {
        if (codes.length > 0) return;
        await tables.sql('DELETE FROM nestmq.lease');
        await untilAborted(job).catch(() => undefined);
        codes.push((batch.signal.reason as { code: string }).code);
      }),
    );
    await send(upTo(3));
    await until(() => codes.length === 1, { what: 'it is aborted' });
    expect(codes).toEqual(['lease_lost']);
    await send(['other'], 'other');
    await drained();
    expect(attemptsOf(1).length).toBeGreaterThan(1);
    expect(await untilEvents(app, 'lease-lost', 3)).toHaveLength(3);
    expect(await untilEvents(app, 'completed', 4)).toHaveLength(4);
  });
});
