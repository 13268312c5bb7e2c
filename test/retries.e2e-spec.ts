import { beforeEach, describe, expect, it } from '@jest/globals';
import { RejectJob, RetryAfter, SnoozeJob, type BackoffOptions, type HandlerOptions, type QueueEvent } from 'nestmq';
import { z } from 'zod';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, untilAborted, workWith, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const queue = { ...POLLING_OFF, abortGraceMs: 50 };

beforeEach(() => tables.clear());

async function startWork(options: HandlerOptions, behaviour: Behaviour) {
  const Work = workWith(options, behaviour);
  const app = await startApp({ ...database, queue, providers: [Work] });
  return { app, work: app.get(Work) };
}

type EventOf<Type extends QueueEvent['type']> = Extract<QueueEvent, { type: Type }>;

const eventsOf = <Type extends QueueEvent['type']>(app: TestApp, type: Type): EventOf<Type>[] =>
  app.events.filter((event): event is EventOf<Type> => event.type === type);

const told = async <Type extends QueueEvent['type']>(app: TestApp, type: Type): Promise<EventOf<Type>> => {
  await until(() => eventsOf(app, type).length, { what: `a job is told of as ${type}` });
  return eventsOf(app, type)[0]!;
};

const fail: Behaviour = ({ attempt }) => {
  throw new Error(`failure ${attempt}`);
};

describe('a handler that throws', () => {
  it('runs again after the backoff, from attempt 1 to the last, and never after that: then the job is dead', async () => {
    const { app, work } = await startWork({ retries: 2, backoff: { base: 40, jitter: 0 } }, fail);
    const { id } = await app.jobs.spawn('work');
    await told(app, 'dead');
    expect(eventsOf(app, 'retrying').map(({ delayMs, attempt }) => [attempt, delayMs])).toEqual([
      [1, 40],
      [2, 80],
    ]);
    // Never earlier than the backoff after the run before it, by the database's clock.
    const dueAt = work.runs.map((run) => run.dueAt.getTime());
    expect(dueAt[1]! - dueAt[0]!).toBeGreaterThanOrEqual(40);
    expect(dueAt[2]! - dueAt[1]!).toBeGreaterThanOrEqual(80);
    expect(work.runs.map(({ attempt }) => attempt)).toEqual([1, 2, 3]);
    expect(await app.queue.get(id)).toMatchObject({ state: 'dead', reason: 'exhausted', attempts: 3, maxAttempts: 3 });
    expect((await app.queue.get(id))?.lastError).toContain('failure 3');
    work.behaviour = () => undefined;
    await app.jobs.spawn('work', null, { delay: 200 });
    await told(app, 'completed');
    expect(work.runs).toHaveLength(4);
    await app.close();
  });

  it('fails twice and succeeds at its third try', async () => {
    const { app, work } = await startWork({ backoff: 1 }, (job) => job.attempt < 3 && fail(job));
    await app.jobs.spawn('work');
    await told(app, 'completed');
    expect(work.runs.map(({ attempt }) => attempt)).toEqual([1, 2, 3]);
    expect(await tables.sql('SELECT FROM nestmq.job')).toEqual([]);
    await app.close();
  });

  it('leaves the job waiting with one attempt counted, its error text, and no lease', async () => {
    const { app } = await startWork({ backoff: '1h' }, fail);
    const { id } = await app.jobs.spawn('work');
    await told(app, 'retrying');
    const job = await app.queue.get(id);
    expect(job).toMatchObject({ state: 'waiting', attempts: 1, runner: null });
    expect(job!.lastError).toMatch(/^Error: failure 1\n +at /);
    expect(job!.dueAt.getTime() - job!.createdAt.getTime()).toBeGreaterThanOrEqual(3_600_000);
    await until(() => tables.sql('SELECT FROM nestmq.lease').then((rows) => rows.length === 0), { what: 'no lease' });
    await app.close();
  });

  it('is retried for ever with retries: Infinity', async () => {
    const { app, work } = await startWork({ retries: Infinity, backoff: { type: 'fixed', base: 0 } }, (job) => {
      if (job.attempt < 12) throw new Error('again');
    });
    await app.jobs.spawn('work');
    await told(app, 'completed');
    expect(work.runs).toHaveLength(12);
    expect(work.runs[0]!.maxAttempts).toBe(Infinity);
    await app.close();
  });

  it('does not spend the attempts of a later job of the channel', async () => {
    const { app, work } = await startWork({ retries: 0 }, (job) => job.payload === 'bad' && fail(job));
    await app.jobs.spawn('work', 'bad');
    await told(app, 'dead');
    await app.jobs.spawn('work', 'good');
    await told(app, 'completed');
    expect(work.runs[1]).toMatchObject({ payload: 'good', attempt: 1 });
    await app.close();
  });

  it('keeps what is not an Error, a NUL, and at most 8 KiB of its text with its causes', async () => {
    const { app, work } = await startWork({ retries: 0 }, () => {
      throw new Error('a\0b', { cause: new Error('the cause of it') });
    });
    const dead = async (): Promise<string> => {
      const { id } = await app.jobs.spawn('work');
      await until(async () => (await app.queue.get(id))?.state === 'dead', { what: 'it is dead' });
      return (await app.queue.get(id))!.lastError!;
    };
    const text = await dead();
    expect(text).toMatch(/^Error: ab\n/);
    expect(text).toContain('Caused by: Error: the cause of it');
    work.behaviour = () => {
      throw new Error('ü'.repeat(20_000));
    };
    const long = Buffer.byteLength(await dead());
    expect(long).toBeLessThanOrEqual(8_192);
    expect(long).toBeGreaterThan(8_000);
    // oxlint-disable-next-line typescript/only-throw-error -- that is what is tested
    work.behaviour = () => {
      throw 'a string';
    };
    expect(await dead()).toBe('a string');
    await app.close();
  });
});

