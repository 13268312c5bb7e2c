import { beforeEach, describe, expect, it } from '@jest/globals';
import type { ChannelStats } from 'nestmq';
import { startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const EXACT = 10_000;

/** Jobs by plain SQL; ids begin at one above the highest. */
const insert = (count: number, columns: Record<string, string>, channel = 'c'): Promise<object[]> =>
  tables.sql(
    `INSERT INTO nestmq.job (id, channel, name${Object.keys(columns)
      .map((column) => `, ${column}`)
      .join('')})
     SELECT nextval('nestmq.job_id_seq'), $2, 'work'${Object.values(columns)
       .map((value) => `, ${value}`)
       .join('')} FROM generate_series(1, $1::integer) AS i`,
    [count, channel],
  );

const LATER = { due_at: `now() + interval '1 hour'` };
const ordered = (key: string): Record<string, string> => ({ key, position: `currval('nestmq.job_id_seq')` });

/** In an application that runs nothing. */
async function withStats<T>(look: (app: TestApp) => Promise<T>): Promise<T> {
  const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith()] });
  try {
    return await look(app);
  } finally {
    await app.close();
  }
}

const statsOf = (): Promise<ChannelStats[]> => withStats((app) => app.queue.stats());

const zero = { scheduled: 0, ready: 0, blocked: 0, retrying: 0, held: 0, running: 0, dead: 0 };

