import { beforeEach, describe, expect, it } from '@jest/globals';
import type { QueueEvent, QueueModuleOptions } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { recordSql } from './support/sql-log.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { blockEventLoop, gate, untilAborted, workWith, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

async function startWork(queue: QueueModuleOptions, behaviour: Behaviour) {
  const Work = workWith({}, behaviour);
  const app = await startApp({ ...database, queue: { ...POLLING_OFF, leaseMs: 1_000, ...queue }, providers: [Work] });
  return { app, work: app.get(Work) };
}

const eventsOf = (app: TestApp, type: QueueEvent['type']): QueueEvent[] =>
  app.events.filter((event) => event.type === type);
const beats = (): Promise<number> => tables.number('SELECT max(beat) FROM nestmq.runner WHERE dead_at IS NULL');
/** So many heartbeats later. */
async function beatsGo(count: number): Promise<void> {
  const before = await beats();
  await until(async () => (await beats()) >= before + count, { what: `${count} heartbeats have gone through` });
}

/** What a rescuer does to a runner that it takes for dead. */
const declareDead = (): Promise<object[]> => tables.sql('UPDATE nestmq.runner SET dead_at = clock_timestamp()');

describe('a lease', () => {
  it('is kept while a handler blocks the event loop for longer than it lasts, and an event names the handler', async () => {
    const { app } = await startWork({}, () => blockEventLoop(2_500));
    const watcher = await startWork({ channels: ['nothing'] }, () => undefined);
    const { id } = await app.jobs.spawn('work');
    await until(() => eventsOf(app, 'completed').length, { what: 'it is completed' });
    expect(eventsOf(app, 'event-loop-blocked')[0]).toMatchObject({ running: ['Worker.run'] });
    expect(eventsOf(app, 'lease-lost')).toEqual([]);
    expect(eventsOf(watcher.app, 'rescued')).toEqual([]);
    expect(await app.queue.get(id)).toBeNull();
    await watcher.app.close();
    await app.close();
  });

  it('is given up when the event loop is blocked for longer than blockedLimitMs', async () => {
    const { app } = await startWork({ blockedLimitMs: 300 }, (job) => {
      if (job.attempt === 1) blockEventLoop(5_000);
    });
    // Both applications block together here, so it is the heartbeats that must have ended.
    await app.jobs.spawn('work');
    await until(() => eventsOf(app, 'event-loop-blocked').length, { what: 'the block is told of' });
    const gap = await tables.number('SELECT extract(epoch FROM clock_timestamp() - started_at) FROM nestmq.runner');
    expect(await beats()).toBeLessThan((gap * 1_000) / 250 - 10);
    await app.close();
  });

  it('is kept by beats whose connection is made anew after it was killed', async () => {
    const { opened, open } = gate();
    const { app } = await startWork({}, () => opened);
    await app.jobs.spawn('work');
    await beatsGo(1);
    await tables.sql(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND application_name = 'nestmq renew'`);
    await beatsGo(3);
    open();
    await until(() => eventsOf(app, 'completed').length, { what: 'it is completed' });
    expect(eventsOf(app, 'lease-lost')).toEqual([]);
    await app.close();
  });

  it('that was deleted aborts its run with LeaseLostError, which is not settled, and the job runs again', async () => {
    const reasons: unknown[] = [];
    const { app, work } = await startWork({ pollMs: 200 }, (job) => {
      if (work.runs.length === 1) return untilAborted(job).catch((reason: unknown) => reasons.push(reason));
      return undefined;
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => work.runs.length, { what: 'it runs' });
    await tables.sql('DELETE FROM nestmq.lease');
    await until(() => eventsOf(app, 'lease-lost').length, { what: 'it is told' });
    expect(reasons).toMatchObject([{ code: 'lease_lost' }]);
    await until(() => eventsOf(app, 'completed').length, { what: 'the next run is completed' });
    expect(work.runs.map((job) => job.id)).toEqual([id, id]);
    await app.close();
  });

  it('that its runner does not know of, with a lower number, is given back by the heartbeat', async () => {
    const { app, work } = await startWork({}, () => undefined);
    await app.jobs.spawn('work', 'first');
    await until(() => eventsOf(app, 'completed').length, { what: 'the first is done' });
    // A claim whose answer was lost: the lease is there, and nobody knows of it.
    await app.queue.pause('work');
    const { id } = await app.jobs.spawn('work', 'second');
    await tables.sql(
      `INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, started, hi_due_at, hi_id)
       SELECT runner.id, -1, 'work', 0, ARRAY[job.id], ARRAY[0], 1, job.due_at, job.id FROM nestmq.runner, nestmq.job`,
    );
    await app.queue.resume('work');
    await until(() => work.runs.some((job) => job.id === id), { what: 'it runs' });
    expect(work.runs.at(-1)).toMatchObject({ attempt: 1 });
    await app.close();
  });
});

describe('a runner that was declared dead while it lived', () => {
  it('goes on under another id; its runs are aborted with LeaseLostError and not settled, and their jobs run again', async () => {
    const reasons: unknown[] = [];
    const { app, work } = await startWork({}, (job) => {
      if (job.attempt === 1) return untilAborted(job).catch((reason: unknown) => reasons.push(reason));
      return undefined;
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => work.runs.length, { what: 'it runs' });
    const [before] = await tables.sql<{ id: string }>('SELECT id::text FROM nestmq.runner');
    await declareDead();
    await until(() => eventsOf(app, 'lease-lost').length, { what: 'it is told' });
    expect(reasons).toMatchObject([{ code: 'lease_lost' }]);
    await until(() => eventsOf(app, 'completed').length, { what: 'the job is completed by its second run' });
    expect(work.runs.map((job) => [job.id, job.attempt])).toEqual([
      [id, 1],
      [id, 2],
    ]);
    expect(eventsOf(app, 'completed')).toHaveLength(1);
    const after = await tables.sql<{ id: string }>('SELECT id::text FROM nestmq.runner WHERE dead_at IS NULL');
    expect(after).toHaveLength(1);
    expect(after[0]!.id).not.toBe(before!.id);
    await app.close();
  });

  it('cannot complete in a transaction of its handler, whose writes roll back', async () => {
    const lost = gate();
    const outcome: unknown[] = [];
    const { app, work } = await startWork({}, async (job) => {
      if (job.attempt > 1) return;
      await lost.opened;
      await app.dataSource
        .transaction(async (manager) => {
          await manager.query('CREATE TABLE zombie ()');
          await job.complete({ manager });
        })
        .then(
          () => outcome.push('committed'),
          (error: unknown) => outcome.push(error),
        );
    });
    await app.jobs.spawn('work');
    await until(() => work.runs.length, { what: 'it runs' });
    await declareDead();
    await until(() => eventsOf(app, 'rescued').length, { what: 'the job is rescued' });
    lost.open();
    await until(() => outcome.length, { what: 'it has tried' });
    expect(outcome).toMatchObject([{ code: 'lease_lost' }]);
    expect(await tables.sql(`SELECT to_regclass('zombie') AS zombie`)).toEqual([{ zombie: null }]);
    await until(() => eventsOf(app, 'completed').length, { what: 'the second run completes' });
    await app.close();
  });
});

describe('a runner whose connections broke', () => {
  it('starts nothing that it had taken ahead until it knows that it still holds it', async () => {
    const first = gate();
    const ran = new Map<string, number>();
    const { app } = await startWork({ leaseMs: 600_000, concurrency: 1, prefetchMs: 1_000 }, async (job) => {
      ran.set(job.id, (ran.get(job.id) ?? 0) + 1);
      if (job.payload === 'slow') await first.opened;
    });
    const jobs = Array.from({ length: 600 }, (_, index) => ({ name: 'work', payload: index === 300 ? 'slow' : null }));
    await app.jobs.spawnMany(jobs);
    await until(() => app.events.some(() => ran.size === 301), { what: 'the slow one runs' });
    await until(() => tables.number('SELECT (sum(cardinality(job_ids)) > 10)::int FROM nestmq.lease'), {
      what: 'some are taken ahead',
    });
    await until(() => tables.number('SELECT (count(*) = 300)::int FROM nestmq.job'), {
      what: 'the ends of those before it are written',
    });
    // As after a crash of the server: leases that were not durable are forgotten, connections gone.
    await tables.sql('DELETE FROM nestmq.lease');
    const old = await tables.sql<{ pid: number }>(`SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND application_name LIKE 'nestmq%'`);
    await until(
      () =>
        tables.number(
          `SELECT count(*) FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = 'nestmq listen' AND pid <> ALL ($1::int[])`,
          [old.map(({ pid }) => pid)],
        ),
      { what: 'it listens on a new connection' },
    );
    first.open();
    await untilDone(tables);
    const twice = [...ran].filter(([, times]) => times > 1).map(([id]) => id);
    expect(twice.length).toBeLessThanOrEqual(1); // the slow one itself lost its lease
    await app.close();
  });
});

describe('suspects', () => {
  it('run one at a time in a process, beside its other jobs', async () => {
    const { opened, open } = gate();
    let most = 0;
    let running = 0;
    const { app, work } = await startWork({}, async (job) => {
      if (job.payload !== 'suspect') return;
      most = Math.max(most, ++running);
      await opened;
      running -= 1;
    });
    await app.queue.pause('work');
    await app.jobs.spawnMany(Array.from({ length: 4 }, () => ({ name: 'work', payload: 'suspect' })));
    await tables.sql('UPDATE nestmq.job SET suspect = true, attempt = 1');
    await app.queue.resume('work');
    await until(() => running, { what: 'one runs' });
    await app.jobs.spawn('work', 'other');
    await until(() => work.runs.some(({ payload }) => payload === 'other'), { what: 'another job runs beside it' });
    open();
    await untilDone(tables);
    expect(most).toBe(1);
    expect(work.runs.filter(({ payload }) => payload === 'suspect').map(({ attempt }) => attempt)).toEqual([
      2, 2, 2, 2,
    ]);
    await app.close();
  });

  it('stay suspects, and are not charged, while every slot is busy', async () => {
    const { opened, open } = gate();
    const { app, work } = await startWork({ concurrency: 1 }, (job) => (job.payload === 'slow' ? opened : undefined));
    await app.jobs.spawn('work', 'slow');
    await until(() => work.runs.length, { what: 'the slot is busy' });
    const [{ id }] = (await tables.sql(
      `INSERT INTO nestmq.job (channel, name, suspect, attempt) VALUES ('work', 'work', true, 1) RETURNING id::text`,
    )) as [{ id: string }];
    await tables.sql(`SELECT pg_notify('nestmq_wake_up', '["survey"]')`);
    await beatsGo(4);
    expect(await tables.sql('SELECT suspect, attempt FROM nestmq.job WHERE id = $1', [id])).toEqual([
      { suspect: true, attempt: 1 },
    ]);
    // Not taken before its turn: another process could run it, and a kill of this one would charge it.
    expect(await app.queue.get(id)).toMatchObject({ state: 'waiting', attempts: 1 });
    open();
    await untilDone(tables);
    expect(work.runs.at(-1)).toMatchObject({ id, attempt: 2 });
    await app.close();
  });

  it('do not starve behind a backlog of quick jobs', async () => {
    const { app, work } = await startWork({}, () => undefined);
    await app.queue.pause('work');
    await app.jobs.spawnMany(Array.from({ length: 20_000 }, () => ({ name: 'work', payload: null })));
    await app.jobs.spawn('work', 'suspect');
    await tables.sql(`UPDATE nestmq.job SET suspect = true, attempt = 1 WHERE payload::text = '"suspect"'`);
    await app.queue.resume('work');
    await untilDone(tables);
    expect(work.runs.findIndex(({ payload }) => payload === 'suspect')).toBeLessThan(10_000);
    await app.close();
  });
});

describe('a runner that is full', () => {
  it('does not ask the database again and again, also when the next job is on its last attempt', async () => {
    const { opened, open } = gate();
    const { app, work } = await startWork({ concurrency: 4, prefetchMs: 1_000 }, (job) =>
      job.payload === 'slow' ? opened : undefined,
    );
    const jobs = (count: number, payload: string | null, options: object = {}) =>
      Array.from({ length: count }, () => ({ name: 'work', payload, ...options }));
    await app.queue.pause('work');
    await app.jobs.spawnMany([...jobs(300, null), ...jobs(4, 'slow'), ...jobs(5, 'last', { retries: 0 })]);
    await app.queue.resume('work');
    await until(() => work.runs.filter(({ payload }) => payload === 'slow').length === 4, {
      what: 'all slots are busy',
    });
    await beatsGo(1);
    const sent = recordSql();
    await beatsGo(4);
    // It looks once at each heartbeat.
    expect(sent.filter((text) => text.includes('nestmq.lease')).length).toBeLessThanOrEqual(10);
    open();
    await untilDone(tables);
    await app.close();
  });
});
