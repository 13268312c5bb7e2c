import { beforeEach, describe, expect, it } from '@jest/globals';
import {
  DeadLetters,
  getDeadLettersToken,
  InvalidOptionsError,
  InvalidTransitionError,
  JobDeadError,
  JobNotFoundError,
  QueueModule,
  RejectJob,
  type DeadLetterFilter,
  type DeadLetterState,
  type DeadLetterTarget,
} from 'nestmq';
import { POLLING_OFF, startApp, type TestApp, type TestAppOptions } from './support/app.js';
import { useDatabase } from './support/database.js';
import { upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { workWith, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

interface Letter {
  state?: DeadLetterState | 'completed' | 'cancelled';
  channel?: string;
  key?: string;
  name?: string;
  reason?: string;
  error?: string;
  /** Seconds. */
  age?: number;
  takenUntil?: string;
}

/** Writes finished jobs, with ids from `first` on. */
async function bury(letters: readonly Letter[], first = 1): Promise<string[]> {
  const rows = letters.map((letter, index) => ({
    ...{ id: first + index, state: 'dead', channel: 'work', key: '', name: 'work', reason: 'exhausted' },
    ...{ error: 'told to fail', age: 10_000 - index, ...letter },
  }));
  await tables.sql(
    `INSERT INTO nestmq.finished_job (id, state, attempt, max_attempts, priority, due_at, created_at, finished_at, taken_until, takes, channel, key, name, payload, reason, last_error)
     SELECT id, state, 5, 5, 0, now(), now(), now() - age * interval '1 second', now() + "takenUntil"::interval, CASE WHEN state = 'reprocessing' THEN 1 END, channel, key, name, to_json(id), reason, error
     FROM json_to_recordset($1) AS letter (id bigint, state text, channel text, key text, name text, reason text, error text, age int, "takenUntil" text)`,
    [JSON.stringify(rows)],
  );
  return rows.map(({ id }) => String(id));
}

/** An application that only looks. */
const startDesk = (queue: TestAppOptions['queue'] = {}): Promise<TestApp> =>
  startApp({ ...database, queue: { runner: false, ...queue }, providers: [workWith()] });

async function startWork(behaviour: Behaviour) {
  const Worker = workWith({ retries: 1, backoff: { type: 'fixed', base: 1, jitter: 0 }, retention: '1h' }, behaviour);
  const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Worker] });
  return { app, work: app.get(Worker) };
}

const idsOf = (letters: readonly { id: string }[]): string[] => letters.map(({ id }) => id);

const states = async (): Promise<string[]> =>
  (await tables.sql<{ state: string }>('SELECT state FROM nestmq.finished_job ORDER BY id')).map(({ state }) => state);

