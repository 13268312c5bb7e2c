import { beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { JobHandler, Queue, SpawnItemError, UnknownJobError, type Job, type JobSpawner } from 'nestmq';
import type { DataSource } from 'typeorm';
import { startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { turn } from './support/lanes.js';
import { recordSql } from './support/sql-log.js';
import { useTables } from './support/tables.js';
import { withApp } from './support/with-app.js';

@Injectable()
class Mailer {
  @JobHandler('mail', { retries: 2, priority: 3 })
  welcome(_job: Job): void {}
}

@Injectable()
class Ledger {
  @JobHandler('ledger', { ordered: true })
  book(_job: Job): void {}
}

const database = useDatabase();
const tables = useTables(database);
const count = (): Promise<number> => tables.number('SELECT count(*) FROM nestmq.job');

/** An application that only sends: what stands in the table is what was sent. */
const withSender = <T>(work: (app: TestApp) => Promise<T>): Promise<T> =>
  withApp({ url: database.url, providers: [Mailer], queue: { runner: false } }, work);

beforeEach(() => tables.sql('DELETE FROM nestmq.job'));

// acceptance: modkit-db outbox, B. Enqueue; rust-job-queue, enqueue
describe('spawn', () => {
  it('inserts exactly one job, committed when it resolves', () =>
    withSender(async ({ jobs }) => {
      await jobs.spawn(Mailer, 'welcome', { userId: '1' });
      expect(await count()).toBe(1);
    }));

  it('answers an id by which the job is found', () =>
    withSender(async ({ jobs, queue }) => {
      const { id, isNew } = await jobs.spawn(Mailer, 'welcome', { userId: '1' });
      expect(id).toMatch(/^[1-9]\d*$/);
      expect(isNew).toBe(true);
      expect(await queue.get(id)).toMatchObject({ id, payload: { userId: '1' } });
      expect(await queue.exists(id)).toBe(true);
    }));

  it('makes a waiting job without attempts, of the handler’s options', () =>
    withSender(async ({ jobs, queue }) => {
      const { id } = await jobs.spawn(Mailer, 'welcome', { userId: '1' });
      expect(await queue.get(id)).toEqual({
        id,
        state: 'waiting',
        channel: 'mail',
        key: '',
        name: 'Mailer.welcome',
        priority: 3,
        attempts: 0,
        maxAttempts: 3,
        payload: { userId: '1' },
        bytes: null,
        metadata: {},
        createdAt: expect.any(Date),
        dueAt: expect.any(Date),
        finishedAt: null,
        cancelRequested: false,
        lastError: null,
        reason: null,
        result: null,
        suspect: false,
        runner: null,
        seq: null,
        progress: null,
      });
    }));

  it('lets its own options win over the handler’s', () =>
    withSender(async ({ jobs, queue }) => {
      const options = { key: 'k', priority: -1, retries: 0, channel: 'bulk', metadata: { trace: 'abc' } };
      const { id } = await jobs.spawn(Mailer, 'welcome', 1, options);
      expect(await queue.get(id)).toMatchObject({
        key: 'k',
        priority: -1,
        maxAttempts: 1,
        channel: 'bulk',
        metadata: { trace: 'abc' },
      });
    }));

  it('stores endless retries', () =>
    withSender(async ({ jobs, queue }) => {
      const { id } = await jobs.spawn(Mailer, 'welcome', 1, { retries: Infinity });
      expect((await queue.get(id))?.maxAttempts).toBe(Infinity);
    }));

  it('is possible by the name of the handler', () =>
    withSender(async ({ jobs, queue }) => {
      const { id } = await jobs.spawn('Mailer.welcome', { userId: '1' });
      expect(await queue.get(id)).toMatchObject({ name: 'Mailer.welcome', channel: 'mail', maxAttempts: 3 });
    }));

  it('leaves no job, and nothing else, when the caller’s transaction rolls back', () =>
    withSender(async ({ jobs, dataSource }) => {
      const failed = dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 1, { manager });
        throw new Error('changed my mind');
      });
      await expect(failed).rejects.toThrow('changed my mind');
      expect(await count()).toBe(0);
    }));

  it('commits with the caller’s transaction, and is not seen before', () =>
    withSender(async ({ jobs, dataSource }) => {
      await dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 1, { manager });
        expect(await count()).toBe(0);
      });
      expect(await count()).toBe(1);
    }));

  it('refuses a name that no handler here has, and lists those that do', () =>
    withSender(async ({ jobs }) => {
      const sent = recordSql();
      const refused = jobs.spawn('Mailer.welcom', {});
      await expect(refused).rejects.toThrow(UnknownJobError);
      await expect(refused).rejects.toThrow('No handler for job "Mailer.welcom". Registered: "Mailer.welcome".');
      expect(sent).toEqual([]);
    }));

  it('sends to names that another application handles where open names are allowed', async () => {
    const app = await startApp({ url: database.url, queue: { runner: false, openNames: true } });
    const { id } = await app.jobs.spawn('Other.work', { n: 1 }, { channel: 'other' });
    expect(await app.queue.get(id)).toMatchObject({ name: 'Other.work', channel: 'other', maxAttempts: 5 });
    await expect(app.jobs.spawn('Other.work', { n: 1 })).rejects.toMatchObject({ option: 'channel' });
    await app.close();
  });

  it('gives every one of fifty concurrent callers the id of its own job', () =>
    withSender(async ({ jobs, queue }) => {
      const results = await Promise.all(Array.from({ length: 50 }, (_, n) => jobs.spawn(Mailer, 'welcome', { n })));
      const records = await Promise.all(results.map(({ id }) => queue.get(id)));
      expect(records.map((record) => record?.payload)).toEqual(results.map((_, n) => ({ n })));
    }));

  it('gives ascending ids in the order of the calls, also when their INSERTs overlap', () =>
    withSender(async ({ jobs }) => {
      const calls: Promise<{ id: string }[]>[] = [];
      for (let call = 0; call < 30; call++) {
        const items = Array.from({ length: 150 }, (_, n) => ({ payload: { n } }));
        calls.push(jobs.spawnMany(Mailer, 'welcome', items));
        await turn();
      }
      const ids = (await Promise.all(calls)).flat().map(({ id }) => Number(id));
      expect(ids).toEqual(ids.toSorted((a, b) => a - b));
      expect(await count()).toBe(4_500);
    }));

  it('lets no caller suffer from the job of another that the database refuses', () =>
    withSender(async ({ jobs }) => {
      await tables.sql(`ALTER TABLE nestmq.job ADD CONSTRAINT poison CHECK (channel <> 'poison')`);
      const calls = ['a', 'poison', 'b'].map((channel) => jobs.spawn(Mailer, 'welcome', 1, { channel }));
      const results = await Promise.allSettled(calls);
      await tables.sql('ALTER TABLE nestmq.job DROP CONSTRAINT poison');
      expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
      expect(await count()).toBe(2);
    }));

  it('keeps the order of a lane when an INSERT is refused and another call comes behind it', () =>
    withApp({ url: database.url, providers: [Ledger], queue: { runner: false } }, async ({ jobs }) => {
      await tables.sql(`ALTER TABLE nestmq.job ADD CONSTRAINT poison CHECK (channel <> 'poison')`);
      const book = (count: number, channel = 'ledger') =>
        jobs.spawnMany(
          Ledger,
          'book',
          Array.from({ length: count }, () => ({ payload: 1, key: 'account', channel })),
        );
      const first = [book(150), book(1, 'poison')];
      const settled = Promise.allSettled(first);
      await turn();
      const [after] = await Promise.all([book(150), settled]);
      await tables.sql('ALTER TABLE nestmq.job DROP CONSTRAINT poison');
      await expect(first[1]).rejects.toThrow('poison');
      const before = await first[0]!;
      expect(Number(before.at(-1)?.id)).toBeLessThan(Number(after[0]?.id));
    }));

  it('is refused after the application was closed', async () => {
    const app = await startApp({ url: database.url, providers: [Mailer], queue: { runner: false } });
    await app.close();
    await expect(app.jobs.spawn(Mailer, 'welcome', 1)).rejects.toMatchObject({ code: 'queue_closed' });
  });
});

