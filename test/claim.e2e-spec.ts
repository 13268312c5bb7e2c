import { afterAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Feeds } from '../libs/queue/src/claim/feeds.js';
import { comparePositions } from '../libs/queue/src/job/job.js';
import { claimJobs, claimJobsByKey } from '../libs/queue/src/statements/claim-jobs.js';
import { pauseChannel } from '../libs/queue/src/statements/channels.js';
import { run } from '../libs/queue/src/statements/statement.js';
import { beginOwning } from '../libs/queue/src/statements/transaction.js';
import { useDatabase } from './support/database.js';
import { START, claim, claimRows, openSession } from './support/engine.js';
import { useTables } from './support/tables.js';

const database = useDatabase();
const tables = useTables(database);

/** Inserts jobs by plain SQL, due one second apart, the oldest first. */
async function insert(count: number, columns: Record<string, unknown> = {}): Promise<string[]> {
  const fields = { channel: 'c', name: 'n', ...columns };
  const names = Object.keys(fields);
  const rows = await tables.sql<{ id: string }>(
    `INSERT INTO nestmq.job (${names.join(', ')}, due_at)
     SELECT ${names.map((_, index) => `$${index + 2}`).join(', ')}, now() - interval '1 hour' + i * interval '1 second'
     FROM generate_series(1, $1::int) AS i ORDER BY i RETURNING id::text`,
    [count, ...Object.values(fields)],
  );
  return rows.map(({ id }) => id);
}

const C = { channel: 'c', names: ['n'] } as const;

beforeEach(async () => {
  await tables.sql('TRUNCATE nestmq.job, nestmq.lease, nestmq.finished_job, nestmq.runner, nestmq.paused_channel');
});

