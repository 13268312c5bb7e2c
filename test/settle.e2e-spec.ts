import { beforeEach, describe, expect, it } from '@jest/globals';
import type { ClaimedJob } from '../libs/queue/src/job/job.js';
import { cancelJobs } from '../libs/queue/src/statements/cancel-jobs.js';
import { completeJobs } from '../libs/queue/src/statements/complete-jobs.js';
import { endLeases } from '../libs/queue/src/statements/end-leases.js';
import { findUnsettled } from '../libs/queue/src/statements/find-unsettled.js';
import { finishJobs, type FinishEntry } from '../libs/queue/src/statements/finish-jobs.js';
import { requeueJobs, type RequeueEntry } from '../libs/queue/src/statements/requeue-jobs.js';
import { run } from '../libs/queue/src/statements/statement.js';
import { beginOwningAll } from '../libs/queue/src/statements/transaction.js';
import { useDatabase } from './support/database.js';
import { claim, fenceOf, openSession, type Session } from './support/engine.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';

const database = useDatabase();
const tables = useTables(database);
const C = { channel: 'c', names: ['n'] } as const;

let session: Session;

beforeEach(async () => {
  await tables.sql('TRUNCATE nestmq.job, nestmq.lease, nestmq.finished_job, nestmq.runner');
  session = await openSession(database.url);
});

async function running(count = 1, columns: { attempt?: number; maxAttempts?: number } = {}): Promise<ClaimedJob[]> {
  await tables.sql(
    `INSERT INTO nestmq.job (channel, name, attempt, max_attempts) SELECT 'c', 'n', $2, $3 FROM generate_series(1, $1::int)`,
    [count, columns.attempt ?? 0, columns.maxAttempts ?? 5],
  );
  return claim(session, C);
}

const complete = (on: Session, jobs: readonly ClaimedJob[], runner = '1') =>
  on
    .transaction((client) => run(client, completeJobs, { runner, entries: jobs.map(fenceOf), endedLeases: [] }))
    .then(([taken]) => taken);

const DEAD = {
  state: 'dead',
  attempt: 1,
  reason: 'exhausted',
  error: 'fatal',
  result: null,
  seq: null,
  keepMs: null,
} as const;

const finish = (on: Session, job: ClaimedJob, entry: FinishEntry = DEAD) =>
  on.transaction((client) => run(client, finishJobs, { runner: job.runner, entries: [{ ...fenceOf(job), ...entry }] }));

const RETRY = { attempt: 1, delayMs: 1_000, error: 'boom', seq: null } as const;

const requeue = (on: Session, job: ClaimedJob, entry: RequeueEntry = RETRY) =>
  on.transaction((client) =>
    run(client, requeueJobs, { runner: job.runner, entries: [{ ...fenceOf(job), ...entry }] }),
  );

const live = (): Promise<Record<string, unknown>[]> =>
  tables.sql(`SELECT id::text, run, attempt, suspect, last_error, due_at > now() AS later FROM nestmq.job ORDER BY id`);

