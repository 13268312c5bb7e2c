import { beforeEach, describe, expect, it } from '@jest/globals';
import type { JobFilter, JobState } from 'nestmq';
import { startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const insert = (table: string, row: Record<string, unknown>): Promise<object[]> => {
  const places = Object.keys(row).map((_, index) => `$${index + 1}`);
  return tables.sql(
    `INSERT INTO nestmq.${table} (${Object.keys(row).join(', ')}) VALUES (${places.join(', ')})`,
    Object.values(row),
  );
};

const job = (id: number, columns: Record<string, unknown> = {}): Promise<object[]> =>
  insert('job', { id, channel: 'c', name: 'work', ...columns });

const finished = (id: number, state: JobState, columns: Record<string, unknown> = {}): Promise<object[]> =>
  insert('finished_job', {
    ...{ id, state, attempt: 1, priority: 0, due_at: new Date(), created_at: new Date() },
    ...{ key: '', channel: 'c', name: 'work', ...columns },
  });

async function withApp<T>(look: (app: TestApp) => Promise<T>): Promise<T> {
  const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith()] });
  try {
    return await look(app);
  } finally {
    await app.close();
  }
}

const idsOf = (filter?: JobFilter): Promise<string[]> =>
  withApp(async ({ queue }) => (await queue.list(filter)).jobs.map(({ id }) => id));

describe('queue.list()', () => {
  it('lists live and finished jobs together, the last spawned first, each as queue.get() has it', async () => {
    await job(1);
    await finished(2, 'completed', { result: '"done"' });
    await job(3, { held_until: new Date(Date.now() + 60_000) });
    await finished(4, 'dead', { reason: 'rejected', last_error: 'no' });
    await withApp(async ({ queue }) => {
      const { jobs, next } = await queue.list();
      expect(jobs.map(({ id, state }) => [id, state])).toEqual([
        ['4', 'dead'],
        ['3', 'held'],
        ['2', 'completed'],
        ['1', 'waiting'],
      ]);
      expect(next).toBeNull();
      for (const listed of jobs) expect(listed).toEqual(await queue.get(listed.id));
    });
  });

  it.each<[string, JobFilter, string[]]>([
    ['one state', { state: 'waiting' }, ['6', '5', '1']],
    ['several states', { state: ['dead', 'waiting'] }, ['6', '5', '3', '1']],
    ['finished states', { state: ['completed', 'dead'] }, ['3', '2']],
    ['a state that nobody is in', { state: 'resolved' }, []],
    ['held ones', { state: 'held' }, ['4']],
    ['a channel', { channel: 'other' }, ['5', '3']],
    ['a name', { name: 'odd' }, ['6', '2']],
    ['a key', { key: 'k' }, ['5', '2']],
    ['no key', { key: '', state: 'waiting' }, ['6', '1']],
    ['a channel, a state and a key', { channel: 'other', state: 'waiting', key: 'k' }, ['5']],
    ['spawned before', { before: new Date('2026-01-03') }, ['2', '1']],
    ['spawned at or after', { after: new Date('2026-01-03'), before: new Date('2026-01-05') }, ['4', '3']],
    ['nothing that there is', { channel: `x' OR true --` }, []],
  ])('filters by %s', async (_, filter, ids) => {
    const on = (day: number): object => ({ created_at: new Date(`2026-01-0${day}`) });
    await job(1, { ...on(1) });
    await finished(2, 'completed', { name: 'odd', key: 'k', ...on(2) });
    await finished(3, 'dead', { channel: 'other', ...on(3) });
    await job(4, { held_until: new Date(Date.now() + 60_000), ...on(4) });
    await job(5, { channel: 'other', key: 'k', ...on(5) });
    await job(6, { name: 'odd', ...on(6) });
    expect(await idsOf(filter)).toEqual(ids);
  });

  it('finds what runs by its lease, ordered ones too', async () => {
    const { opened, open } = gate();
    const app = await startApp({
      ...database,
      queue: { concurrency: 2, prefetchMs: 0 },
      providers: [workWith({}, () => opened)],
    });
    const [plain, head, behind] = await app.jobs.spawnMany([
      { name: 'work', payload: 1 },
      { name: 'work', payload: 2, key: 'k', ordered: true },
      { name: 'work', payload: 3, key: 'k', ordered: true },
    ]);
    await until(() => app.queue.running === 2, { what: 'two run' });
    const running = await app.queue.list({ state: 'running' });
    expect(running.jobs.map(({ id }) => id)).toEqual([head!.id, plain!.id]);
    expect((await app.queue.list({ state: 'waiting' })).jobs.map(({ id }) => id)).toEqual([behind!.id]);
    const { jobs } = await app.queue.list({ channel: 'work' });
    expect(jobs.map(({ state }) => state)).toEqual(['waiting', 'running', 'running']);
    open();
    await untilDone(tables);
    await app.close();
  });

  it.each([1, 3, 7])('goes page by page, %d at a time, each job once, also while others come and go', async (limit) => {
    for (let id = 1; id <= 10; id++) await (id % 3 === 0 ? finished(id, 'completed') : job(id));
    await withApp(async ({ queue }) => {
      const seen: string[] = [];
      let after: string | undefined;
      do {
        const page = await queue.list({ channel: 'c' }, { limit, ...(after !== undefined && { after }) });
        expect(page.jobs.length).toBeLessThanOrEqual(limit);
        seen.push(...page.jobs.map(({ id }) => id));
        after = page.next ?? undefined;
        await job(100 + seen.length); // spawned meanwhile: before the first page, not on a later one
      } while (after !== undefined);
      expect(seen).toEqual(['10', '9', '8', '7', '6', '5', '4', '3', '2', '1']);
    });
  });

  it.each<[string, object, object]>([
    ['an unknown state', { state: 'failed' }, {}],
    ['no state', { state: [] }, {}],
    ['an unknown field', { stat: 'dead' }, {}],
    ['an empty channel', { channel: '' }, {}],
    ['a key that is too long', { key: 'x'.repeat(1_025) }, {}],
    ['a time that is none', { before: new Date('no') }, {}],
    ['a time that is a text', { after: '2026-01-01' }, {}],
    ['a limit of none', {}, { limit: 0 }],
    ['a limit above the highest', {}, { limit: 1_001 }],
    ['a foreign cursor', {}, { after: 'x' }],
    ['an unknown option', {}, { offset: 3 }],
  ])('refuses %s, naming it', (_, filter, options) =>
    withApp(async ({ queue }) => {
      await expect(queue.list(filter, options)).rejects.toMatchObject({ code: 'invalid_options' });
    }),
  );
});

