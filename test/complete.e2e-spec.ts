import { beforeEach, describe, expect, it } from '@jest/globals';
import type { HandlerOptions, Job, QueueEvent } from 'nestmq';
import type { EntityManager } from 'typeorm';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { batchWith } from './support/batches.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const queue = POLLING_OFF;

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint PRIMARY KEY, note text)');
  await tables.sql('CREATE TABLE IF NOT EXISTS shared (id int PRIMARY KEY, total int NOT NULL)');
  await tables.sql('TRUNCATE effect, shared');
});

const has = (app: TestApp, type: QueueEvent['type']): boolean => app.events.some((event) => event.type === type);
const effects = (): Promise<{ job_id: string }[]> => tables.sql('SELECT job_id::text FROM effect ORDER BY job_id');

const write = (manager: EntityManager, { id }: Job): Promise<unknown> =>
  manager.query('INSERT INTO effect (job_id) VALUES ($1)', [id]);

describe('job.complete({ manager })', () => {
  it('commits the completion with what the handler writes', async () => {
    const Work = workWith({ retention: '1h' }, (job) =>
      app.dataSource.transaction(async (manager) => {
        await write(manager, job);
        await job.complete({ manager, result: { done: true } });
        expect(await app.queue.get(job.id)).toMatchObject({ state: 'running' });
      }),
    );
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(await effects()).toEqual([{ job_id: id }]);
    expect(await app.queue.get(id)).toMatchObject({ state: 'completed', result: { done: true }, attempts: 1 });
    await untilDone(tables);
    await app.close();
  });

  it('completes nothing when the transaction rolls back: the run ends with the error, and the retry does both', async () => {
    const Work = workWith({ backoff: 1 }, (job) =>
      app.dataSource.transaction(async (manager) => {
        await write(manager, job);
        await job.complete({ manager });
        if (job.attempt === 1) throw new Error('after completing');
      }),
    );
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(app.events.map(({ type }) => type).filter((type) => type !== 'listening')).toEqual([
      'started',
      'retrying',
      'started',
      'completed',
    ]);
    expect(await effects()).toEqual([{ job_id: id }]);
    await app.close();
  });

  it('stays completed when the handler throws after its commit', async () => {
    const Work = workWith({ backoff: 1 }, async (job) => {
      await app.dataSource.transaction(async (manager) => {
        await write(manager, job);
        await job.complete({ manager });
      });
      throw new Error('too late to matter');
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    await untilDone(tables);
    expect(app.get(Work).runs).toHaveLength(1);
    expect(has(app, 'retrying')).toBe(false);
    await app.close();
  });

  it('counts a run whose handler swallows the rollback and returns: it backs off, and dies of its attempts', async () => {
    const Work = workWith({ retries: 1, backoff: { type: 'fixed', base: 30, jitter: 0 } }, (job) =>
      app.dataSource
        .transaction(async (manager) => {
          await job.complete({ manager });
          throw new Error('rolled back');
        })
        .catch(() => undefined),
    );
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'dead'), { what: 'it is dead' });
    expect(app.get(Work).runs.map(({ attempt }) => attempt)).toEqual([1, 2]);
    expect(app.events.flatMap((event) => (event.type === 'retrying' ? [event.delayMs] : []))).toEqual([30]);
    expect(await app.queue.get(id)).toMatchObject({ state: 'dead', reason: 'exhausted', attempts: 2 });
    await app.close();
  });

  it('is refused the second time within a run', async () => {
    const refusals: unknown[] = [];
    const Work = workWith({}, (job) =>
      app.dataSource.transaction(async (manager) => {
        await job.complete({ manager });
        await job.complete({ manager }).catch((error: unknown) => refusals.push(error));
      }),
    );
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(refusals).toMatchObject([{ code: 'invalid_transition' }]);
    await app.close();
  });

  it('is decided by a transaction that the handler left open when it returned, whichever way that ends', async () => {
    const commit = gate();
    const rollback = gate();
    const Work = workWith({ backoff: 1 }, async (job) => {
      if (job.attempt > 1) return;
      const asked = gate();
      void app.dataSource
        .transaction(async (manager) => {
          await job.complete({ manager });
          asked.open();
          if (job.payload === 'commits') return commit.opened;
          await rollback.opened;
          throw new Error('rolled back');
        })
        .catch(() => undefined);
      await asked.opened;
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work', 'commits');
    await app.jobs.spawn('work', 'rolls back');
    await until(() => app.get(Work).runs.length === 2, { what: 'both have run' });
    // A job behind them is settled: nothing waits for the two.
    await app.queue.pause('work');
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(2);
    commit.open();
    await until(() => has(app, 'completed'), { what: 'the first is completed' });
    expect(app.get(Work).runs).toHaveLength(2);
    rollback.open();
    await until(() => has(app, 'retrying'), { what: 'the second is retried' });
    await app.queue.resume('work');
    await untilDone(tables);
    expect(app.get(Work).runs.map(({ payload, attempt }) => [payload, attempt])).toEqual([
      ['commits', 1],
      ['rolls back', 1],
      ['rolls back', 2],
    ]);
    await app.close();
  });

  it('refuses a manager without a transaction, and leaves the run able to complete', async () => {
    const Work = workWith({}, async (job) => {
      await expect(job.complete({ manager: app.dataSource.manager })).rejects.toMatchObject({
        code: 'invalid_manager',
      });
      await app.dataSource.transaction((manager) => job.complete({ manager }));
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed') || has(app, 'retrying'), { what: 'it has ended' });
    expect(has(app, 'completed')).toBe(true);
    await app.close();
  });

  it.each(['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'] as const)(
    'works in a transaction of level %s, and is refused there once the lease is lost',
    async (level) => {
      const lost = gate();
      const refusals: unknown[] = [];
      const Work = workWith({}, async (job) => {
        await app.dataSource
          .transaction(level, async (manager) => {
            await write(manager, job);
            if (job.payload === 'loses') await lost.opened;
            await job.complete({ manager });
          })
          .catch((error: unknown) => refusals.push(error));
      });
      const app = await startApp({ ...database, queue, providers: [Work] });
      await app.jobs.spawn('work', 'keeps');
      await until(() => has(app, 'completed'), { what: 'it is completed' });
      const { id } = await app.jobs.spawn('work', 'loses');
      await until(() => app.get(Work).runs.length === 2, { what: 'it runs' });
      // What a rescuer does: the stamp goes up, the lease ends.
      await tables.sql('UPDATE nestmq.job SET run = run + 1, due_at = now() + interval $$1 hour$$');
      await tables.sql('DELETE FROM nestmq.lease');
      lost.open();
      await until(() => refusals.length, { what: 'it is refused' });
      expect((await effects()).map(({ job_id }) => job_id)).not.toContain(id);
      expect(await tables.sql('SELECT id::text, run FROM nestmq.job')).toEqual([{ id, run: 1 }]);
      await app.close();
    },
  );
});

describe('job.complete({ manager }) on tables that are nearly empty', () => {
  /** Two runs that complete their jobs before either commits: read by anything but an index, each would have read the other's. */
  async function twoAtOnce(options: HandlerOptions, ending: (job: Job, manager: EntityManager) => Promise<unknown>) {
    const bothHaveWritten = gate();
    let written = 0;
    const Work = workWith({ retries: 0, ...options }, (job) =>
      app.dataSource.transaction('SERIALIZABLE', async (manager) => {
        await ending(job, manager);
        if (++written === 2) bothHaveWritten.open();
        await bothHaveWritten.opened;
      }),
    );
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.queue.pause('work');
    await app.jobs.spawnMany([1, 2].map((payload) => ({ name: 'work', payload })));
    await tables.sql('ANALYZE nestmq.job, nestmq.lease');
    await app.queue.resume('work');
    const ended = () =>
      app.events.filter(({ type }) => type === 'completed' || type === 'dead').map(({ type }) => type);
    await until(() => ended().length === 2, { what: 'both have ended' });
    await app.close();
    return ended();
  }

  it.each([0, '1h'] as const)(
    'does not let runs at SERIALIZABLE refuse each other, which have nothing in common, with retention %s',
    async (retention) => {
      const complete = (job: Job, manager: EntityManager) => job.complete({ manager });
      expect(await twoAtOnce({ retention }, complete)).toEqual(['completed', 'completed']);
    },
  );

  it('does not, either, when they checkpoint before', async () => {
    const checkpointAndComplete = async (job: Job, manager: EntityManager): Promise<void> => {
      await job.checkpoint({ payload: 'half' }, { manager });
      await job.complete({ manager });
    };
    expect(await twoAtOnce({}, checkpointAndComplete)).toEqual(['completed', 'completed']);
  });

  it('leaves the settings of the transaction as they were, also when several jobs are written at once in it', async () => {
    const settings = async (manager: EntityManager): Promise<unknown> =>
      (await manager.query<[unknown]>(`SELECT name, setting FROM pg_settings WHERE name LIKE 'enable_%' OR name = 'jit' ORDER BY name`)); // prettier-ignore
    const seen: unknown[] = [];
    const Work = batchWith({ batch: 3 }, (batch) =>
      app.dataSource.transaction(async (manager) => {
        await manager.query('SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = on');
        seen.push(await settings(manager));
        await Promise.all(batch.jobs.map((job) => job.checkpoint({ payload: 'half' }, { manager })));
        await Promise.all(batch.jobs.map((job) => job.complete({ manager })));
        seen.push(await settings(manager));
      }),
    );
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.queue.pause('work');
    await app.jobs.spawnMany([1, 2, 3].map((payload) => ({ name: 'work', payload })));
    await app.queue.resume('work');
    await until(() => app.events.filter(({ type }) => type === 'completed').length === 3, {
      what: 'all are completed',
    });
    expect(seen).toHaveLength(2);
    expect(seen[1]).toEqual(seen[0]);
    await app.close();
  });
});

describe('32 jobs of one batch', () => {
  it('that all write one shared row before and after completing end without a deadlock, or waiting for each other to be settled', async () => {
    await tables.sql('INSERT INTO shared VALUES (1, 0), (2, 0)');
    const Work = workWith({ retries: 0 }, (job) =>
      app.dataSource.transaction(async (manager) => {
        await manager.query('UPDATE shared SET total = total + 1 WHERE id = 1');
        await job.complete({ manager });
        await manager.query('UPDATE shared SET total = total + 1 WHERE id = 2');
      }),
    );
    const pool = { extra: { max: 40 } };
    const app = await startApp({ ...database, queue: { ...queue, concurrency: 32 }, providers: [Work], typeorm: pool });
    await app.queue.pause('work');
    await app.jobs.spawnMany(Array.from({ length: 32 }, () => ({ name: 'work', payload: null })));
    await app.queue.resume('work');
    await until(() => app.events.filter(({ type }) => type === 'completed' || type === 'dead').length === 32, {
      what: 'all have ended',
    });
    expect(has(app, 'dead')).toBe(false);
    expect(app.get(Work).runs).toHaveLength(32);
    expect(await tables.sql('SELECT total FROM shared ORDER BY id')).toEqual([{ total: 32 }, { total: 32 }]);
    await untilDone(tables);
    await app.close();
  });

  it('of which one keeps its completing transaction open settle all the others', async () => {
    const { opened, open } = gate();
    const Work = workWith({}, async (job) => {
      if (job.payload !== 'open') return;
      await app.dataSource.transaction(async (manager) => {
        await job.complete({ manager });
        await opened;
      });
    });
    const app = await startApp({ ...database, queue: { ...queue, concurrency: 32 }, providers: [Work] });
    await app.queue.pause('work');
    await app.jobs.spawnMany(
      Array.from({ length: 32 }, (_, index) => ({ name: 'work', payload: index === 7 ? 'open' : null })),
    );
    await app.queue.resume('work');
    await until(() => app.events.filter(({ type }) => type === 'completed').length === 31, { what: '31 are settled' });
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(1);
    open();
    await untilDone(tables);
    await app.close();
  });
});