describe('spawnMany', () => {
  const payloadsById = async (queue: Queue, ids: readonly string[]): Promise<unknown[]> =>
    (await Promise.all(ids.map((id) => queue.get(id)))).map((job) => job?.payload);

  it('answers fifty ids in the order of the items', () =>
    withSender(async ({ jobs, queue }) => {
      const items = Array.from({ length: 50 }, (_, n) => ({ payload: { n } }));
      const ids = (await jobs.spawnMany(Mailer, 'welcome', items)).map(({ id }) => id);
      expect(new Set(ids).size).toBe(50);
      expect(await payloadsById(queue, ids)).toEqual(items.map(({ payload }) => payload));
    }));

  it('keeps the order of the items within each key when keys are mixed', () =>
    withSender(async ({ jobs }) => {
      const keys = ['a', 'b', 'a', 'b'];
      await jobs.spawnMany(
        Mailer,
        'welcome',
        keys.map((key, n) => ({ payload: n, key })),
      );
      const rows = await tables.sql(
        'SELECT key, json_agg(payload ORDER BY due_at, id) AS jobs FROM nestmq.job GROUP BY key ORDER BY key',
      );
      expect(rows).toEqual([
        { key: 'a', jobs: [0, 2] },
        { key: 'b', jobs: [1, 3] },
      ]);
    }));

  it('sends to several handlers by name', () =>
    withSender(async ({ jobs }) => {
      await jobs.spawnMany([
        { name: 'Mailer.welcome', payload: 1 },
        { name: 'Mailer.welcome', payload: 2, channel: 'bulk' },
      ]);
      expect(await count()).toBe(2);
    }));

  it('answers [] for [], and sends no SQL', () =>
    withSender(async ({ jobs, dataSource }) => {
      const sent = recordSql();
      expect(await jobs.spawnMany(Mailer, 'welcome', [])).toEqual([]);
      expect(await jobs.spawnMany([])).toEqual([]);
      expect(await jobs.spawnMany([], { manager: dataSource.manager })).toEqual([]);
      expect(sent).toEqual([]);
    }));

  it.each([150, 20_000])('takes %d jobs in one call', (size) =>
    withSender(async ({ jobs }) => {
      const items = Array.from({ length: size }, (_, n) => ({ payload: n }));
      const ids = (await jobs.spawnMany(Mailer, 'welcome', items)).map(({ id }) => id);
      const rows = await tables.sql<{ id: string; payload: number }>('SELECT id, payload FROM nestmq.job');
      const payloads = new Map(rows.map(({ id, payload }) => [id, payload]));
      expect(payloads.size).toBe(size);
      expect(ids.every((id, n) => payloads.get(id) === n)).toBe(true);
    }),
  );

  it('takes 20 000 jobs in the caller’s transaction, which may still roll them back', () =>
    withSender(async ({ jobs, dataSource }) => {
      const items = Array.from({ length: 20_000 }, (_, n) => ({ payload: n }));
      const failed = dataSource.transaction(async (manager) => {
        expect(await jobs.spawnMany(Mailer, 'welcome', items, { manager })).toHaveLength(20_000);
        throw new Error('changed my mind');
      });
      await expect(failed).rejects.toThrow('changed my mind');
      expect(await count()).toBe(0);
    }));

  it('is all or nothing, also when the database refuses a job far behind', () =>
    withSender(async ({ jobs }) => {
      await tables.sql(`ALTER TABLE nestmq.job ADD CONSTRAINT poison CHECK (channel <> 'poison')`);
      const items = Array.from({ length: 12_000 }, (_, n) => ({ payload: n, channel: n === 11_999 ? 'poison' : 'a' }));
      await expect(jobs.spawnMany(Mailer, 'welcome', items)).rejects.toThrow('poison');
      await tables.sql('ALTER TABLE nestmq.job DROP CONSTRAINT poison');
      expect(await count()).toBe(0);
    }));

  it('names the index of the item that is wrong, writes nothing, and leaves the caller’s transaction usable', () =>
    withSender(async ({ jobs, dataSource }) => {
      await dataSource.transaction(async (manager) => {
        const items = [{ payload: 1 }, { payload: 2 }, { payload: 3, key: 'a\0' }, { payload: 4, key: 'b\0' }];
        const sent = recordSql();
        const refused = jobs.spawnMany(Mailer, 'welcome', items, { manager });
        await expect(refused).rejects.toThrow(SpawnItemError);
        await expect(refused).rejects.toMatchObject({ index: 2, cause: { code: 'invalid_options', option: 'key' } });
        expect(sent).toEqual([]);
        await jobs.spawn(Mailer, 'welcome', 'still usable', { manager });
      });
      expect(await count()).toBe(1);
    }));

  it.each<[string, unknown, string]>([
    ['an unknown name', { name: 'Mailer.nothing', payload: 1 }, 'unknown_job'],
    ['a payload that is not JSON', { name: 'Mailer.welcome', payload: 1n }, 'payload_invalid'],
    ['a payload that is too large', { name: 'Mailer.welcome', payload: 'x'.repeat(70_000) }, 'payload_too_large'],
    ['no object', 'Mailer.welcome', 'invalid_options'],
    ['null', null, 'invalid_options'],
    ['undefined', undefined, 'invalid_options'],
    ['a manager of its own', { name: 'Mailer.welcome', payload: 1, manager: {} }, 'invalid_options'],
  ])('tells the index of %s', (_, wrong, code) =>
    withSender(async ({ jobs }) => {
      const items = [{ name: 'Mailer.welcome', payload: 1 }, wrong] as Parameters<JobSpawner['spawnMany']>[0];
      await expect((jobs.spawnMany as (given: unknown) => Promise<unknown>)(items)).rejects.toMatchObject({
        code: 'spawn_item_invalid',
        index: 1,
        cause: { code },
      });
      expect(await count()).toBe(0);
    }),
  );
});