describe('queue.list() among many', () => {
  const fill = async (): Promise<void> => {
    await tables.sql(
      `INSERT INTO nestmq.job (id, channel, name, key) SELECT i, 'many', 'work', CASE WHEN i = 5 THEN 'needle' ELSE '' END FROM generate_series(1, 130000) AS i`,
    );
    await tables.sql(
      `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, channel, key, name)
       SELECT 200000 + i, CASE WHEN i = 5 THEN 'cancelled' ELSE 'completed' END, 1, 0, now(), now(), 'many', '', 'work' FROM generate_series(1, 30000) AS i`,
    );
  };

  it('finds a rare state and a small channel at once, and by pages what only a look at all can find', async () => {
    await fill();
    await tables.sql(`INSERT INTO nestmq.job (id, channel, name) VALUES (0, 'few', 'work')`);
    await withApp(async ({ queue }) => {
      expect((await queue.list({ state: 'cancelled' })).jobs.map(({ id }) => id)).toEqual(['200005']);
      expect(await queue.list({ channel: 'few' })).toMatchObject({ jobs: [{ id: '0' }], next: null });
      const pages: string[][] = [];
      let after: string | undefined;
      do {
        const { jobs, next } = await queue.list({ key: 'needle' }, after === undefined ? {} : { after });
        pages.push(jobs.map(({ id }) => id));
        after = next ?? undefined;
      } while (after !== undefined);
      expect(pages.length).toBeGreaterThan(1);
      expect(pages.flat()).toEqual(['5']);
    });
  });
});