describe('claimJobs', () => {
  it('leases a waiting job: it is running, its attempt counted, by this runner', async () => {
    const [id] = await insert(1);
    const session = await openSession(database.url);
    const jobs = await claim(session, { ...C, runner: '7' });
    expect(jobs).toMatchObject([{ id, attempt: 1, runner: '7', channel: 'c', name: 'n', suspect: false }]);
    const leases = await tables.sql('SELECT runner_id, job_ids, runs, started FROM nestmq.lease');
    expect(leases).toEqual([{ runner_id: '7', job_ids: [id], runs: [0], started: 1 }]);
  });

  it('answers none, and writes nothing, when there is nothing to do', async () => {
    const session = await openSession(database.url);
    const written = await session.transaction(
      async (client) => {
        const rows = await run(client, claimJobs, {
          ...{ runner: '1', lease: 1, channel: 'c', priority: 0, after: START, names: ['n'], limit: 10, slots: 10 },
        });
        expect(rows).toMatchObject([{ job: null, feed: { last: null, exhausted: true, nextDueMicros: null } }]);
        const { rows: xids } = await session.pg.query('SELECT pg_current_xact_id_if_assigned() AS xid');
        return xids[0].xid as unknown;
      },
      beginOwning('nestmq', 'c'),
    );
    expect(written).toBeNull();
  });

  it('leaves a job that is due later, says when, and takes it once it is due', async () => {
    const [id] = await insert(1);
    await tables.sql(`UPDATE nestmq.job SET due_at = now() + interval '1 hour'`);
    const session = await openSession(database.url);
    const [answer] = await claimRows(session, C);
    const dueMicros = await tables.number('SELECT (extract(epoch FROM due_at) * 1000000)::bigint FROM nestmq.job');
    expect(answer).toMatchObject({ job: null, feed: { exhausted: true, nextDueMicros: dueMicros } });
    await tables.sql(`UPDATE nestmq.job SET due_at = now()`);
    expect(await claim(session, C)).toMatchObject([{ id }]);
  });

  it.each([
    ['waiting for its first run', { attempt: 0 }],
    ['waiting for a retry', { attempt: 2, last_error: 'x' }],
    ['on its last attempt', { attempt: 4 }],
    ['lost by a dead process', { suspect: true, attempt: 1 }],
    ['retried for ever', { max_attempts: null }],
  ])('never takes a job early that is %s', async (_, columns) => {
    await insert(1, columns);
    await tables.sql(`UPDATE nestmq.job SET due_at = now() + interval '1 minute'`);
    expect(await claim(await openSession(database.url), C)).toEqual([]);
  });

  it('gives two parallel claimers distinct jobs', async () => {
    const ids = await insert(2);
    const sessions = await Promise.all([openSession(database.url), openSession(database.url)]);
    const claimed = await Promise.all(
      sessions.map((session, index) => claim(session, { ...C, runner: String(index + 1), limit: 1 })),
    );
    expect(claimed.map((jobs) => jobs.length)).toEqual([1, 1]);
    expect(claimed.flat().map(({ id }) => id)).toEqual(expect.arrayContaining(ids));
  });

  it('gives a second runner nothing of what the first has', async () => {
    await insert(3);
    const session = await openSession(database.url);
    expect(await claim(session, { ...C, runner: '1' })).toHaveLength(3);
    expect(await claim(session, { ...C, runner: '2' })).toEqual([]);
  });

  it('takes due order, and ids where due times are equal', async () => {
    const ids = await insert(4);
    await tables.sql(`UPDATE nestmq.job SET due_at = now() - interval '2 hours' WHERE id = ANY ($1::bigint[])`, [
      [ids[3], ids[2]],
    ]);
    const jobs = await claim(await openSession(database.url), C);
    expect(jobs.map(({ id }) => id)).toEqual([ids[2], ids[3], ids[0], ids[1]]);
  });

  it('takes no job of a name that nobody here knows, and counts nothing for it', async () => {
    await insert(1, { name: 'unheard-of' });
    const known = await insert(1);
    const jobs = await claim(await openSession(database.url), C);
    expect(jobs.map(({ id }) => id)).toEqual(known);
    expect(await tables.sql(`SELECT attempt, run FROM nestmq.job WHERE name = 'unheard-of'`)).toEqual([
      { attempt: 0, run: 0 },
    ]);
  });

  it('takes nothing from a paused channel', async () => {
    await insert(1);
    const session = await openSession(database.url);
    await session.transaction((client) => run(client, pauseChannel, { channel: 'c' }), beginOwning('nestmq', 'c'));
    expect(await claim(session, C)).toEqual([]);
  });

  it('never takes a job on its last attempt ahead of its slot, and leaves what stands behind it', async () => {
    const [first, last, behind] = await insert(3);
    await tables.sql(`UPDATE nestmq.job SET attempt = 4 WHERE id = $1`, [last]);
    const session = await openSession(database.url);
    expect((await claim(session, { ...C, slots: 1 })).map(({ id }) => id)).toEqual([first]);
    expect((await claim(session, { ...C, slots: 1 })).map(({ id }) => id)).toEqual([last, behind]);
  });

  it('makes a lease durable that records a last start, and saves the wait for the disk on any other', async () => {
    const session = await openSession(database.url);
    await session.pg.query('SET synchronous_commit = on');
    const durability = async (lease: number): Promise<unknown> =>
      session.transaction(
        async (client) => {
          await run(client, claimJobs, {
            ...{ runner: '1', lease, channel: 'c', priority: 0, after: START },
            ...{ names: ['n'], limit: 1, slots: 1 },
          });
          return (await session.pg.query('SHOW synchronous_commit')).rows[0].synchronous_commit as unknown;
        },
        beginOwning('nestmq', 'c'),
      );
    await insert(1, { attempt: 1 });
    expect(await durability(1)).toBe('off');
    await insert(1, { attempt: 4 });
    expect(await durability(2)).toBe('on');
  });

  it('looks behind a position only, so that nothing leased or gone is walked over', async () => {
    const ids = await insert(3);
    const session = await openSession(database.url);
    const [first] = await claimRows(session, { ...C, limit: 1 });
    const rest = await claim(session, { ...C, after: first!.feed!.last! });
    expect(rest.map(({ id }) => id)).toEqual(ids.slice(1));
  });

  it('touches no job row: the same row version is there after the claim', async () => {
    await insert(2);
    const versions = (): Promise<object[]> => tables.sql('SELECT ctid::text, xmin::text FROM nestmq.job ORDER BY id');
    const before = await versions();
    await claim(await openSession(database.url), C);
    expect(await versions()).toEqual(before);
  });
});