describe('deadLetters.list', () => {
  it('gives what a person needs of jobs that have died', async () => {
    const { app } = await startWork(({ payload }) => {
      throw payload === 'reject' ? new RejectJob('no such user') : new Error('told to fail');
    });
    const failed = await app.jobs.spawn('work', { user: 1 }, { key: 'k', metadata: { trace: 't' }, priority: 3 });
    await until(async () => (await app.deadLetters.count()) === 1, { what: 'the first is dead' });
    const rejected = await app.jobs.spawn('work', 'reject', { bytes: Buffer.from('x') });
    await until(async () => (await app.deadLetters.count()) === 2, { what: 'both are dead' });
    const { letters, next } = await app.deadLetters.list();
    expect(next).toBeNull();
    expect(letters).toEqual([
      {
        ...{ id: failed.id, state: 'dead', channel: 'work', key: 'k', name: 'work', priority: 3, seq: null },
        ...{ attempts: 2, maxAttempts: 2, payload: { user: 1 }, bytes: null, metadata: { trace: 't' } },
        ...{ createdAt: expect.any(Date), diedAt: expect.any(Date), reason: 'exhausted' },
        lastError: expect.stringContaining('told to fail'),
        ...{ takenUntil: null, take: null, resolvedAt: null, note: null },
      },
      expect.objectContaining({
        ...{ id: rejected.id, attempts: 1, reason: 'rejected', payload: 'reject', bytes: Buffer.from('x') },
        lastError: expect.stringContaining('no such user'),
      }),
    ]);
    await app.close();
  });

  it('shows dead and taken letters unless a state is asked for, and never what was completed or cancelled', async () => {
    await bury(
      (['completed', 'cancelled', 'dead', 'reprocessing', 'resolved', 'discarded'] as const).map((state) => ({
        state,
      })),
    );
    const app = await startDesk();
    const listed = async (filter?: DeadLetterFilter) => idsOf((await app.deadLetters.list(filter)).letters);
    expect(await listed()).toEqual(['3', '4']);
    expect(await listed({ state: 'resolved' })).toEqual(['5']);
    expect(await listed({ state: ['discarded', 'dead'] })).toEqual(['3', '6']);
    expect(await listed({ state: ['resolved', 'discarded', 'dead', 'reprocessing'] })).toEqual(['3', '4', '5', '6']);
    await app.close();
  });

  const filters: [string, DeadLetterFilter, number[]][] = [
    ['a channel', { channel: 'mail' }, [1, 2, 3]],
    ['a channel and a key', { channel: 'mail', key: 'a' }, [1]],
    ['a channel and no key', { channel: 'mail', key: '' }, [3]],
    ['a key of any channel', { key: 'a' }, [1, 4]],
    ['a name', { name: 'other' }, [2, 5]],
    ['a channel and a name', { channel: 'work', name: 'other' }, [5]],
    ['a reason', { reason: 'rejected' }, [3]],
    ['a text of the error', { error: '100 % _ refused' }, [5]],
    ['an age', { olderThan: '3500s' }, [1, 2]],
    ['a lowest age', { newerThan: '3500s' }, [3, 4, 5]],
    ['two ages', { olderThan: '1h', newerThan: '2h' }, [2]],
    ['ids', { ids: ['5', '1', '99'] }, [1, 5]],
    ['ids and a channel', { ids: ['5', '1', '99'], channel: 'mail' }, [1]],
    ['nothing', {}, [1, 2, 3, 4, 5]],
    ['a channel that is none', { channel: 'none' }, []],
  ];

  it.each(filters)('and count go by %s', async (_, filter, expected) => {
    await bury([
      { channel: 'mail', key: 'a', age: 10_000 },
      { channel: 'mail', key: 'b', name: 'other', age: 4_000 },
      { channel: 'mail', reason: 'rejected', age: 300 },
      { channel: 'work', key: 'a', age: 200 },
      { channel: 'work', name: 'other', error: 'it was 100 % _ refused', age: 100 },
    ]);
    const app = await startDesk();
    expect(idsOf((await app.deadLetters.list(filter)).letters)).toEqual(expected.map(String));
    expect(await app.deadLetters.count(filter)).toBe(expected.length);
    await app.close();
  });

  it.each([
    ['of all', {}],
    ['of a channel', { channel: 'work' }],
    ['of a lane', { channel: 'work', key: 'k' }],
    ['of ids', { ids: upTo(99).map(String) }],
    ['of two kinds of states', { state: ['dead', 'resolved'] }],
  ] satisfies [string, DeadLetterFilter][])('%s goes by pages, the longest dead first', async (_, filter) => {
    // Several died in the same moment.
    await bury(
      upTo(25).map((n) => ({
        key: 'k',
        age: 100 - Math.floor(n / 4),
        state: n % 2 === 0 && 'state' in filter ? 'resolved' : 'dead',
      })),
    );
    const app = await startDesk();
    const pages: string[][] = [];
    for (let after: string | null | undefined; after !== null;) {
      const page = await app.deadLetters.list(filter, { limit: 10, ...(after !== undefined && { after }) });
      pages.push(idsOf(page.letters));
      after = page.next;
    }
    expect(pages.map(({ length }) => length)).toEqual([10, 10, 5]);
    expect(pages.flat()).toEqual(upTo(25).map(String));
    expect(await app.deadLetters.count(filter)).toBe(25);
    await app.close();
  });

  it('takes no more than a thousand at once, and refuses what is no filter, naming the field', async () => {
    const app = await startDesk();
    const refused: [unknown, unknown, string][] = [
      [{}, { limit: 0 }, 'limit'],
      [{}, { limit: 1_001 }, 'limit'],
      [{}, { after: '7' }, 'after'],
      [{}, { page: 7 }, 'options.page'],
      [{ colour: 'red' }, {}, 'filter.colour'],
      [{ state: 'completed' }, {}, 'state'],
      [{ state: ['dead', 'cancelled'] }, {}, 'state'],
      [{ reason: 'bored' }, {}, 'reason'],
      [{ channel: '' }, {}, 'channel'],
      [{ key: 'k'.repeat(1_025) }, {}, 'key'],
      [{ name: 7 }, {}, 'name'],
      [{ error: '' }, {}, 'error'],
      [{ olderThan: 'long' }, {}, 'olderThan'],
      [{ ids: 'x' }, {}, 'ids'],
      [{ ids: ['x'] }, {}, 'ids'],
      [{ ids: upTo(10_001).map(String) }, {}, 'ids'],
      ['work', {}, 'filter'],
      [null, {}, 'filter'],
    ];
    for (const [filter, options, option] of refused) {
      const error = await app.deadLetters.list(filter as never, options as never).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(InvalidOptionsError);
      expect(error).toMatchObject({ option });
    }
    await app.close();
  });
});