describe('completeJobs', () => {
  it('deletes the running jobs of the lease', async () => {
    expect(await complete(session, await running(3))).toBe('all');
    expect(await live()).toEqual([]);
  });

  it('leaves no trace of the lease once all of its jobs are settled', async () => {
    const jobs = await running(2);
    await complete(session, jobs);
    await session.transaction((client) => run(client, endLeases, { runner: '1', leases: [jobs[0]!.lease] }));
    expect(await tables.sql('SELECT FROM nestmq.lease')).toEqual([]);
  });

  it('does nothing the second time', async () => {
    const jobs = await running(2);
    await complete(session, jobs);
    expect(await complete(session, jobs)).toEqual([]);
  });

  it('refuses a job that is not running', async () => {
    const [job] = await running();
    await session.transaction((client) => run(client, endLeases, { runner: '1', leases: [job!.lease] }));
    expect(await complete(session, [job!])).toEqual([]);
    expect(await live()).toHaveLength(1);
  });

  it('refuses a job that another runner has by now', async () => {
    const [job] = await running();
    await requeue(session, job!, { ...RETRY, delayMs: 0 });
    const [taken] = await claim(await openSession(database.url), { ...C, runner: '2' });
    expect(await complete(session, [job!])).toEqual([]);
    expect(await complete(session, [taken!], '2')).toBe('all');
  });

  it('refuses a runner that carries the number of a lease which is not its own', async () => {
    const jobs = await running();
    expect(await complete(session, jobs, '2')).toEqual([]);
    expect(await live()).toHaveLength(1);
  });

  it('takes what is still its own, and names it, when one of a batch was lost', async () => {
    const [lost, own] = await running(2);
    await tables.sql('UPDATE nestmq.job SET run = run + 1 WHERE id = $1', [lost!.id]);
    expect(await complete(session, [lost!, own!])).toEqual([own!.id]);
  });

  it('that waited for a rescuer deletes nothing of the next runner', async () => {
    const [job] = await running();
    const rescuer = await openSession(database.url);
    await rescuer.pg.query('BEGIN');
    await rescuer.pg.query('UPDATE nestmq.job SET run = run + 1');
    const waiting = complete(session, [job!]);
    await until(() => tables.number('SELECT count(*) FROM pg_locks WHERE NOT granted'), { what: 'it waits' });
    await rescuer.pg.query('COMMIT');
    expect(await waiting).toEqual([]);
    expect(await live()).toHaveLength(1);
  });

  it.each([
    ['completes', complete, 0],
    ['finishes', async (on: Session, jobs: ClaimedJob[]) => finish(on, jobs[1]!), 2],
    ['puts back', async (on: Session, jobs: ClaimedJob[]) => requeue(on, jobs[1]!), 3],
  ])('that waited for somebody who wrote something else of the job %s it', async (_, settle, left) => {
    const jobs = await running(3);
    const canceller = await openSession(database.url);
    await canceller.pg.query('BEGIN');
    await canceller.pg.query('UPDATE nestmq.job SET priority = 1 WHERE id = $1', [jobs[1]!.id]);
    const waiting = settle(session, jobs);
    await until(() => tables.number('SELECT count(*) FROM pg_locks WHERE NOT granted'), { what: 'it waits' });
    await canceller.pg.query('COMMIT');
    expect([await waiting].flat()).not.toEqual([]);
    expect(await live()).toHaveLength(left);
  });

  it('inside a long transaction holds up no other job of the batch, and no claim', async () => {
    const [slow, quick] = await running(2);
    const handler = await openSession(database.url);
    await handler.pg.query('BEGIN');
    await run(handler.client, completeJobs, { runner: '1', entries: [fenceOf(slow!)], endedLeases: [] });
    expect(await complete(session, [quick!])).toBe('all');
    expect(await running()).toHaveLength(1);
    await handler.pg.query('ROLLBACK');
    expect((await live()).map(({ id }) => id)).toContain(slow!.id);
  });
});

describe('requeueJobs', () => {
  it('puts a failed run back: attempt counted once, error kept, due later, no lease on it', async () => {
    const [job] = await running();
    await requeue(session, job!);
    expect(await live()).toEqual([
      { id: job!.id, run: 1, attempt: 1, suspect: false, last_error: 'boom', later: true },
    ]);
  });

  it('is free for the next claim while a batch neighbour still runs under the same lease', async () => {
    const [failed, neighbour] = await running(2);
    await requeue(session, failed!, { ...RETRY, delayMs: 0 });
    const next = await claim(await openSession(database.url), { ...C, runner: '2' });
    expect(next).toMatchObject([{ id: failed!.id, attempt: 2, run: 1 }]);
    expect(await complete(session, [neighbour!])).toBe('all');
  });

  it('releases at the old place, the attempt given back', async () => {
    const [job] = await running();
    const [before] = await tables.sql('SELECT due_at FROM nestmq.job');
    await requeue(session, job!, { attempt: 0, delayMs: null, error: null, seq: null });
    expect(await tables.sql('SELECT due_at FROM nestmq.job')).toEqual([before]);
    expect(await live()).toMatchObject([{ attempt: 0, last_error: null }]);
  });

  it('refuses a stale run', async () => {
    const [job] = await running();
    await requeue(session, job!);
    expect(await requeue(session, job!)).toEqual([]);
    expect(await live()).toMatchObject([{ run: 1, attempt: 1 }]);
  });

  it('passes by a job that its handler is completing in a transaction of its own', async () => {
    const [job] = await running();
    const handler = await openSession(database.url);
    await handler.pg.query('BEGIN');
    await run(handler.client, completeJobs, { runner: '1', entries: [fenceOf(job!)], endedLeases: [] });
    expect(await requeue(session, job!, { ...RETRY, unsure: true })).toEqual([]);
    await handler.pg.query('COMMIT');
    expect(await live()).toEqual([]);
  });
});