describe('backoff', () => {
  /** The waits that the database was told, in milliseconds, of a job that fails again and again. */
  async function waits(backoff: HandlerOptions['backoff'], runs: number, spawn: object = {}): Promise<number[]> {
    const { app } = await startWork({ retries: runs, backoff }, fail);
    await app.jobs.spawn('work', null, spawn);
    for (let run = 1; run <= runs; run++) {
      await until(() => eventsOf(app, 'retrying').length === run, { what: `run ${run} has failed` });
      const stored = `SELECT extract(epoch FROM due_at - clock_timestamp()) FROM nestmq.job`;
      expect(await tables.number(stored)).toBeLessThanOrEqual(eventsOf(app, 'retrying')[run - 1]!.delayMs / 1_000);
      await tables.sql('UPDATE nestmq.job SET due_at = clock_timestamp()');
      // The row has been aged by hand: a resume makes the runner look without a poll.
      await app.queue.resume('work');
    }
    await told(app, 'dead');
    await app.close();
    return eventsOf(app, 'retrying').map(({ delayMs }) => delayMs);
  }
  const exactly = (options: BackoffOptions) => ({ jitter: 0, ...options });

  it('is exponential by default: from the base, doubled, at most max', async () => {
    expect(await waits(exactly({ base: '10s', max: '35s' }), 4)).toEqual([10_000, 20_000, 35_000, 35_000]);
  });

  it('by default starts at one second, and its jitter only goes upwards', async () => {
    const [first] = await waits(undefined, 1);
    expect(first).toBeGreaterThanOrEqual(1_000);
    expect(first).toBeLessThanOrEqual(1_100);
  });

  it('as a duration is the base', async () => {
    const [first, second] = await waits('30s', 2);
    expect(first).toBeGreaterThanOrEqual(30_000);
    expect(second).toBeGreaterThanOrEqual(60_000);
  });

  it('of type fixed is always the base', async () => {
    expect(await waits(exactly({ type: 'fixed', base: '20s' }), 3)).toEqual([20_000, 20_000, 20_000]);
  });

  it('of type full-jitter is anything up to the exponential value', async () => {
    const delays = await waits({ type: 'full-jitter', base: '10s' }, 3);
    delays.forEach((delay, index) => expect(delay).toBeLessThanOrEqual(10_000 * 2 ** index));
    expect(new Set(delays).size).toBeGreaterThan(1);
  });

  it('of type decorrelated is at least the base and at most three times the wait before', async () => {
    const delays = await waits({ type: 'decorrelated', base: '10s', max: '5m' }, 3);
    delays.forEach((delay, index) => {
      expect(delay).toBeGreaterThanOrEqual(10_000);
      expect(delay).toBeLessThanOrEqual(10_000 * 3 ** (index + 1));
    });
  });

  it('may be a function of the attempt and the error', async () => {
    const backoff = (attempt: number, error: unknown): number => attempt * 10_000 + (error as Error).message.length;
    expect(await waits(backoff, 2)).toEqual([10_009, 20_009]);
  });

  it.each([
    [
      'throws',
      () => {
        throw new Error('no');
      },
    ],
    ['answers no number', () => Number.NaN],
    ['answers a negative number', () => -5],
  ])('is the default where the function %s', async (_, backoff) => {
    const [first] = await waits(backoff, 1);
    expect(first).toBeGreaterThanOrEqual(1_000);
    expect(first).toBeLessThanOrEqual(1_100);
  });

  it('of the spawn call goes before the one of the handler', async () => {
    expect(await waits('1h', 1, { backoff: exactly({ type: 'fixed', base: '7s' }) })).toEqual([7_000]);
  });
});

