import { beforeEach, describe, expect, it } from '@jest/globals';
import { RejectJob, SnoozeJob, type CancelResult, type HandlerOptions, type Job } from 'nestmq';
import { cancelJobs } from '../libs/queue/src/statements/cancel-jobs.js';
import { completeJobs } from '../libs/queue/src/statements/complete-jobs.js';
import { finishJobs } from '../libs/queue/src/statements/finish-jobs.js';
import { requeueJobs } from '../libs/queue/src/statements/requeue-jobs.js';
import { run } from '../libs/queue/src/statements/statement.js';
import { begin, beginOwningAll } from '../libs/queue/src/statements/transaction.js';
import { startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { claim, claimRows, fenceOf, openSession } from './support/engine.js';
import { laneWith } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, takeTime, untilAborted, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const JOBS = 600;

/** What runs of a job have done. */
class Story {
  starts = 0;
  succeeded = false;
  readonly started = gate();
  readonly ended = gate();
}

/** The jobs by their numbers, and when each is cancelled: early or late, as it starts, or when it has ended. */
class Stories {
  private readonly all = Array.from({ length: JOBS }, () => new Story());

  of(job: number): Story {
    return this.all[job]!;
  }

  async moment(job: number): Promise<void> {
    const { started, ended } = this.of(job);
    if (job % 3 === 0) await takeTime(Math.random() * 400);
    else await (job % 3 === 1 ? started : ended).opened;
  }
}

/** The first waits long enough to be cancelled before it runs, the second runs until it is told to stop. */
const SCHEDULED = 0;
const OBEDIENT = 1;

/** Quick and slow ones, that obey, ignore it, fail, reject, snooze or succeed. */
async function live(job: Job): Promise<unknown> {
  const fate = Math.floor(Math.random() * 7);
  if (job.payload === OBEDIENT) return untilAborted(job);
  await takeTime(Math.random() * 6);
  if (fate === 1) throw new Error('told to fail');
  if (fate === 2) throw new RejectJob('told to reject');
  if (fate === 3) throw new SnoozeJob(1);
  if (fate === 4) await takeTime(20);
  if (job.signal.aborted && fate === 5) throw job.signal.reason;
  return 'done';
}

// acceptance: 7 row 12
describe('a cancel that races with claims and ends', () => {
  it.each([
    ['unordered jobs', workWith],
    ['lanes that skip', laneWith],
    [
      'lanes that block',
      (options: HandlerOptions, behaviour: never) => laneWith({ ...options, onDead: 'block' }, behaviour),
    ],
  ] as const)('has an outcome that matches how the job ends: %s, two runners', async (_, make) => {
    const stories = new Stories();
    const behaviour = async (job: Job<number>): Promise<unknown> => {
      const story = stories.of(job.payload);
      story.starts += 1;
      story.started.open();
      const result = await live(job);
      story.succeeded = true;
      return result;
    };
    const options = { retries: 1, backoff: { type: 'fixed', base: 1, jitter: 0 }, retention: '1h' } as const;
    const apps = await Promise.all(
      [1, 2].map(() =>
        startApp({
          ...database,
          queue: { pollMs: 200, prefetchMs: 20, concurrency: 8 },
          providers: [make(options, behaviour as never)],
        }),
      ),
    );
    const desk = apps[0]!;
    const sent = await desk.jobs.spawnMany(
      Array.from({ length: JOBS }, (__, job) => ({
        ...{ name: 'work', payload: job, key: job === SCHEDULED ? 'scheduled' : `k${job % 20}` },
        ...(job === SCHEDULED && { delay: '1h' as const }),
      })),
    );
    const ids = sent.map(({ id }) => id);
    const jobOf = new Map(ids.map((id, job) => [id, job]));
    for (const { queue } of apps) {
      queue.events.subscribe((event) => {
        if (event.type === 'completed' || event.type === 'dead') stories.of(jobOf.get(event.id)!).ended.open();
      });
    }
    const outcomes = new Map<string, CancelResult>();
    const cancel = async (id: string, job: number): Promise<void> => {
      await stories.moment(job);
      outcomes.set(id, await apps[Math.floor(Math.random() * 2)]!.queue.cancel(id));
    };
    // Dead heads would hold up the lanes that block.
    const discarding = until(
      async () => {
        await desk.deadLetters.discard({ channel: 'work' });
        return outcomes.size === JOBS && (await tables.drained());
      },
      { what: 'all is done', timeoutMs: 90_000 },
    );
    await Promise.all([discarding, ...ids.map(cancel)]);
    // Of those that died behind the last look.
    await desk.deadLetters.discard({ channel: 'work' });

    const finals = new Map(
      (await tables.sql<{ id: string; state: string }>('SELECT id::text, state FROM nestmq.finished_job')).map(
        ({ id, state }) => [id, state],
      ),
    );
    const wrong = ids.filter((id, job) => {
      const { outcome, state } = outcomes.get(id)!;
      const final = finals.get(id);
      const { starts, succeeded } = stories.of(job);
      if (final === undefined || (final === 'completed') !== succeeded) return true;
      if (outcome === 'cancelled') return final !== 'cancelled' || succeeded;
      if (outcome === 'requested') return !['cancelled', 'completed'].includes(final);
      return final !== (state === 'dead' ? 'discarded' : state) || starts === 0;
    });
    expect(wrong.map((id) => [id, outcomes.get(id), finals.get(id), stories.of(jobOf.get(id)!)])).toEqual([]);
    // Nothing but the loss of a lease may refuse the end of a run, and no lease is lost here.
    expect(apps.flatMap(({ events }) => events).filter(({ type }) => type === 'lease-lost')).toEqual([]);
    expect(outcomes.get(ids[SCHEDULED]!)?.outcome).toBe('cancelled');
    expect(outcomes.get(ids[OBEDIENT]!)?.outcome).toBe('requested');
    expect(new Set([...outcomes.values()].map(({ outcome }) => outcome))).toContain('already finished');
    await Promise.all(apps.map((app) => app.close()));
  });

  it('never hands out what was cancelled, nor cancels at once what was handed out', async () => {
    const [claimer, canceller] = [await openSession(database.url), await openSession(database.url)];
    for (let round = 0; round < 40; round += 1) {
      await tables.sql(`INSERT INTO nestmq.job (channel, name) SELECT 'c', 'n' FROM generate_series(1, 20)`);
      const jobs = await tables.sql<{ id: string }>('SELECT id::text FROM nestmq.job ORDER BY id');
      const params = { channel: 'c', ids: jobs.map(({ id }) => id), reason: null, keepMs: 1 };
      const [claimed, [row]] = await Promise.all([
        claim(claimer, { channel: 'c', names: ['n'], limit: 20 }),
        canceller.transaction((client) => run(client, cancelJobs, params), beginOwningAll('nestmq', 'c')),
      ]);
      const leased = new Set(claimed.map(({ id }) => id));
      expect(new Set(row!.requested)).toEqual(leased);
      expect(row!.cancelled.map(({ id }) => id).filter((id) => leased.has(id))).toEqual([]);
      expect(row!.cancelled.length + row!.requested.length).toBe(20);
      await tables.sql('TRUNCATE nestmq.job, nestmq.lease, nestmq.finished_job');
    }
  });
});

describe('the statement that cancels', () => {
  const prepare = async (columns = '') => {
    const session = await openSession(database.url);
    await tables.sql(`INSERT INTO nestmq.runner (id, host, pid) VALUES (1, 'h', 1)`);
    await tables.sql(
      `INSERT INTO nestmq.job (channel, name${columns && ', max_attempts'}) VALUES ('c', 'n'${columns})`,
    );
    const [job] = await claim(session, { channel: 'c', names: ['n'], runner: '1' });
    return { session, job: job!, entry: fenceOf(job!) };
  };

  const cancel = async (ids: string[]) => {
    const other = await openSession(database.url);
    const params = { channel: 'c', ids, reason: 'why', keepMs: 1_000 };
    const [row] = await other.transaction((client) => run(client, cancelJobs, params), beginOwningAll('nestmq', 'c'));
    return row!;
  };

  const states = (): Promise<object[]> => tables.sql('SELECT state, reason, attempt FROM nestmq.finished_job');

  it('does not wait for a row that is locked, and tells that it ran', async () => {
    const { session, job, entry } = await prepare();
    await session.pg.query(begin);
    await run(session.client, completeJobs, { runner: '1', entries: [entry], endedLeases: [] });
    expect(await cancel([job.id])).toEqual({ cancelled: [], requested: [], busy: [job.id], busyRunning: [job.id] });
    await session.pg.query('ROLLBACK');
    expect(await cancel([job.id])).toMatchObject({ requested: [job.id], busy: [] });
  });

  it('lets a completion win that comes after it', async () => {
    const { session, job, entry } = await prepare();
    expect(await cancel([job.id])).toMatchObject({ requested: [job.id] });
    const done = { runner: '1', entries: [entry], endedLeases: [] };
    expect(await session.transaction((client) => run(client, completeJobs, done))).toEqual(['all']);
    expect(await states()).toEqual([]);
  });

  it('makes a retry, a release and a death behind it a cancelled job, fenced as before', async () => {
    const again = { attempt: 1, delayMs: 5, error: 'broken', seq: null };
    const { session, job, entry } = await prepare();
    await cancel([job.id]);
    const stale = { ...entry, run: entry.run + 1 };
    expect(
      await session.transaction((client) =>
        run(client, requeueJobs, { runner: '1', entries: [{ ...stale, ...again }] }),
      ),
    ).toEqual([]);
    expect(
      await session.transaction((client) =>
        run(client, requeueJobs, { runner: '1', entries: [{ ...entry, ...again }], keepCancelledMs: 5 }),
      ),
    ).toMatchObject([{ id: job.id, cancelled: { reason: 'why' } }]);
    expect(await states()).toEqual([{ state: 'cancelled', reason: 'why', attempt: 1 }]);
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(0);
    await tables.clear();

    const next = await prepare();
    await cancel([next.job.id]);
    const dead = {
      state: 'dead',
      attempt: 1,
      reason: 'exhausted',
      error: 'x',
      result: null,
      seq: null,
      keepMs: null,
    } as const;
    expect(
      await next.session.transaction((client) =>
        run(client, finishJobs, { runner: '1', entries: [{ ...next.entry, ...dead }] }),
      ),
    ).toEqual([{ id: next.job.id, cancelled: { reason: 'why' } }]);
    expect(await states()).toEqual([{ state: 'cancelled', reason: 'why', attempt: 1 }]);
  });

  it('leaves jobs of another channel, unknown ones and released holds alone', async () => {
    await tables.sql(
      `INSERT INTO nestmq.job (id, channel, name, held_until) VALUES (1, 'd', 'n', NULL), (2, 'c', 'n', '-infinity')`,
    );
    expect(await cancel(['1', '2', '3'])).toEqual({ cancelled: [], requested: [], busy: [], busyRunning: [] });
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(2);
  });

  it('keeps a claim waiting, which then finds nothing', async () => {
    const [claimer, canceller] = [await openSession(database.url), await openSession(database.url)];
    await tables.sql(`INSERT INTO nestmq.job (id, channel, name) VALUES (1, 'c', 'n')`);
    await canceller.pg.query(beginOwningAll('nestmq', 'c'));
    const claiming = claimRows(claimer, { channel: 'c', names: ['n'] });
    await run(canceller.client, cancelJobs, { channel: 'c', ids: ['1'], reason: null, keepMs: 1 });
    await canceller.pg.query('COMMIT');
    expect((await claiming).flatMap(({ job }) => job ?? [])).toEqual([]);
  });
});

describe('a request to cancel', () => {
  it('reaches a run though no notification tells of it', async () => {
    const Worker = workWith({}, untilAborted);
    const app = await startApp({ ...database, queue: { pollMs: 60_000, leaseMs: 1_000 }, providers: [Worker] });
    const { id } = await app.jobs.spawn('work', null);
    await until(() => app.get(Worker).runs.length, { what: 'it runs' });
    await tables.sql(`UPDATE nestmq.job SET cancel_requested_at = now(), cancel_reason = 'by hand'`);
    await until(async () => (await app.queue.get(id))?.state === 'cancelled', { what: 'it is cancelled' });
    expect(await app.queue.get(id)).toMatchObject({ reason: 'by hand' });
    await app.close();
  });

  it('that nobody has a job for any more is met by whoever hears of it', async () => {
    const Worker = workWith();
    // Marked while it was leased, then given back without a word: no runner here knows its name.
    await tables.sql(
      `INSERT INTO nestmq.job (id, channel, name, cancel_requested_at, cancel_reason) VALUES (1, 'c', 'unknown', now(), 'why')`,
    );
    await tables.sql(
      `INSERT INTO nestmq.job (id, position, channel, key, name, cancel_requested_at) VALUES (2, 2, 'work', 'lane', 'work', now())`,
    );
    await tables.sql(
      `INSERT INTO nestmq.lane (channel, key, name, head_position, ready_at) VALUES ('work', 'lane', 'work', 2, now() + interval '1 h')`,
    );
    await tables.sql(`INSERT INTO nestmq.job (id, position, channel, key, name) VALUES (3, 3, 'work', 'lane', 'work')`);
    const app = await startApp({ ...database, queue: { pollMs: 60_000, leaseMs: 1_000 }, providers: [Worker] });
    await until(async () => (await tables.number('SELECT count(*) FROM nestmq.job')) === 0, {
      what: 'both are cancelled, and the third has run',
    });
    expect(await tables.sql('SELECT id::text, state, reason FROM nestmq.finished_job ORDER BY id')).toEqual([
      { id: '1', state: 'cancelled', reason: 'why' },
      { id: '2', state: 'cancelled', reason: null },
    ]);
    await app.close();
  });
});
