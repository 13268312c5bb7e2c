import { beforeEach, describe, expect, it } from '@jest/globals';
import type { ClaimedJob } from '../libs/queue/src/job/job.js';
import { pauseChannel } from '../libs/queue/src/statements/channels.js';
import { claimArrivals, claimLanes } from '../libs/queue/src/statements/claim-lanes.js';
import { extendLane } from '../libs/queue/src/statements/extend-lane.js';
import { endLanes } from '../libs/queue/src/statements/lanes.js';
import { rescueJobs, rescueLanes } from '../libs/queue/src/statements/rescue-jobs.js';
import { run } from '../libs/queue/src/statements/statement.js';
import { beginOwning } from '../libs/queue/src/statements/transaction.js';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { openSession, START, type Session } from './support/engine.js';
import { untilDone } from './support/events.js';
import { laneWith, payloadsOf, seqsOf, turn, upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

interface OrderedJob {
  readonly id: number;
  readonly key?: string;
  readonly dueIn?: string;
  readonly attempt?: number;
}

async function insert(...jobs: readonly OrderedJob[]): Promise<void> {
  for (const { id, key = 'a', dueIn = '-1s', attempt = 0 } of jobs) {
    await tables.sql(
      `INSERT INTO nestmq.job (id, position, channel, key, name, due_at, attempt)
       VALUES ($1, $1, 'c', $2, 'n', now() + $3::interval, $4)`,
      [id, key, dueIn, attempt],
    );
  }
}

const OURS = { runner: '1', lease: 1, channel: 'c', priority: 0, names: ['n'] };

/** The lane, up to so many of its jobs. */
async function claim(session: Session, most: number): Promise<ClaimedJob[]> {
  const rows = await session.transaction(
    (client) => run(client, claimArrivals, { ...OURS, after: START, limit: 10, slots: 10, run: most, arrivals: 1_000 }),
    beginOwning('nestmq', 'c'),
  );
  return rows.flatMap(({ job }) => job ?? []);
}

const extend = (session: Session, most: number, { key = 'a', lease = 1 } = {}): Promise<ClaimedJob[]> =>
  session.transaction(
    (client) => run(client, extendLane, { ...OURS, lease, key, run: most }),
    beginOwning('nestmq', 'c'),
  );

const complete = (...ids: readonly number[]) => tables.sql('DELETE FROM nestmq.job WHERE id = ANY ($1)', [ids]);

const told = (jobs: readonly ClaimedJob[]): unknown[] => jobs.map(({ id, seq, closesLane }) => [id, seq, closesLane]);

const leases = (): Promise<object[]> =>
  tables.sql(
    `SELECT number, job_ids::text[] AS ids, runs, keys, seqs::int[] AS seqs, started FROM nestmq.lease ORDER BY number`,
  );

const lanes = (): Promise<object[]> =>
  tables.sql('SELECT last_seq::int, runner_id, head_position::int AS head FROM nestmq.lane');

const NOTHING: never[] = [];

describe('a lane that is extended', () => {
  it('gives the jobs behind those in hand, with the numbers behind theirs, and says which is the last', async () => {
    const session = await openSession(database.url);
    await insert(...upTo(7).map((id) => ({ id })));
    await claim(session, 2);
    expect(told(await extend(session, 3))).toEqual([
      ['3', 3, false],
      ['4', 4, false],
      ['5', 5, false],
    ]);
    expect(told(await extend(session, 3))).toEqual([
      ['6', 6, false],
      ['7', 7, true],
    ]);
    expect(await extend(session, 3)).toEqual(NOTHING);
  });

  it('answers whole jobs', async () => {
    const session = await openSession(database.url);
    await insert({ id: 1 }, { id: 2 });
    await tables.sql(
      `UPDATE nestmq.job SET payload = '{"n": 12345678901234567890}', payload_bytes = '\\x00ff' WHERE id = 2`,
    );
    await claim(session, 1);
    expect(await extend(session, 1)).toMatchObject([
      {
        ...{ id: '2', channel: 'c', key: 'a', name: 'n', attempt: 1, runner: '1', lease: 1, suspect: false },
        ...{ payload: '{"n": 12345678901234567890}', bytes: Buffer.from([0, 255]) },
      },
    ]);
  });

  it('writes them down behind those of the lease that are left, with the start of the first', async () => {
    const session = await openSession(database.url);
    await insert(...upTo(6).map((id) => ({ id })));
    await claim(session, 2);
    await extend(session, 2);
    expect(await leases()).toEqual([
      {
        number: 1,
        ids: ['1', '2', '3', '4'],
        runs: [0, 0, 0, 0],
        keys: ['a', 'a', 'a', 'a'],
        seqs: [1, 2, 3, 4],
        started: 1,
      },
    ]);
    await complete(1, 2, 3);
    await extend(session, 1);
    // One more is kept than is left, which may be a dead one.
    expect(await leases()).toEqual([
      { number: 1, ids: ['3', '4', '5'], runs: [0, 0, 0], keys: ['a', 'a', 'a'], seqs: [3, 4, 5], started: 0 },
    ]);
    await complete(4, 5);
    await extend(session, 1);
    expect(await leases()).toMatchObject([{ ids: ['5', '6'], seqs: [5, 6] }]);
  });

  it('keeps what is left to be settled, also when a job that was committed late stands before it in the lane', async () => {
    const session = await openSession(database.url);
    await insert({ id: 1 }, ...upTo(6).map((n) => ({ id: 10 + n })));
    await claim(session, 3);
    await insert(...upTo(5).map((n) => ({ id: 1 + n })));
    await extend(session, 1);
    await complete(1);
    expect(told(await extend(session, 1))).toEqual([['3', 5, false]]);
    expect(await leases()).toMatchObject([{ ids: ['1', '11', '12', '2', '3'], seqs: [1, 2, 3, 4, 5], started: 1 }]);
    await complete(11);
    await extend(session, 1);
    expect(await leases()).toMatchObject([{ ids: ['11', '12', '2', '3', '4'], seqs: [2, 3, 4, 5, 6], started: 0 }]);
  });

  it('is none while jobs stand in it that had their numbers before', async () => {
    const session = await openSession(database.url);
    await insert(...upTo(5).map((id) => ({ id })));
    await tables.sql('UPDATE nestmq.job SET seq = id + 1 WHERE id > 1');
    await tables.sql(`INSERT INTO nestmq.lane (channel, key, name, last_seq, ready_at, head_position)
      VALUES ('c', 'a', 'n', 6, now(), 2)`);
    const rows = await session.transaction(
      (client) => run(client, claimLanes, { ...OURS, after: START, limit: 10, slots: 10, run: 2 }),
      beginOwning('nestmq', 'c'),
    );
    expect(told(rows.flatMap(({ job }) => job ?? []))).toEqual([
      ['2', 3, false],
      ['3', 4, false],
    ]);
    expect(await extend(session, 2)).toEqual(NOTHING);
  });

  it('gives a job that was committed late before those that stand behind it', async () => {
    const session = await openSession(database.url);
    await insert({ id: 1 }, { id: 3 }, { id: 5 });
    await claim(session, 2);
    await insert({ id: 2 }, { id: 4 });
    expect(told(await extend(session, 5))).toEqual([
      ['2', 3, false],
      ['4', 4, false],
      ['5', 5, true],
    ]);
  });

  it.each([
    ['is not due', { dueIn: '1h' }],
    ['is on its last attempt', { attempt: 4 }],
  ])('ends before a job that %s', async (_, job) => {
    const session = await openSession(database.url);
    await insert({ id: 1 }, { id: 2 }, { id: 3, ...job }, { id: 4 });
    await claim(session, 1);
    expect(told(await extend(session, 5))).toEqual([['2', 2, false]]);
    expect(await extend(session, 5)).toEqual(NOTHING);
  });

  it('is none, and writes nothing, when the lane is another lease’s, given back, paused or not alone in its lease', async () => {
    const session = await openSession(database.url);
    await insert({ id: 1 }, { id: 2 }, { id: 3, key: 'b' }, { id: 4, key: 'b' });
    await claim(session, 1);
    expect(await leases()).toMatchObject([{ ids: ['1', '3'] }]);
    expect(await extend(session, 1)).toEqual(NOTHING);
    await tables.sql(`UPDATE nestmq.lease SET job_ids = '{1}', runs = '{0}', keys = '{a}', seqs = '{1}'`);
    const before = await leases();
    expect(await extend(session, 1, { lease: 2 })).toEqual(NOTHING);
    await session.transaction((client) => run(client, pauseChannel, { channel: 'c' }), beginOwning('nestmq', 'c'));
    expect(await extend(session, 1)).toEqual(NOTHING);
    await tables.sql('DELETE FROM nestmq.paused_channel');
    await tables.sql(`UPDATE nestmq.lane SET runner_id = NULL, lease = NULL WHERE key = 'a'`);
    expect(await extend(session, 1)).toEqual(NOTHING);
    expect(await leases()).toEqual(before);
  });

  it('is none when it is given back meanwhile', async () => {
    const [claimer, settler] = [await openSession(database.url), await openSession(database.url)];
    await insert({ id: 1 }, { id: 2 }, { id: 3 });
    await claim(claimer, 1);
    await settler.pg.query('BEGIN');
    const end = { channel: 'c', key: 'a', runner: '1', lease: 1, lastSeq: 1, blockedBy: null };
    await settler.pg.query('DELETE FROM nestmq.job WHERE id = 1');
    await run(settler.client, endLanes, { runner: '1', lanes: [end] });
    const extending = extend(claimer, 2);
    const waiting = `SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted`;
    await until(async () => (await tables.number(waiting)) > 0, { what: 'the extension waits' });
    await settler.pg.query('DELETE FROM nestmq.lease');
    await settler.pg.query('COMMIT');
    expect(await extending).toEqual(NOTHING);
    expect(await lanes()).toEqual([{ last_seq: 1, runner_id: null, head: 2 }]);
  });

  it('is given back with its number, also when that waited for the extension', async () => {
    const [claimer, settler] = [await openSession(database.url), await openSession(database.url)];
    await insert(...upTo(4).map((id) => ({ id })));
    await claim(claimer, 2);
    await claimer.pg.query('BEGIN');
    await run(claimer.client, extendLane, { ...OURS, key: 'a', run: 2 });
    const end = { channel: 'c', key: 'a', runner: '1', lease: 1, lastSeq: 1, blockedBy: null };
    await complete(1);
    const ending = settler.transaction((client) => run(client, endLanes, { runner: '1', lanes: [end] }));
    const waiting = `SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted`;
    await until(async () => (await tables.number(waiting)) > 0, { what: 'the end waits' });
    await claimer.pg.query('COMMIT');
    await ending;
    expect(await lanes()).toEqual([{ last_seq: 1, runner_id: null, head: 2 }]);
  });

  it('comes back whole, in its order and with its numbers, when its runner has died', async () => {
    const session = await openSession(database.url);
    await insert(...upTo(5).map((id) => ({ id })));
    await claim(session, 2);
    await extend(session, 2);
    await complete(1);
    await session.transaction((client) => Promise.all([run(client, rescueJobs, {}), run(client, rescueLanes, {})]));
    expect(await tables.sql('SELECT id::int, seq::int, suspect FROM nestmq.job ORDER BY seq, position')).toEqual([
      { id: 2, seq: 2, suspect: true },
      { id: 3, seq: 3, suspect: true },
      { id: 4, seq: 4, suspect: true },
      { id: 5, seq: null, suspect: false },
    ]);
    expect(await leases()).toEqual([]);
    expect(await lanes()).toEqual([{ last_seq: 4, runner_id: null, head: 2 }]);
  });
});

const ALL = 3_000;

/** Counts from here on how often a lease is extended. */
async function countExtensions(): Promise<() => Promise<number>> {
  await tables.sql('CREATE SEQUENCE public.extended MINVALUE 0');
  await tables.sql(`CREATE FUNCTION public.count_extension() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM nextval('public.extended'); RETURN NULL; END $$`);
  await tables.sql(
    'CREATE TRIGGER counted AFTER UPDATE OF job_ids ON nestmq.lease EXECUTE FUNCTION public.count_extension()',
  );
  return async () => {
    const [row] = await tables.sql<{ count: number }>(
      'SELECT CASE WHEN is_called THEN last_value + 1 ELSE 0 END::int AS count FROM public.extended',
    );
    await tables.sql('DROP FUNCTION public.count_extension CASCADE');
    await tables.sql('DROP SEQUENCE public.extended');
    return row!.count;
  };
}

describe('a long lane of fast jobs', () => {
  it('is claimed further while it runs, and runs in order and without a gap', async () => {
    const Work = laneWith();
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, prefetchMs: 200 }, providers: [Work] });
    // So many tell the process how fast they are.
    await app.jobs.spawnMany(upTo(50).map((payload) => ({ name: 'work', payload, key: `short ${payload}` })));
    await untilDone(tables);
    const extensions = await countExtensions();
    await app.jobs.spawnMany(upTo(ALL).map((payload) => ({ name: 'work', payload, key: 'long' })));
    await untilDone(tables);
    expect(payloadsOf(app.get(Work), 'long')).toEqual(upTo(ALL));
    expect(seqsOf(app.get(Work), 'long')).toEqual(upTo(ALL));
    expect(await extensions()).toBeGreaterThan(0);
    await app.close();
  });

  it('starts nothing behind a job that fails, whose turn comes again first', async () => {
    const Work = laneWith({ backoff: { type: 'fixed', base: 20, jitter: 0 } }, ({ payload, attempt }) => {
      if ((payload as number) % 700 === 0 && attempt === 1) throw new Error('once more');
    });
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, prefetchMs: 200 }, providers: [Work] });
    await app.jobs.spawnMany(upTo(ALL).map((payload) => ({ name: 'work', payload, key: 'long' })));
    await untilDone(tables);
    const twice = upTo(ALL).flatMap((payload) => (payload % 700 === 0 ? [payload, payload] : payload));
    expect(payloadsOf(app.get(Work))).toEqual(twice);
    expect(seqsOf(app.get(Work))).toEqual(twice);
    await app.close();
  });

  it('is given back whole at a shutdown, and goes on where it was', async () => {
    const { opened, open } = gate();
    const Work = laneWith({}, ({ payload }) => (payload === 1_200 ? opened : undefined));
    const queue = { ...POLLING_OFF, prefetchMs: 200 };
    const first = await startApp({ ...database, queue, providers: [Work] });
    await first.jobs.spawnMany(upTo(ALL).map((payload) => ({ name: 'work', payload, key: 'long' })));
    await until(() => payloadsOf(first.get(Work)).includes(1_200), { what: 'a job of it waits' });
    const closing = first.close();
    open();
    await closing;
    expect(await tables.number('SELECT count(*) FROM nestmq.lease')).toBe(0);
    const done = first.get(Work).runs.length;
    expect(done).toBeLessThan(ALL);
    expect(payloadsOf(first.get(Work))).toEqual(upTo(done));
    const second = await startApp({ ...database, queue, providers: [Work] });
    await untilDone(tables);
    expect(seqsOf(second.get(Work))).toEqual(upTo(ALL).slice(done));
    await second.close();
  });

  it('keeps the room of its handler while it waits for more', async () => {
    let running = 0;
    let most = 0;
    const Work = laneWith({ concurrency: 1 }, async () => {
      running += 1;
      most = Math.max(most, running);
      await turn();
      running -= 1;
    });
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, prefetchMs: 200 }, providers: [Work] });
    // Held up, an extension comes later than the last job before it has ended.
    await tables.sql(`CREATE FUNCTION public.hold_up() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END $$`);
    await tables.sql(
      'CREATE TRIGGER held_up BEFORE UPDATE ON nestmq.lease FOR EACH ROW EXECUTE FUNCTION public.hold_up()',
    );
    const keys = ['long', 'longer', 'longest'];
    await app.jobs.spawnMany(upTo(ALL).map((payload) => ({ name: 'work', payload, key: keys[payload % 3]! })));
    await untilDone(tables);
    await tables.sql('DROP FUNCTION public.hold_up CASCADE');
    for (const key of keys) expect(seqsOf(app.get(Work), key)).toEqual(upTo(ALL / 3));
    expect(most).toBe(1);
    await app.close();
  });

  it('leaves out a job that is cancelled behind the one that runs', async () => {
    const { opened, open } = gate();
    const Work = laneWith({}, ({ payload }) => (payload === 1_200 ? opened : undefined));
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, prefetchMs: 200 }, providers: [Work] });
    const sent = await app.jobs.spawnMany(upTo(ALL).map((payload) => ({ name: 'work', payload, key: 'long' })));
    await until(() => payloadsOf(app.get(Work)).includes(1_200), { what: 'a job of it waits' });
    await app.queue.cancel(sent[1_299]!.id);
    open();
    await untilDone(tables);
    expect(payloadsOf(app.get(Work))).toEqual(upTo(ALL).filter((payload) => payload !== 1_300));
    expect(seqsOf(app.get(Work))).toEqual(upTo(ALL - 1));
    await app.close();
  });
});