describe('a handler that steers', () => {
  it('by RejectJob makes the job dead at once, whatever attempts are left, and the next job runs', async () => {
    const { app, work } = await startWork({}, (job) => {
      if (job.payload === 'bad') throw new RejectJob('no such user');
    });
    const { id } = await app.jobs.spawn('work', 'bad', { key: 'k' });
    await app.jobs.spawn('work', 'good');
    await told(app, 'completed');
    expect(await told(app, 'dead')).toMatchObject({ id, reason: 'rejected', attempt: 1 });
    const dead = { state: 'dead', reason: 'rejected', attempts: 1, payload: 'bad', key: 'k', channel: 'work' };
    expect(await app.queue.get(id)).toMatchObject(dead);
    expect((await app.queue.get(id))?.lastError).toContain('no such user');
    expect(work.runs).toHaveLength(2);
    await app.close();
  });

  it('by RetryAfter runs again after its time, which counts as a run', async () => {
    const { app } = await startWork({ backoff: '1h' }, () => {
      throw new RetryAfter('90s', 'rate limited');
    });
    const { id } = await app.jobs.spawn('work');
    expect(await told(app, 'retrying')).toMatchObject({ delayMs: 90_000, attempt: 1 });
    expect(await app.queue.get(id)).toMatchObject({ state: 'waiting', attempts: 1 });
    expect((await app.queue.get(id))?.lastError).toContain('rate limited');
    await app.close();
  });

  it('by RetryAfter on its last attempt makes the job dead', async () => {
    const { app } = await startWork({ retries: 0 }, () => {
      throw new RetryAfter('90s');
    });
    const { id } = await app.jobs.spawn('work');
    await told(app, 'dead');
    expect(await app.queue.get(id)).toMatchObject({ state: 'dead', reason: 'exhausted', attempts: 1 });
    await app.close();
  });

  it('by SnoozeJob runs again later without having counted, also on its last attempt', async () => {
    const { app, work } = await startWork({ retries: 0 }, () => {
      if (work.runs.length < 4) throw new SnoozeJob(1);
    });
    await app.jobs.spawn('work');
    await told(app, 'completed');
    expect(work.runs.map(({ attempt }) => attempt)).toEqual([1, 1, 1, 1]);
    expect(eventsOf(app, 'snoozed')).toHaveLength(3);
    expect(eventsOf(app, 'dead')).toEqual([]);
    await app.close();
  });
});