describe('deadLetters.take', () => {
  it('hands letters out, which are reprocessing until the deadline, the longest dead first', async () => {
    await bury(upTo(5).map(() => ({})));
    const app = await startDesk();
    const taken = await app.deadLetters.take({}, { timeout: '1m', limit: 2 });
    expect(taken).toMatchObject([
      { id: '1', state: 'reprocessing', take: 1, payload: 1 },
      { id: '2', state: 'reprocessing', take: 1, payload: 2 },
    ]);
    const left = await tables.number(
      `SELECT count(*) FROM nestmq.finished_job WHERE taken_until - clock_timestamp() BETWEEN '50 s' AND '60 s'`,
    );
    expect(left).toBe(2);
    expect(idsOf(await app.deadLetters.take())).toEqual(['3', '4', '5']);
    expect(await app.deadLetters.take()).toEqual([]);
    expect(await app.deadLetters.count({ state: 'reprocessing' })).toBe(5);
    await app.close();
  });

  it.each([
    ['all', {}],
    ['a channel', { channel: 'work' }],
    ['a lane', { channel: 'work', key: '' }],
    ['ids', { ids: upTo(200).map(String) }],
  ] satisfies [string, DeadLetterFilter][])(
    'never hands one of %s to two callers, however many take at once',
    async (_, filter) => {
      await bury(upTo(200).map(() => ({})));
      const desks = await Promise.all([startDesk(), startDesk()]);
      const taken: string[] = [];
      const takeAll = async ({ deadLetters }: TestApp): Promise<void> => {
        for (let some; (some = await deadLetters.take(filter, { limit: 7 })).length > 0;) taken.push(...idsOf(some));
      };
      await Promise.all(desks.flatMap((desk) => upTo(4).map(() => takeAll(desk))));
      expect(taken).toHaveLength(200);
      expect(new Set(taken).size).toBe(200);
      await Promise.all(desks.map((desk) => desk.close()));
    },
  );

  it('hands out again what was taken and not ended in time, and refuses its first taker then', async () => {
    await bury([{ state: 'reprocessing', takenUntil: '1 hour' }, {}]);
    const app = await startDesk();
    const [first] = await app.deadLetters.take();
    expect(first).toMatchObject({ id: '2' });
    await tables.sql(`UPDATE nestmq.finished_job SET taken_until = now() - interval '1 ms'`);
    const again = await app.deadLetters.take();
    expect(again).toMatchObject([
      { id: '1', take: 2 },
      { id: '2', take: 2 },
    ]);
    for (const end of ['resolve', 'reject', 'discard', 'requeue'] as const) {
      await expect(app.deadLetters[end](first!)).rejects.toThrow(InvalidTransitionError);
    }
    expect(await app.deadLetters.resolve(again)).toBe(2);
    expect(await states()).toEqual(['resolved', 'resolved']);
    await app.close();
  });

  it('keeps a letter from being pruned as long as it is taken', async () => {
    await bury([{}]);
    await tables.sql(`UPDATE nestmq.finished_job SET delete_at = now() + interval '1 s'`);
    const app = await startDesk();
    await app.deadLetters.take({}, { timeout: '1h' });
    expect(await tables.number(`SELECT count(*) FROM nestmq.finished_job WHERE delete_at >= taken_until`)).toBe(1);
    await app.close();
  });
});