describe.each(['read committed', 'repeatable read', 'serializable'])('claims under a default of %s', (level) => {
  const name = new URL(database.url).pathname.slice(1);
  afterAll(() => tables.sql(`ALTER DATABASE ${name} RESET default_transaction_isolation`));

  it('lease nothing twice with eight claimers at once', async () => {
    await tables.sql(`ALTER DATABASE ${name} SET default_transaction_isolation = '${level}'`);
    const ids = await insert(400);
    const sessions = await Promise.all(Array.from({ length: 8 }, () => openSession(database.url)));
    const { rows } = await sessions[0]!.pg.query('SHOW default_transaction_isolation');
    expect(rows[0].default_transaction_isolation).toBe(level);
    const claimUntilEmpty = async (index: number): Promise<string[]> => {
      const claimed: string[] = [];
      for (;;) {
        const jobs = await claim(sessions[index]!, { ...C, runner: String(index + 1), limit: 7 });
        if (jobs.length === 0) return claimed;
        claimed.push(...jobs.map(({ id }) => id));
      }
    };
    const claimed = (await Promise.all(sessions.map((_, index) => claimUntilEmpty(index)))).flat();
    expect(claimed.toSorted()).toEqual(ids.toSorted());
  });
});

describe('claimJobsByKey', () => {
  it('takes a share of each key in turn, whatever stands behind the first', async () => {
    await insert(50, { key: 'a' });
    const [single] = await insert(1, { key: 'b' });
    const session = await openSession(database.url);
    const rows = await session.transaction(
      (client) =>
        run(client, claimJobsByKey, {
          ...{ runner: '1', lease: 1, channel: 'c', priority: 0, names: ['n'], limit: 8, slots: 8 },
          ...{ afterKey: '', share: 2 },
        }),
      beginOwning('nestmq', 'c'),
    );
    expect(rows.map(({ job }) => job?.key)).toEqual(['a', 'a', 'b']);
    expect(rows.map(({ job }) => job?.id)).toContain(single);
  });
});

describe('Feeds', () => {
  const group = { names: ['n'], channel: null, capacity: () => Infinity };
  const now = 1_800_000_000_000_000;
  const feedsAt = (nowMicros: number, channels: string[] | null = null): Feeds => {
    const feeds = new Feeds([group], channels && new Set(channels));
    feeds.clock.ask()(nowMicros);
    return feeds;
  };
  const place = (micros: number) => ({ micros, id: '1' });
  const spawned = (micros: number) =>
    ({
      kind: 'jobs',
      channel: 'c',
      priority: 0,
      stream: 'jobs',
      keyed: false,
      name: 'n',
      position: place(micros),
    }) as const;

  it('keep a wake-up that comes while a feed is looked at, also when a survey meanwhile finds nothing in it', () => {
    const feeds = feedsAt(now);
    feeds.tell(spawned(now - 3_000_000));
    const [looking] = feeds.next(1, 1);
    looking!.begin();
    feeds.tell(spawned(now - 2_000_000));
    feeds.survey([]);
    looking!.learn({ nowMicros: now, last: null, exhausted: true, nextDueMicros: null, lastKey: null });
    expect(feeds.hasWork(1)).toBe(true);
  });

  it('look again from an old place when a transaction commits late', () => {
    const feeds = feedsAt(now);
    feeds.tell(spawned(now - 3_000_000));
    const [feed] = feeds.next(1, 1);
    feed!.begin();
    feed!.learn({ nowMicros: now, last: null, exhausted: true, nextDueMicros: null, lastKey: null });
    expect(feeds.hasWork(1)).toBe(false);
    feeds.tell(spawned(now - 2_000_000));
    expect(comparePositions(feeds.next(1, 1)[0]!.after, place(now - 2_000_000))).toBeLessThan(0);
  });

  it('take turns between channels, and smaller priorities first within one', () => {
    const feeds = feedsAt(now);
    for (const channel of ['a', 'b'])
      for (const priority of [5, -5]) feeds.tell({ ...spawned(now - 1_000_000), channel, priority });
    const turns = Array.from({ length: 4 }, () => feeds.next(1, 1)[0]!);
    expect(turns.map(({ channel, priority }) => [channel, priority])).toEqual([
      ['a', -5],
      ['b', -5],
      ['a', -5],
      ['b', -5],
    ]);
  });

  it('take what is due longest at every tenth turn of a channel, whatever its priority', () => {
    const feeds = feedsAt(now);
    feeds.tell({ ...spawned(now - 1_000_000), priority: -5 });
    feeds.tell({ ...spawned(now - 9_000_000), priority: 5 });
    const turns = Array.from({ length: 20 }, () => feeds.next(1, 1)[0]!.priority);
    expect(turns.flatMap((priority, turn) => (priority === 5 ? [turn + 1] : []))).toEqual([10, 20]);
  });

  it('serve the channels only that the runner was narrowed to', () => {
    const feeds = feedsAt(now, ['mine']);
    feeds.tell(spawned(now - 1_000_000));
    expect(feeds.hasWork(1)).toBe(false);
  });
});