describe('a timeout', () => {
  it('aborts job.signal with a JobTimeoutError, and the run counts as an error', async () => {
    const { app } = await startWork({ timeout: 30, backoff: '1h' }, untilAborted);
    const { id } = await app.jobs.spawn('work');
    await told(app, 'retrying');
    expect(await app.queue.get(id)).toMatchObject({ state: 'waiting', attempts: 1 });
    expect((await app.queue.get(id))?.lastError).toContain('JobTimeoutError');
    expect(eventsOf(app, 'stuck')).toEqual([]);
    await app.close();
  });

  it('lets a success count that comes within the grace', async () => {
    const { app } = await startWork({ timeout: 20 }, (job) => untilAborted(job).catch(() => 'rescued what it could'));
    await app.jobs.spawn('work');
    await told(app, 'completed');
    expect(eventsOf(app, 'retrying')).toEqual([]);
    await app.close();
  });

  it('keeps the slot of a run that does not obey until the grace is over, reports it as stuck, and refuses its completion', async () => {
    const { opened, open } = gate();
    let refusal: unknown;
    const Work = workWith({ timeout: 20, backoff: '1h' }, async (job) => {
      if (job.payload !== 'hangs') return;
      await opened;
      await app.dataSource
        .transaction(async (manager) => {
          await manager.query('CREATE TABLE zombie ()');
          await job.complete({ manager });
        })
        .catch((error: unknown) => (refusal = error));
    });
    const app = await startApp({ ...database, queue: { ...queue, concurrency: 1 }, providers: [Work] });
    const { id } = await app.jobs.spawn('work', 'hangs');
    await until(() => app.get(Work).runs.length, { what: 'it hangs' });
    await app.jobs.spawn('work', 'next');
    await told(app, 'completed');
    const order = app.events.flatMap((event) => ('id' in event ? [event.type] : []));
    expect(order.indexOf('stuck')).toBeLessThan(order.lastIndexOf('started'));
    await until(() => eventsOf(app, 'retrying').length, { what: 'its end is written' });
    expect(order.indexOf('stuck')).toBeGreaterThan(0);
    open();
    await until(() => refusal, { what: 'its completion is refused' });
    expect(refusal).toMatchObject({ code: 'invalid_transition' });
    expect(await tables.sql(`SELECT to_regclass('zombie') AS zombie`)).toEqual([{ zombie: null }]);
    expect(await app.queue.get(id)).toMatchObject({ state: 'waiting', attempts: 1 });
    await app.close();
  });
});

describe('what is kept', () => {
  it('of a completed job with retention: its result, its state and when it finished', async () => {
    const { app } = await startWork({ retention: '1h' }, () => ({ sum: 3 }));
    const { id } = await app.jobs.spawn('work', { a: 1 });
    await told(app, 'completed');
    const job = await app.queue.get(id);
    expect(job).toMatchObject({ state: 'completed', result: { sum: 3 }, payload: { a: 1 }, attempts: 1 });
    expect(job!.finishedAt).toBeInstanceOf(Date);
    await app.close();
  });

  it('of a dead job: for ever, and with deadRetention until that is over', async () => {
    const kept = async (deadRetention?: '1h'): Promise<unknown> => {
      const { app } = await startWork({ retries: 0, ...(deadRetention && { deadRetention }) }, fail);
      const { id } = await app.jobs.spawn('work');
      await told(app, 'dead');
      await app.close();
      const [row] = await tables.sql<{ hours: string | null }>(
        'SELECT round(extract(epoch FROM delete_at - finished_at) / 3600) AS hours FROM nestmq.finished_job WHERE id = $1',
        [id],
      );
      return row!.hours;
    };
    expect(await kept()).toBeNull();
    expect(await kept('1h')).toBe('1');
  });

  it.each([
    ['a bigint', 1n],
    ['a circle', [] as unknown[]],
  ])('fails the run whose result is %s, when it is to be kept', async (_, result) => {
    if (Array.isArray(result)) result.push(result);
    const { app } = await startWork({ retention: '1h', retries: 0 }, () => result);
    const { id } = await app.jobs.spawn('work');
    await told(app, 'dead');
    expect((await app.queue.get(id))?.lastError).toContain('PayloadInvalidError');
    await app.close();
  });

  it('fails no run whose result is not JSON when nothing is to be kept', async () => {
    const { app } = await startWork({}, () => 1n);
    await app.jobs.spawn('work');
    await told(app, 'completed');
    expect(eventsOf(app, 'retrying')).toEqual([]);
    await app.close();
  });
});