describe('a letter', () => {
  type End = 'resolve' | 'reject' | 'discard' | 'requeue';

  const allowed: [DeadLetterState, End, string][] = [
    ['dead', 'discard', 'discarded'],
    ['dead', 'requeue', 'waiting'],
    ['reprocessing', 'resolve', 'resolved'],
    ['reprocessing', 'reject', 'dead'],
  ];

  const refused = (['dead', 'reprocessing', 'resolved', 'discarded'] as const).flatMap((state) =>
    (['resolve', 'reject', 'discard', 'requeue'] as const)
      .filter((end) => !allowed.some(([from, how]) => from === state && how === end))
      .map((end): [DeadLetterState, End] => [state, end]),
  );

  const twoOf = (state: DeadLetterState): Promise<string[]> =>
    bury([1, 2].map(() => ({ state, takenUntil: '1 hour' })));

  it.each(allowed)('that is %s: %s makes it %s, by its id and by a filter', async (from, end, to) => {
    await twoOf(from);
    const app = await startDesk();
    expect(await app.deadLetters[end]('1')).toBe(1);
    expect(await app.queue.get('1')).toMatchObject({ state: to });
    expect(await app.deadLetters[end]({ channel: 'work' })).toBe(1);
    expect(await app.queue.get('2')).toMatchObject({ state: to });
    await app.close();
  });

  it.each(refused)(
    'that is %s: %s is refused by its id, passes it by with a filter, and changes nothing',
    async (from, end) => {
      await twoOf(from);
      const app = await startDesk();
      await expect(app.deadLetters[end]('1')).rejects.toMatchObject({
        ...{ code: 'invalid_transition', jobId: '1', from },
        to: { resolve: 'resolved', reject: 'dead', discard: 'discarded', requeue: 'waiting' }[end],
      });
      expect(await app.deadLetters[end]({ channel: 'work' })).toBe(0);
      expect(await states()).toEqual([from, from]);
      await app.close();
    },
  );

  it('that somebody has taken is his to requeue or discard, and nobody else’s until the time is over', async () => {
    await bury([
      {},
      {},
      { state: 'reprocessing', takenUntil: '-1 second' },
      { state: 'reprocessing', takenUntil: '-1 second' },
    ]);
    const app = await startDesk();
    const [one, other] = await app.deadLetters.take({ ids: ['1', '2'] });
    const [listed] = (await app.deadLetters.list({ ids: ['1'] })).letters;
    await expect(app.deadLetters.discard(listed!)).rejects.toThrow(InvalidTransitionError);
    expect(await app.deadLetters.discard(one!)).toBe(1);
    expect(await app.deadLetters.requeue(other!)).toBe(1);
    expect(await app.deadLetters.discard('3')).toBe(1);
    expect(await app.deadLetters.requeue({})).toBe(1);
    expect(await states()).toEqual(['discarded', 'discarded']);
    await app.close();
  });

  it('that was taken and resolved tells when, with what was noted, and is kept for `finishedRetention`', async () => {
    await bury([{}, {}]);
    const app = await startDesk({ finishedRetention: '2d' });
    const [letter] = await app.deadLetters.take({}, { timeout: '1m', limit: 1 });
    await app.deadLetters.resolve(letter!, { note: 'sent by hand' });
    await app.deadLetters.discard('2', { note: 'too old' });
    expect((await app.deadLetters.list({ state: ['resolved', 'discarded'] })).letters).toMatchObject([
      { id: '1', state: 'resolved', note: 'sent by hand', resolvedAt: expect.any(Date), takenUntil: null },
      { id: '2', state: 'discarded', note: 'too old', resolvedAt: expect.any(Date) },
    ]);
    const kept = `SELECT count(*) FROM nestmq.finished_job WHERE delete_at - resolved_at BETWEEN '47 hours' AND '49 hours'`;
    expect(await tables.number(kept)).toBe(2);
    await app.close();
  });

  it('that was rejected can be taken again at once', async () => {
    await bury([{}]);
    const app = await startDesk();
    const [letter] = await app.deadLetters.take();
    expect(await app.deadLetters.reject(letter!, { note: 'needs the other key' })).toBe(1);
    expect(await app.deadLetters.take()).toMatchObject([{ id: '1', take: 2, note: 'needs the other key' }]);
    await app.close();
  });

  it('that is unknown is not found, and one that is waiting or completed is refused', async () => {
    const { app } = await startWork(() => undefined);
    const waiting = await app.jobs.spawn('work', null, { delay: '1h' });
    const done = await app.jobs.spawn('work', null);
    await app.queue.waitFor(done.id);
    for (const end of ['resolve', 'reject', 'discard', 'requeue'] as const) {
      await expect(app.deadLetters[end]('999')).rejects.toThrow(JobNotFoundError);
      await expect(app.deadLetters[end](waiting.id)).rejects.toMatchObject({ from: 'waiting or running' });
      await expect(app.deadLetters[end]([done.id])).rejects.toMatchObject({ from: 'completed' });
    }
    await app.close();
  });
});