describe('due times', () => {
  interface Due {
    due_in_ms: number;
  }
  const dueInMs = async (id: string, dataSource: DataSource): Promise<number> => {
    const rows: Due[] = await dataSource.query(
      `SELECT (extract(epoch FROM due_at - created_at) * 1000)::float8 AS due_in_ms FROM nestmq.job WHERE id = $1`,
      [id],
    );
    return rows[0]!.due_in_ms;
  };

  it('lie the delay behind the spawn', () =>
    withSender(async ({ jobs, dataSource }) => {
      const { id } = await jobs.spawn(Mailer, 'welcome', 1, { delay: '1h' });
      expect(Math.round((await dueInMs(id, dataSource)) / 1_000)).toBe(3_600);
    }));

  it('are runAt, to the millisecond', () =>
    withSender(async ({ jobs, queue }) => {
      const runAt = new Date(Date.now() + 86_400_123);
      const { id } = await jobs.spawn(Mailer, 'welcome', 1, { runAt });
      expect((await queue.get(id))?.dueAt).toEqual(runAt);
    }));

  it('are the later one of delay and runAt', () =>
    withSender(async ({ jobs, queue, dataSource }) => {
      const runAt = new Date(Date.now() + 7_200_000);
      const late = await jobs.spawn(Mailer, 'welcome', 1, { runAt, delay: '1h' });
      expect((await queue.get(late.id))?.dueAt).toEqual(runAt);
      const early = await jobs.spawn(Mailer, 'welcome', 1, { runAt: new Date(0), delay: '1h' });
      expect(Math.round((await dueInMs(early.id, dataSource)) / 1_000)).toBe(3_600);
    }));

  it('are now when runAt lies in the past', () =>
    withSender(async ({ jobs, dataSource }) => {
      const { id } = await jobs.spawn(Mailer, 'welcome', 1, { runAt: new Date('1999-12-31T23:59:59Z') });
      expect(Math.abs(await dueInMs(id, dataSource))).toBeLessThan(1_000);
    }));

  it('are of the insert, not of the start of a transaction that was open long before', () =>
    withSender(async ({ jobs, dataSource }) => {
      const { old, due } = await dataSource.transaction(async (manager) => {
        await manager.query('SELECT pg_sleep(0.05)');
        const { id } = await jobs.spawn(Mailer, 'welcome', 1, { manager });
        const [row] = await manager.query('SELECT now() AS old, due_at AS due FROM nestmq.job WHERE id = $1', [id]);
        return row as { old: Date; due: Date };
      });
      expect(due.getTime() - old.getTime()).toBeGreaterThanOrEqual(50);
    }));
});