describe('queue.stats()', () => {
  it('counts every state of a channel, each job once', async () => {
    await insert(2, LATER);
    await insert(3, { priority: 'i' });
    await insert(4, { attempt: '1', ...LATER });
    await insert(1, { attempt: '1' });
    await insert(5, { held_until: `now() + interval '1 hour'` });
    await insert(1, { suspect: 'true' });
    await tables.sql(
      `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, channel, key, name)
       SELECT -i, CASE WHEN i > 6 THEN 'completed' ELSE 'dead' END, 1, 0, now(), now(), 'c', '', 'work' FROM generate_series(1, 9) AS i`,
    );
    expect(await statsOf()).toEqual([
      {
        ...{ channel: 'c', paused: false, atLeast: [], unknownNames: [], oldestReadyMs: expect.any(Number) },
        ...{ scheduled: 2, ready: 5, retrying: 4, held: 5, running: 0, blocked: 0, dead: 6 },
      },
    ]);
  });

  it('counts of ordered lanes the heads by what they wait for, and as blocked what stands behind them', async () => {
    await insert(1, ordered(`'ready'`));
    await insert(3, { ...ordered(`'ready'`), ...LATER });
    await insert(1, { ...ordered(`'later'`), ...LATER });
    await insert(2, ordered(`'later'`));
    await insert(1, { ...ordered(`'retry'`), ...LATER, attempt: '1', seq: '1' });
    await insert(1, ordered(`'retry'`));
    await insert(1, { ...ordered(`'held'`), held_until: `now() + interval '1 hour'` });
    await insert(1, ordered(`'held'`));
    await insert(2, ordered(`'dead'`));
    await tables.sql(`INSERT INTO nestmq.lane (channel, key, blocked_by) VALUES ('c', 'dead', 0)`);
    expect(await statsOf()).toMatchObject([
      { ...zero, ready: 1, scheduled: 1, retrying: 1, held: 1, blocked: 3 + 2 + 1 + 1 + 2, atLeast: [] },
    ]);
  });

  it.each([
    ['ready', { priority: '0' }],
    ['scheduled', LATER],
    ['retrying', { ...LATER, attempt: '1' }],
    ['held', { held_until: `now() + interval '1 hour'` }],
    ['blocked', { ...ordered(`''`) }],
  ] as const)('is exact up to 10 000 jobs that are %s, and then says at least', async (cell, columns) => {
    const head = cell === 'blocked' ? 1 : 0;
    await insert(EXACT + head, columns);
    const exact = await statsOf();
    expect(exact).toMatchObject([{ [cell]: EXACT, atLeast: [] }]);
    await insert(1, columns);
    expect(await statsOf()).toMatchObject([{ [cell]: EXACT, atLeast: [cell] }]);
  });

  it.each([
    ['one count beyond the first 100', { c: 5_000, d: 100 }, [5_000, 100], []],
    ['two', { c: 4_999, d: 5_000 }, [4_999, 5_000], []],
    ['three', { c: 4_999, d: 5_000, e: 101 }, [3_333, 3_333, 101], ['c', 'd']],
  ] as const)('of several channels counts 100 jobs each, and shares 10 000 more: %s', async (_, jobs, ready, cut) => {
    for (const [channel, count] of Object.entries(jobs)) await insert(count, {}, channel);
    await withStats(async ({ queue }) => {
      const stats = await queue.stats();
      expect(stats.map((channel) => channel.ready)).toEqual(ready);
      expect(stats.filter(({ atLeast }) => atLeast.includes('ready')).map(({ channel }) => channel)).toEqual(cut);
      expect(await queue.stats(['c'])).toMatchObject([{ ready: jobs.c, atLeast: [] }]);
    });
  });

  it('counts the heads of a few lanes among many jobs, and no more blocked ones than there are', async () => {
    await insert(1.2 * EXACT, ordered(`'k' || i % 3`));
    await insert(200, { ...ordered(`'k0'`), held_until: `now() + interval '1 hour'` });
    await insert(400, ordered(`'k' || i % 50`), 'd');
    const [c, d] = await statsOf();
    expect(c).toMatchObject({ ready: 3, held: 200, blocked: 1_666, atLeast: ['blocked'] });
    expect(d).toMatchObject({ ready: 50, blocked: 350, atLeast: [] });
  });

  it('is exact about the few that are scheduled, due or dead beside many others of the channel', async () => {
    await insert(EXACT + 1, { ...LATER, attempt: '1' });
    await insert(EXACT + 1, { ...ordered(`'k'`) });
    await insert(7, LATER);
    await insert(3, { priority: '5' });
    expect(await statsOf()).toMatchObject([
      { scheduled: 7, ready: 4, retrying: EXACT, blocked: EXACT, atLeast: ['retrying'] },
    ]);
  });

  it('says of more lanes than it looks at that there are at least so many', async () => {
    await insert(1.1 * EXACT + 1, { ...ordered(`'k' || i`) });
    expect(await statsOf()).toMatchObject([
      { ready: EXACT, blocked: 0, atLeast: expect.arrayContaining(['ready', 'blocked']) },
    ]);
  });

  it('tells the age of the longest due free job, the ones that run left out', async () => {
    await insert(1, { due_at: `now() - interval '1 hour'` });
    await insert(1, { due_at: `now() - interval '1 minute'` });
    await tables.sql(
      `INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, started, hi_due_at, hi_id)
       SELECT 1, 1, 'c', 0, array_agg(id), array_agg(run), 1, max(due_at), max(id) FROM (SELECT * FROM nestmq.job ORDER BY due_at LIMIT 1) AS job`,
    );
    const [stats] = await statsOf();
    expect(stats).toMatchObject({ running: 1, ready: 1 });
    expect(stats!.oldestReadyMs! / 60_000).toBeCloseTo(1, 0);
  });

  it('lists channels in their order, paused ones and those that have but dead jobs too, or only those asked for', async () => {
    await tables.sql(`INSERT INTO nestmq.job (channel, name) VALUES ('b', 'work'), ('é', 'work'), ('Z', 'work')`);
    await tables.sql(`INSERT INTO nestmq.paused_channel (channel) VALUES ('a')`);
    await tables.sql(
      `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, channel, key, name)
       VALUES (-1, 'dead', 1, 0, now(), now(), 'c', '', 'work'), (-2, 'completed', 1, 0, now(), now(), 'd', '', 'work')`,
    );
    await withStats(async ({ queue }) => {
      expect((await queue.stats()).map(({ channel }) => channel)).toEqual(['Z', 'a', 'b', 'c', 'é']);
      expect((await queue.stats(['a', 'b', 'nothing'])).map(({ channel, paused }) => [channel, paused])).toEqual([
        ['a', true],
        ['b', false],
      ]);
      await expect(queue.stats([''])).rejects.toMatchObject({ code: 'invalid_options' });
    });
  });

  it('names what neither this application nor a living runner knows', async () => {
    await tables.sql(
      `INSERT INTO nestmq.job (channel, name, position, key)
       VALUES ('c', 'nobody''s', NULL, ''), ('c', 'theirs', NULL, ''), ('c', 'work', NULL, ''), ('c', 'of a lane', 1, 'k'), ('c', 'of the dead', NULL, '')`,
    );
    await tables.sql(
      `INSERT INTO nestmq.runner (id, host, pid, names, dead_at) VALUES (1, 'h', 1, '{theirs}', NULL), (2, 'h', 2, '{of the dead}', now())`,
    );
    expect(await statsOf()).toMatchObject([{ unknownNames: [`nobody's`, 'of a lane', 'of the dead'] }]);
  });
});