describe('several ids', () => {
  it('of which one is wrong are left as they are', async () => {
    const ids = await bury([{}, {}, { state: 'resolved' }]);
    const app = await startDesk();
    await expect(app.deadLetters.discard(ids)).rejects.toMatchObject({ jobId: '3', from: 'resolved' });
    await expect(app.deadLetters.requeue(['1', '77'])).rejects.toMatchObject({ code: 'not_found', jobId: '77' });
    expect(await states()).toEqual(['dead', 'dead', 'resolved']);
    expect(await app.deadLetters.discard(['1', '2', '1'])).toBe(2);
    await app.close();
  });

  it('that are none, or too many, or a limit that is none, are refused', async () => {
    const app = await startDesk();
    expect(await app.deadLetters.discard([])).toBe(0);
    const wrong: [unknown, unknown?][] = [
      ['x'],
      [undefined],
      [null],
      [[{}]],
      [upTo(10_001).map(String)],
      [{}, { limit: 0 }],
      [{}, { note: 'n'.repeat(8_193) }],
      [{}, { colour: 'red' }],
      [{ state: 'resolved' }],
    ];
    for (const [target, options] of wrong) {
      await expect(app.deadLetters.discard(target as DeadLetterTarget, options as never)).rejects.toThrow(
        InvalidOptionsError,
      );
    }
    await expect(app.deadLetters.take({ state: 'resolved' })).rejects.toThrow(InvalidOptionsError);
    await expect(app.deadLetters.take({}, { timeout: 0 })).rejects.toThrow(InvalidOptionsError);
    await expect(app.deadLetters.cleanup({ state: 'dead' })).rejects.toThrow(InvalidOptionsError);
    await app.close();
  });
});