describe('a settlement of a job that a cancel has locked', () => {
  it.each([
    [
      'finishJobs',
      (job: ClaimedJob) => finish(session, job, { ...DEAD, state: 'completed', reason: null }),
      'completed',
    ],
    ['finishJobs, dead', (job: ClaimedJob) => finish(session, job), 'cancelled'],
    ['requeueJobs', (job: ClaimedJob) => requeue(session, job), 'cancelled'],
  ] as const)('waits for it and is written: %s', async (_, settle, state) => {
    const [job] = await running();
    const canceller = await openSession(database.url);
    await canceller.pg.query(beginOwningAll('nestmq', 'c'));
    await run(canceller.client, cancelJobs, { channel: 'c', ids: [job!.id], reason: null, keepMs: 60_000 });
    const settling = settle(job!);
    await until(
      () =>
        tables.number(
          `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
        ),
      { what: 'it waits' },
    );
    await canceller.pg.query('COMMIT');
    expect(await settling).toMatchObject([{ id: job!.id }]);
    expect(await live()).toEqual([]);
    expect(await tables.sql('SELECT state FROM nestmq.finished_job')).toEqual([{ state }]);
  });
});

describe('finishJobs', () => {
  it('keeps a dead job with its error, reason, attempt and payload', async () => {
    const [job] = await running();
    await tables.sql(`UPDATE nestmq.job SET payload = '{"a": 1}'`);
    expect(await finish(session, job!)).toEqual([{ id: job!.id, cancelled: null }]);
    expect(await live()).toEqual([]);
    expect(await tables.sql('SELECT state, reason, last_error, attempt, payload FROM nestmq.finished_job')).toEqual([
      { state: 'dead', reason: 'exhausted', last_error: 'fatal', attempt: 1, payload: { a: 1 } },
    ]);
  });

  it('keeps a completed job with its result for its retention', async () => {
    const [job] = await running();
    const entry = {
      state: 'completed',
      attempt: 1,
      reason: null,
      error: null,
      result: '{"n":1}',
      seq: null,
      keepMs: 60_000,
    } as const;
    await finish(session, job!, entry);
    const [kept] = await tables.sql(
      `SELECT state, result, delete_at > now() AND delete_at <= clock_timestamp() + interval '1 minute' AS due
       FROM nestmq.finished_job`,
    );
    expect(kept).toEqual({ state: 'completed', result: { n: 1 }, due: true });
  });

  it('refuses a stale run, and keeps nothing of it', async () => {
    const [job] = await running();
    await requeue(session, job!);
    expect(await finish(session, job!)).toEqual([]);
    expect(await tables.sql('SELECT FROM nestmq.finished_job')).toEqual([]);
  });
});

describe('findUnsettled', () => {
  const look = (job: ClaimedJob) =>
    session.transaction((client) => run(client, findUnsettled, { runner: '1', entries: [fenceOf(job)] }));

  it('finds a run that nobody has settled, and none that was completed', async () => {
    const [job] = await running();
    expect(await look(job!)).toEqual([{ id: job!.id, mine: true }]);
    await complete(session, [job!]);
    expect(await look(job!)).toEqual([]);
  });

  it('tells a run that a rescuer has put back, or given up, from one that was completed', async () => {
    const [waits, dead] = [(await running())[0]!, (await running())[0]!];
    await tables.sql('UPDATE nestmq.job SET run = run + 1 WHERE id = $1', [waits.id]);
    await tables.sql(
      `WITH gone AS (DELETE FROM nestmq.job WHERE id = $1 RETURNING *)
       INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, channel, key, name)
       SELECT id, 'dead', 1, priority, due_at, created_at, channel, key, name FROM gone`,
      [dead.id],
    );
    expect(await look(waits)).toEqual([{ id: waits.id, mine: false }]);
    expect(await look(dead)).toEqual([{ id: dead.id, mine: false }]);
  });

  it('does not wait for a transaction that is completing the job, and still finds it', async () => {
    const [job] = await running();
    const handler = await openSession(database.url);
    await handler.pg.query('BEGIN');
    await run(handler.client, completeJobs, { runner: '1', entries: [fenceOf(job!)], endedLeases: [] });
    expect(await look(job!)).toEqual([{ id: job!.id, mine: true }]);
    await handler.pg.query('ROLLBACK');
  });
});
