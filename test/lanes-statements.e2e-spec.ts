import { beforeEach, describe, expect, it } from '@jest/globals';
import type { ClaimedJob, Position } from '../libs/queue/src/job/job.js';
import { pauseChannel } from '../libs/queue/src/statements/channels.js';
import { claimArrivals, claimLanes, type ClaimLanesRow } from '../libs/queue/src/statements/claim-lanes.js';
import { endLanes } from '../libs/queue/src/statements/lanes.js';
import { recheckLanes, repairLanes, sweepLanes } from '../libs/queue/src/statements/mend-lanes.js';
import { pruneLanes } from '../libs/queue/src/statements/prune-jobs.js';
import { run } from '../libs/queue/src/statements/statement.js';
import { beginOwning } from '../libs/queue/src/statements/transaction.js';
import { useDatabase } from './support/database.js';
import { openSession, START, type Session } from './support/engine.js';
import { upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

/** Ordered jobs of channel `c`, each in the lane that is named. */
async function insert(...keys: readonly string[]): Promise<string[]> {
  const rows = await tables.sql<{ id: string }>(
    `INSERT INTO nestmq.job (id, position, channel, key, name)
     SELECT id, id, 'c', key, 'n'
     FROM (SELECT nextval('nestmq.job_id_seq') AS id, key FROM unnest($1::text[]) WITH ORDINALITY AS item (key, n) ORDER BY n) AS item
     RETURNING id::text`,
    [keys],
  );
  return rows.map(({ id }) => id);
}

let lastLease = 0;

interface Claim {
  readonly by?: 'arrivals' | 'lanes';
  readonly limit?: number;
  readonly slots?: number;
  readonly run?: number;
  readonly after?: Position;
}

async function claim(session: Session, { by = 'arrivals', ...wanted }: Claim = {}) {
  lastLease += 1;
  const params = {
    ...{ runner: '1', lease: lastLease, channel: 'c', priority: 0, names: ['n'] },
    ...{ after: START, limit: 10, slots: 10, run: 1, arrivals: 1_000, ...wanted },
  };
  const statement = by === 'arrivals' ? claimArrivals : claimLanes;
  const rows: ClaimLanesRow[] = await session.transaction(
    (client) => run(client, statement, params),
    beginOwning('nestmq', 'c'),
  );
  return { jobs: rows.flatMap(({ job }) => job ?? []), feed: rows[0]!.feed!, lease: lastLease };
}

const placesOf = (jobs: readonly ClaimedJob[]): [string, number | null][] => jobs.map(({ key, seq }) => [key, seq]);

/** Completes a lane's jobs up to a number, and gives the lane back. */
async function end(session: Session, key: string, lease: number, lastSeq: number, ids: readonly string[]) {
  return session.transaction(async (client) => {
    await session.pg.query('DELETE FROM nestmq.job WHERE id = ANY ($1)', [ids]);
    await session.pg.query('DELETE FROM nestmq.lease WHERE number = $1', [lease]);
    return run(client, endLanes, {
      runner: '1',
      lanes: [{ channel: 'c', key, runner: '1', lease, lastSeq, blockedBy: null }],
    });
  });
}

const lanes = (): Promise<object[]> =>
  tables.sql(`SELECT key, last_seq::int AS last_seq, runner_id IS NOT NULL AS leased, head_position::text AS head
    FROM nestmq.lane ORDER BY key`);

/** Everything that the tables hold, with the versions of the rows. */
const contents = (): Promise<object[]> =>
  tables.sql(`SELECT 'job' AS table, xmin::text, ctid::text FROM nestmq.job UNION ALL SELECT 'lane', xmin::text, ctid::text FROM nestmq.lane
    UNION ALL SELECT 'lease', xmin::text, ctid::text FROM nestmq.lease ORDER BY 1, 3`);

/** The lease 1 of the runner 1, of one lane. */
const LEASE_OF = (key: string): string => `
  INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, keys, seqs, started, hi_due_at, hi_id)
  VALUES (1, 1, 'c', 0, '{0}', '{0}', '{${key}}', '{1}', 1, 'epoch', 0)`;

const ONE_BY_ONE = { limit: 10, slots: 10, run: 1, arrivals: 1_000 };

// acceptance: modkit-db outbox C, K
describe('claims of ordered jobs', () => {
  it.each(['arrivals', 'lanes'] as const)('by %s answer none, and write nothing, on empty tables', async (by) => {
    const { jobs, feed } = await claim(await openSession(database.url), { by });
    expect(jobs).toEqual([]);
    expect(feed).toMatchObject({ exhausted: true, nextDueMicros: null });
    expect(await contents()).toEqual([]);
  });

  it.each(['arrivals', 'lanes'] as const)(
    'by %s say when they have not looked, since the channel is paused',
    async (by) => {
      await insert('a');
      const session = await openSession(database.url);
      await session.transaction((client) => run(client, pauseChannel, { channel: 'c' }), beginOwning('nestmq', 'c'));
      expect(await claim(session, { by })).toMatchObject({ jobs: [], feed: { paused: true } });
      await tables.sql('DELETE FROM nestmq.paused_channel');
      expect(await claim(session, { by })).toMatchObject({ feed: { paused: false } });
    },
  );

  it.each(['arrivals', 'lanes'] as const)('by %s write nothing where every lane is leased or rests', async (by) => {
    const session = await openSession(database.url);
    const [rested] = await insert('rests', 'leased', 'leased');
    const first = await claim(session);
    expect(placesOf(first.jobs)).toEqual([
      ['rests', 1],
      ['leased', 1],
    ]);
    await tables.sql('DELETE FROM nestmq.job WHERE id = $1', [rested]);
    const lane = { channel: 'c', key: 'rests', runner: '1', lease: first.lease, lastSeq: 1, blockedBy: null };
    await session.transaction((client) => run(client, endLanes, { runner: '1', lanes: [lane] }));
    const before = await contents();
    const { jobs, feed } = await claim(session, { by });
    expect(jobs).toEqual([]);
    expect(feed.exhausted).toBe(true);
    expect(await contents()).toEqual(before);
  });

  it('take several lanes, of each a run of as many jobs as they may, in order and numbered', async () => {
    const session = await openSession(database.url);
    await insert('a', 'b', 'a', 'c', 'a', 'b', 'a');
    const { jobs } = await claim(session, { run: 3 });
    // Those that start at once stand first.
    expect(placesOf(jobs)).toEqual([
      ['a', 1],
      ['b', 1],
      ['c', 1],
      ['a', 2],
      ['a', 3],
      ['b', 2],
    ]);
    expect(await tables.sql('SELECT started, keys FROM nestmq.lease')).toEqual([
      { started: 3, keys: expect.arrayContaining(['a', 'b', 'c']) },
    ]);
  });

  it('take no more than their budget; what stays of a lane is known when it is given back', async () => {
    const session = await openSession(database.url);
    const ids = await insert('a', 'a', 'a', 'a', 'a');
    const first = await claim(session, { run: 2 });
    expect(placesOf(first.jobs)).toEqual([
      ['a', 1],
      ['a', 2],
    ]);
    expect((await claim(session, { run: 2 })).jobs).toEqual([]);
    const [freed] = await end(session, 'a', first.lease, 2, ids.slice(0, 2));
    expect(freed).toMatchObject({ channel: 'c', key: 'a', message: expect.stringContaining(ids[2]!) });
    expect(await lanes()).toEqual([{ key: 'a', last_seq: 2, leased: false, head: ids[2] }]);
    const second = await claim(session, { by: 'lanes', run: 2 });
    expect(placesOf(second.jobs)).toEqual([
      ['a', 3],
      ['a', 4],
    ]);
  });

  it('of two runners never share a lane, nor start it twice', async () => {
    const sessions = await Promise.all([1, 2, 3, 4].map(() => openSession(database.url)));
    await insert(...upTo(200).map((n) => `lane ${n % 50}`));
    const claims = await Promise.all(
      sessions.flatMap((session) => [claim(session, { limit: 20, slots: 20 })].map((one) => one)),
    );
    const keys = claims.flatMap(({ jobs }) => jobs.map(({ key }) => key));
    expect(new Set(keys).size).toBe(keys.length);
    expect(keys).toHaveLength(50);
  });

  it('take a job on its last attempt only as the head of a lane that starts at once', async () => {
    const session = await openSession(database.url);
    await insert('a', 'a', 'b', 'c');
    await tables.sql(
      `UPDATE nestmq.job SET max_attempts = 1 WHERE key = 'b' OR id IN (SELECT id FROM nestmq.job WHERE key = 'a' ORDER BY id OFFSET 1)`,
    );
    expect(placesOf((await claim(session, { run: 5, slots: 1 })).jobs)).toEqual([['a', 1]]);
    expect(placesOf((await claim(session, { run: 5, slots: 1 })).jobs)).toEqual([
      ['b', 1],
      ['c', 1],
    ]);
  });
});

describe('repairLanes', () => {
  it('finds the job that was committed while its lane came to rest', async () => {
    const session = await openSession(database.url);
    const [first] = await insert('a');
    const { lease } = await claim(session);
    await end(session, 'a', lease, 1, [first!]);
    const [late] = await insert('a');
    const lane = { channel: 'c', key: 'a' };
    const repair = () => session.transaction((client) => run(client, repairLanes, { lanes: [lane] }));
    expect(await repair()).toEqual([{ ...lane, message: expect.stringContaining(late!) }]);
    expect(await repair()).toEqual([]);
    expect(placesOf((await claim(session, { by: 'lanes' })).jobs)).toEqual([['a', 2]]);
  });
});

// A lane is its owner's as long as the owner's lease is there.
describe('a lane that ended with its lease', () => {
  const gone = (key: string): string =>
    `INSERT INTO nestmq.lane (channel, key, last_seq, leased_seq, runner_id, lease) VALUES ('c', '${key}', 3, 5, 9, 9)`;

  it('is claimed by the next job, which has the next number', async () => {
    await tables.sql(gone('a'));
    await insert('a', 'a');
    const session = await openSession(database.url);
    const { jobs, lease } = await claim(session, { run: 2 });
    expect(placesOf(jobs)).toEqual([
      ['a', 6],
      ['a', 7],
    ]);
    expect(await tables.sql('SELECT last_seq::int, leased_seq::int, lease FROM nestmq.lane')).toEqual([
      { last_seq: 5, leased_seq: 7, lease },
    ]);
  });

  it('stays with the runner that has taken it since it was read', async () => {
    await tables.sql(gone('a'));
    await insert('a');
    const [first, second] = [await openSession(database.url), await openSession(database.url)];
    const params = { ...{ runner: '1', channel: 'c', priority: 0, names: ['n'], after: START }, ...ONE_BY_ONE };
    await first.pg.query('BEGIN');
    const taken = await run(first.client, claimArrivals, { ...params, lease: 101 });
    // Without the lock of the channel, as a claim of a suspect is: it waits for the row.
    await second.pg.query('BEGIN');
    const waiting = run(second.client, claimArrivals, { ...params, runner: '2', lease: 102 });
    await until(() => tables.number('SELECT count(*) FROM pg_locks WHERE NOT granted'), { what: 'the second waits' });
    await first.pg.query('COMMIT');
    const late = await waiting;
    await second.pg.query('COMMIT');
    expect(taken.flatMap(({ job }) => job?.seq ?? [])).toEqual([6]);
    expect(late.flatMap(({ job }) => job?.seq ?? [])).toEqual([]);
    expect(await tables.sql('SELECT runner_id::int, lease FROM nestmq.lane')).toEqual([{ runner_id: 1, lease: 101 }]);
  });

  it('is written down with its head when it is looked at again', async () => {
    await tables.sql(gone('a'));
    const [id] = await insert('a');
    const session = await openSession(database.url);
    const lane = { channel: 'c', key: 'a' };
    const [found] = await session.transaction((client) => run(client, recheckLanes, { lanes: [lane] }));
    expect(found).toEqual({ ...lane, message: expect.stringContaining(id!), passedBy: false });
    expect(await lanes()).toEqual([{ key: 'a', last_seq: 5, leased: false, head: id }]);
  });

  it('is passed by while somebody else has locked it, and says so', async () => {
    await tables.sql(gone('a'));
    await insert('a');
    const [session, other] = [await openSession(database.url), await openSession(database.url)];
    const lane = { channel: 'c', key: 'a' };
    const look = () => session.transaction((client) => run(client, recheckLanes, { lanes: [lane] }));
    await other.transaction(async () => {
      await other.pg.query(`SELECT FROM nestmq.lane WHERE key = 'a' FOR UPDATE`);
      expect(await look()).toEqual([{ ...lane, message: null, passedBy: true }]);
    });
    expect(await look()).toMatchObject([{ ...lane, passedBy: false }]);
    expect(await look()).toEqual([]);
  });

  it('is left alone by a second look while its lease is there', async () => {
    await tables.sql(gone('a').replace('9, 9', '1, 1'));
    await tables.sql(LEASE_OF('a'));
    await insert('a');
    const session = await openSession(database.url);
    const before = await contents();
    for (const statement of [recheckLanes, repairLanes])
      await session.transaction((client) => run(client, statement, { lanes: [{ channel: 'c', key: 'a' }] }));
    expect(await contents()).toEqual(before);
  });

  it('is pruned when it was idle for 90 days', async () => {
    await tables.sql(gone('a'));
    await tables.sql(`UPDATE nestmq.lane SET used_at = now() - interval '91 days'`);
    const session = await openSession(database.url);
    expect(await session.transaction((client) => run(client, pruneLanes, {}))).toEqual([1]);
  });
});

describe('sweepLanes', () => {
  it('finds stranded lanes window by window, and leaves the others as they are', async () => {
    const session = await openSession(database.url);
    await insert(...upTo(2_500).map((n) => `lane ${String(n).padStart(4, '0')}`));
    await tables.sql(`INSERT INTO nestmq.lane (channel, key, blocked_by) VALUES ('c', 'lane 0007', 1)`);
    await tables.sql(`INSERT INTO nestmq.lane (channel, key, runner_id, lease) VALUES ('c', 'lane 0008', 1, 1)`);
    await tables.sql(LEASE_OF('lane 0008'));
    // It ended with its lease.
    await tables.sql(`INSERT INTO nestmq.lane (channel, key, runner_id, lease) VALUES ('c', 'lane 0009', 1, 2)`);
    let after: { channel: string; key: string } | null = null;
    const found: string[] = [];
    do {
      const [swept] = await session.transaction((client) => run(client, sweepLanes, { after }));
      found.push(...swept!.messages);
      after = swept!.last;
    } while (after !== null);
    expect(found).toHaveLength(2_498);
    expect(await tables.number('SELECT count(*) FROM nestmq.lane WHERE ready_at IS NOT NULL')).toBe(2_498);
  });
});

describe('pruneLanes', () => {
  it('deletes lanes that were idle for 90 days, and no lane that is leased, blocked or has a job', async () => {
    const session = await openSession(database.url);
    await tables.sql(`
      INSERT INTO nestmq.lane (channel, key, last_seq, runner_id, lease, blocked_by, head_position, used_at) VALUES
        ('c', 'idle', 5, NULL, NULL, NULL, NULL, now() - interval '91 days'),
        ('c', 'idle for less', 5, NULL, NULL, NULL, NULL, now() - interval '89 days'),
        ('c', 'leased', 5, 1, 1, NULL, NULL, now() - interval '91 days'),
        ('c', 'blocked', 5, NULL, NULL, 1, NULL, now() - interval '91 days'),
        ('c', 'held', 5, NULL, NULL, NULL, 1, now() - interval '91 days')`);
    await tables.sql(LEASE_OF('leased'));
    await tables.sql(`
      INSERT INTO nestmq.lane (channel, key, last_seq, ready_at, head_position, used_at)
      VALUES ('c', 'ready', 5, now(), 1, now() - interval '91 days')`);
    expect(await session.transaction((client) => run(client, pruneLanes, {}))).toEqual([1]);
    const left = await tables.sql<{ key: string }>('SELECT key FROM nestmq.lane ORDER BY key');
    expect(left.map(({ key }) => key)).toEqual(['blocked', 'held', 'idle for less', 'leased', 'ready']);
    expect(await session.transaction((client) => run(client, pruneLanes, {}))).toEqual([0]);
  });

  it('lets a lane begin at 1 again', async () => {
    const session = await openSession(database.url);
    await tables.sql(
      `INSERT INTO nestmq.lane (channel, key, last_seq, used_at) VALUES ('c', 'a', 5, now() - interval '91 days')`,
    );
    await session.transaction((client) => run(client, pruneLanes, {}));
    await insert('a');
    expect(placesOf((await claim(session)).jobs)).toEqual([['a', 1]]);
  });
});