describe('a bulk operation', () => {
  it('goes through more letters than one statement takes, and reports how many', async () => {
    await bury(upTo(1_203).map((n) => ({ channel: n % 3 === 0 ? 'other' : 'work' })));
    const app = await startDesk();
    expect(await app.deadLetters.discard({ channel: 'work' })).toBe(802);
    expect(await app.deadLetters.requeue({}, { limit: 100 })).toBe(100);
    expect(await app.deadLetters.requeue({})).toBe(301);
    expect(await app.deadLetters.count({ state: ['dead', 'discarded'] })).toBe(802);
    expect(await app.deadLetters.cleanup({}, { limit: 600 })).toBe(600);
    expect(await app.deadLetters.cleanup()).toBe(202);
    expect(await app.deadLetters.cleanup()).toBe(0);
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(401);
    await app.close();
  });

  it.each(['discard', 'requeue', 'resolve', 'cleanup'] as const)(
    '%s of several callers at once does each letter once',
    async (end) => {
      const before = { discard: 'dead', requeue: 'dead', resolve: 'reprocessing', cleanup: 'resolved' } as const;
      await bury(upTo(1_500).map(() => ({ state: before[end], takenUntil: '1 hour' })));
      const desks = await Promise.all([startDesk(), startDesk()]);
      const counts = await Promise.all(
        desks.flatMap(({ deadLetters }) => upTo(3).map((): Promise<number> => deadLetters[end]({ channel: 'work' }))),
      );
      expect(counts.reduce((sum, count) => sum + count, 0)).toBe(1_500);
      expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(end === 'requeue' ? 1_500 : 0);
      await Promise.all(desks.map((desk) => desk.close()));
    },
  );

  it('cleans up what is resolved or discarded and nothing else', async () => {
    await bury(
      (['dead', 'reprocessing', 'resolved', 'discarded', 'completed', 'cancelled'] as const).map((state) => ({
        state,
      })),
    );
    const app = await startDesk();
    expect(await app.deadLetters.cleanup()).toBe(2);
    expect(await states()).toEqual(['dead', 'reprocessing', 'completed', 'cancelled']);
    await app.close();
  });
});

describe('a requeued job', () => {
  it('runs again at once, without a poll, under its id, with all its attempts', async () => {
    let broken = true;
    const { app, work } = await startWork(() => {
      if (broken) throw new Error('told to fail');
      return 'done';
    });
    const { id } = await app.jobs.spawn('work', { n: 1 }, { key: 'k' });
    await expect(app.queue.waitFor(id)).rejects.toThrow(JobDeadError);
    for (const round of [1, 2]) {
      expect(await app.deadLetters.requeue(id)).toBe(1);
      await until(() => app.events.filter(({ type }) => type === 'dead').length === round + 1, {
        what: 'it died again',
      });
      await expect(app.queue.waitFor(id)).rejects.toThrow(JobDeadError);
    }
    expect(work.runs.map(({ attempt }) => attempt)).toEqual([1, 2, 1, 2, 1, 2]);
    broken = false;
    await app.deadLetters.requeue({ channel: 'work' });
    expect(await app.queue.waitFor(id)).toBe('done');
    expect(work.runs.at(-1)).toMatchObject({ id, attempt: 1, maxAttempts: 2, payload: { n: 1 }, key: 'k' });
    await app.close();
  });

  it('of another process wakes the runners', async () => {
    let broken = true;
    const { app } = await startWork(() => {
      if (broken) throw new RejectJob('told to reject');
    });
    const desk = await startDesk();
    const { id } = await app.jobs.spawn('work', null);
    await expect(app.queue.waitFor(id)).rejects.toThrow(JobDeadError);
    broken = false;
    await desk.deadLetters.requeue(id);
    await app.queue.waitFor(id);
    await desk.close();
    await app.close();
  });

  it('is not met again in the same call when it dies at once', async () => {
    const { app, work } = await startWork(() => {
      throw new RejectJob('told to reject');
    });
    await bury(upTo(600).map(() => ({})));
    expect(await app.deadLetters.requeue({})).toBe(600);
    await until(async () => (await app.deadLetters.count()) === 600, { what: 'all have died again' });
    expect(work.runs).toHaveLength(600);
    await app.close();
  });

  it('is free although the lease in which it died goes on, and is not touched when that one is lost', async () => {
    // A lease of a runner that is dead names the job under its old stamp.
    const [id] = await bury([{}]);
    await tables.sql(
      `INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, started, hi_due_at, hi_id)
       VALUES (77, 1, 'work', 0, ARRAY[$1::bigint, 1000], ARRAY[0, 0], 2, 'infinity', 1000)`,
      [id],
    );
    await tables.sql(`INSERT INTO nestmq.runner (id, host, pid) VALUES (77, 'h', 1)`);
    const { app, work } = await startWork(() => 'done');
    await app.deadLetters.requeue(id!);
    expect(await app.queue.waitFor(id!)).toBe('done');
    expect(work.runs).toHaveLength(1);
    await app.close();
  });
});