describe('a row that somebody else has written', () => {
  const insert = (columns: Record<string, unknown>): Promise<{ id: string }[]> => {
    const names = Object.keys(columns);
    const places = names.map((_, index) => `$${index + 1}`).join(', ');
    return tables.sql(
      `INSERT INTO nestmq.job (channel, name, ${names.join(', ')}) VALUES ('work', 'work', ${places}) RETURNING id::text`,
      Object.values(columns),
    );
  };

  it('whose payload is not what the schema wants backs off and dies of PayloadInvalidError, without burning its neighbours', async () => {
    const schema = z.object({ userId: z.number() });
    const [bad] = await insert({ payload: '{"userId": "seven"}', max_attempts: 2 });
    const [good] = await insert({ payload: '{"userId": 7}' });
    const { app, work } = await startWork({ schema, backoff: 1 }, () => undefined);
    await told(app, 'dead');
    expect(await app.queue.get(bad!.id)).toMatchObject({ state: 'dead', reason: 'exhausted', attempts: 2 });
    expect((await app.queue.get(bad!.id))?.lastError).toContain('PayloadInvalidError');
    await told(app, 'completed');
    expect(work.runs.map(({ id, attempt }) => [id, attempt])).toEqual([[good!.id, 1]]);
    await app.close();
  });

  it('with a policy that nobody knows runs by the options of the handler', async () => {
    await insert({ policy_id: '4711' });
    const { app } = await startWork({ backoff: exactlyOneHour }, fail);
    expect(await told(app, 'retrying')).toMatchObject({ delayMs: 3_600_000 });
    await app.close();
  });

  it('with the stored policy of another release is obeyed: backoff, timeout and retention', async () => {
    await tables.sql(
      `INSERT INTO nestmq.handler_policy (id, name, retries, backoff, timeout_ms, retention_ms, dead_retention_ms)
       VALUES (77, 'work', 4, '{"type":"fixed","baseMs":12345,"factor":2,"maxMs":900000,"jitter":0}', 30, 3600000, 60000)`,
    );
    const [failing] = await insert({ policy_id: '77', payload: '"fails"' });
    await insert({ policy_id: '77', payload: '"hangs"' });
    const [kept] = await insert({ policy_id: '77', payload: '"ends"' });
    const { app } = await startWork({}, (job) => {
      if (job.payload === 'fails') throw new Error('no');
      return job.payload === 'hangs' ? untilAborted(job) : 'result';
    });
    await until(() => eventsOf(app, 'retrying').length === 2 && eventsOf(app, 'completed').length === 1, {
      what: 'all three have ended',
    });
    expect(eventsOf(app, 'retrying').map(({ delayMs }) => delayMs)).toEqual([12_345, 12_345]);
    expect((await app.queue.get(failing!.id))?.state).toBe('waiting');
    expect(await app.queue.get(kept!.id)).toMatchObject({ state: 'completed', result: 'result' });
    await app.close();
  });
});

const exactlyOneHour = { type: 'fixed', base: '1h', jitter: 0 } as const;

describe('a retry', () => {
  it('does not wait for the neighbour that was claimed with it', async () => {
    const neighbour = gate();
    const { app, work } = await startWork({ backoff: { type: 'fixed', base: 50, jitter: 0 } }, (job) => {
      if (job.payload === 'slow') return neighbour.opened;
      if (job.attempt === 1) throw new Error('once');
      return undefined;
    });
    await app.queue.pause('work');
    const [slow] = await app.jobs.spawnMany([
      { name: 'work', payload: 'slow' },
      { name: 'work', payload: 'quick' },
    ]);
    await app.queue.resume('work');
    await told(app, 'completed');
    expect(work.runs.map(({ payload, attempt }) => [payload, attempt])).toEqual([
      ['slow', 1],
      ['quick', 1],
      ['quick', 2],
    ]);
    expect(await tables.number('SELECT max(cardinality(job_ids)) FROM nestmq.lease')).toBe(2);
    expect(await app.queue.get(slow!.id)).toMatchObject({ state: 'running' });
    neighbour.open();
    await app.close();
  });
});