describe('the idempotency key of a requeued job', () => {
  const keys = (): Promise<object[]> =>
    tables.sql('SELECT id::text, idempotency_key AS key FROM nestmq.job ORDER BY id');

  /** Jobs that have died, each of which had this key. */
  async function deadWithKey(app: TestApp, count: number): Promise<string[]> {
    const ids: string[] = [];
    for (const n of upTo(count)) {
      const { id, isNew } = await app.jobs.spawn('work', n, { idempotencyKey: 'k', delay: '1h' });
      if (!isNew) throw new Error('The key of a dead job is not free.');
      await tables.sql(
        `WITH gone AS (DELETE FROM nestmq.job RETURNING *)
         INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, channel, key, name, payload, reason, idempotency_key, idempotency_hash)
         SELECT id, 'dead', 1, 0, now(), now(), channel, key, name, payload, 'rejected', idempotency_key, idempotency_hash FROM gone`,
      );
      ids.push(id);
    }
    return ids;
  }

  it('is its own again: a spawn with it finds the job', async () => {
    const app = await startDesk();
    const [id] = await deadWithKey(app, 1);
    await app.deadLetters.requeue(id!);
    expect(await keys()).toEqual([{ id, key: 'k' }]);
    expect(await app.jobs.spawn('work', 1, { idempotencyKey: 'k' })).toEqual({ id, isNew: false });
    await app.close();
  });

  it('stays behind where a live job has it, and goes to one of several that had it', async () => {
    const app = await startDesk();
    const [first, second] = await deadWithKey(app, 2);
    expect(await app.deadLetters.requeue({})).toBe(2);
    expect(await keys()).toEqual([
      { id: first, key: 'k' },
      { id: second, key: null },
    ]);
    await app.deadLetters.requeue([]);
    await tables.clear();
    const [third] = await deadWithKey(app, 1);
    const { id } = await app.jobs.spawn('work', 1, { idempotencyKey: 'k', delay: '1h' });
    await app.deadLetters.requeue(third!);
    expect(await keys()).toEqual([
      { id: third, key: null },
      { id, key: 'k' },
    ]);
    await app.close();
  });

  it('stays behind where a transaction that is still open spawns a job with it, and waits for nobody', async () => {
    const app = await startDesk();
    const [dead] = await deadWithKey(app, 1);
    const { id } = await app.dataSource.transaction(async (manager) => {
      const spawned = await app.jobs.spawn('work', 1, { idempotencyKey: 'k', delay: '1h', manager });
      expect(await app.deadLetters.requeue(dead!)).toBe(1);
      return spawned;
    });
    expect(await keys()).toEqual([
      { id: dead, key: null },
      { id, key: 'k' },
    ]);
    await app.close();
  });
});

describe('DeadLetters', () => {
  it('is there for each instance, by its token', async () => {
    await bury([{}]);
    const app = await startApp({
      ...database,
      queue: { runner: false },
      imports: [QueueModule.forRoot({ name: 'second', runner: false })],
    });
    expect(getDeadLettersToken()).toBe(DeadLetters);
    const second = app.get<DeadLetters>(getDeadLettersToken('second') as string);
    expect(second).toBeInstanceOf(DeadLetters);
    expect(second).not.toBe(app.deadLetters);
    expect(await second.count()).toBe(1);
    await app.close();
  });
});
