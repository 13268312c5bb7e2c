import { beforeEach, describe, expect, it } from '@jest/globals';
import type { QueueModuleOptions } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { startWorker } from './support/workers.js';
import { gate, untilAborted, workWith, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint PRIMARY KEY)');
  await tables.sql('TRUNCATE effect');
});

async function startWork(queue: QueueModuleOptions, behaviour: Behaviour) {
  const Work = workWith({}, behaviour);
  const app = await startApp({ ...database, queue: { ...POLLING_OFF, ...queue }, providers: [Work] });
  return { app, work: app.get(Work) };
}

const jobs = (): Promise<object[]> =>
  tables.sql('SELECT id::text, attempt, suspect, last_error FROM nestmq.job ORDER BY id');
const leases = (): Promise<object[]> => tables.sql('SELECT FROM nestmq.lease');
const runners = (): Promise<object[]> => tables.sql('SELECT FROM nestmq.runner');
/** The shutdown has begun: nothing is claimed or started any more. */
const stopping = (): Promise<unknown> =>
  until(() => tables.number('SELECT count(*) FROM nestmq.runner WHERE stopping'), { what: 'it stops' });
const types = (app: TestApp): string[] => app.events.flatMap((event) => ('id' in event ? [event.type] : []));

describe('app.close()', () => {
  it('without work ends clean: no runner, no lease, no connection is left', async () => {
    const { app } = await startWork({}, () => undefined);
    await until(() => runners().then((rows) => rows.length), { what: 'it has entered' });
    await app.close();
    expect(await runners()).toEqual([]);
    await until(
      () =>
        tables
          .number(
            `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'nestmq%'`,
          )
          .then((count) => count === 0),
      { what: 'its connections are gone' },
    );
  });

  it('right after the boot ends as well', async () => {
    const { app } = await startWork({}, () => undefined);
    await app.close();
    expect(await leases()).toEqual([]);
  });

  it('waits for the running handler, who may still spawn, and starts nothing afterwards', async () => {
    const { opened, open } = gate();
    const { app, work } = await startWork({ concurrency: 1 }, async () => {
      await opened;
      await app.jobs.spawn('work', 'follow-up');
    });
    await app.jobs.spawn('work', 'running');
    await until(() => work.runs.length, { what: 'it runs' });
    await app.jobs.spawn('work', 'waiting');
    const closed = app.close();
    await stopping();
    open();
    await closed;
    expect(types(app)).toEqual(['started', 'completed']);
    const left = await tables.sql('SELECT payload, attempt FROM nestmq.job ORDER BY id');
    expect(left).toEqual([
      { payload: 'waiting', attempt: 0 },
      { payload: 'follow-up', attempt: 0 },
    ]);
    expect(await leases()).toEqual([]);
    expect(await runners()).toEqual([]);
  });

  it('gives back what was taken ahead, the attempt not spent', async () => {
    const { opened, open } = gate();
    const { app, work } = await startWork({ concurrency: 1, prefetchMs: 1_000 }, (job) =>
      job.payload === 'slow' ? opened : undefined,
    );
    await app.jobs.spawnMany(
      Array.from({ length: 500 }, (_, index) => ({ name: 'work', payload: index === 200 ? 'slow' : null })),
    );
    await until(() => work.runs.length === 201, { what: 'the slow one runs' });
    const closed = app.close();
    await stopping();
    open();
    await closed;
    expect(await leases()).toEqual([]);
    expect(await tables.sql('SELECT count(*)::int AS count, max(attempt) AS attempt FROM nestmq.job')).toEqual([
      { count: 500 - work.runs.length, attempt: 0 },
    ]);
    expect(work.runs).toHaveLength(201);
  });

  it('aborts a handler that outlasts the grace with QueueClosedError, and releases its job, the attempt not spent', async () => {
    const reasons: unknown[] = [];
    const { app, work } = await startWork({ shutdown: { graceMs: 50 } }, (job) =>
      untilAborted(job).catch((reason: unknown) => {
        reasons.push(reason);
        throw reason;
      }),
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => work.runs.length, { what: 'it runs' });
    await app.close();
    expect(reasons).toMatchObject([{ code: 'queue_closed' }]);
    expect(types(app)).toEqual(['started', 'released']);
    expect(await jobs()).toEqual([{ id, attempt: 0, suspect: false, last_error: null }]);
    expect(await leases()).toEqual([]);
  });

  it('of one process wakes another for what it has released', async () => {
    const first = await startWork({ shutdown: { graceMs: 0 } }, untilAborted);
    const { id } = await first.app.jobs.spawn('work');
    await until(() => first.work.runs.length, { what: 'it runs here' });
    const second = await startWork({}, () => undefined);
    await until(() => second.app.events.some(({ type }) => type === 'listening'), { what: 'the other listens' });
    await first.app.close();
    await until(() => second.work.runs.length, { what: 'it runs there' });
    expect(second.work.runs[0]).toMatchObject({ id, attempt: 1 });
    await second.app.close();
  });

  it.each([
    ['committed: the job is done', true],
    ['rolled back: the job is released', false],
  ])('during an open completing transaction ends with it %s', async (_, commits) => {
    const asked = gate();
    const { opened, open } = gate();
    const { app } = await startWork({}, (job) =>
      app.dataSource.transaction(async (manager) => {
        await manager.query('INSERT INTO effect VALUES ($1)', [job.id]);
        await job.complete({ manager });
        asked.open();
        await opened;
        if (!commits) throw new Error('rolled back');
      }),
    );
    await app.jobs.spawn('work');
    await asked.opened;
    const closed = app.close();
    open();
    await closed;
    expect(await tables.number('SELECT count(*) FROM effect')).toBe(commits ? 1 : 0);
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(commits ? 0 : 1);
    expect(await leases()).toEqual([]);
  });

  it('after the grace, of a transaction that then rolls back, releases the job without a spent attempt', async () => {
    const { app, work } = await startWork({ shutdown: { graceMs: 30 } }, (job) =>
      app.dataSource.transaction(async (manager) => {
        await job.complete({ manager });
        await untilAborted(job);
      }),
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => work.runs.length, { what: 'it runs' });
    await app.close();
    expect(await jobs()).toEqual([{ id, attempt: 0, suspect: false, last_error: null }]);
    expect(await leases()).toEqual([]);
  });
});

describe('a real process', () => {
  const spawn = async (task: string): Promise<string> => {
    const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith()] });
    const { id } = await app.jobs.spawn('work', task);
    await app.close();
    return id;
  };

  it('with shutdown hooks lets its handler end after SIGTERM, spawn included, and exits', async () => {
    const worker = await startWorker(database.url, { HOOKS: '1' });
    const id = await spawn('spawn-late');
    await worker.started({ id });
    worker.process.kill('SIGTERM');
    worker.send('go');
    expect(await worker.exit()).toBe('SIGTERM');
    expect(await tables.sql('SELECT key FROM nestmq.job')).toEqual([{ key: `after ${id}` }]);
    expect(await leases()).toEqual([]);
    expect(await runners()).toEqual([]);
  });

  it('that gets SIGTERM aborts a handler after the grace, releases its job and exits', async () => {
    const worker = await startWorker(database.url, { HOOKS: '1', GRACE_MS: '50' });
    const id = await spawn('obey');
    await worker.started({ id });
    worker.process.kill('SIGTERM');
    expect(await worker.exit()).toBe('SIGTERM');
    expect(await jobs()).toEqual([{ id, attempt: 0, suspect: false, last_error: null }]);
    expect(await leases()).toEqual([]);
  });

  it('whose handler ignores the abort ends with the job leased; the rescuer gives it back without an attempt', async () => {
    const worker = await startWorker(database.url, { HOOKS: '1', GRACE_MS: '50', LEASE_MS: '1000' });
    const id = await spawn('hang');
    await worker.started({ id });
    worker.process.kill('SIGTERM');
    expect(await worker.exit()).toBe('SIGTERM');
    expect(await leases()).toHaveLength(1);
    const next = await startWorker(database.url, { LEASE_MS: '1000' });
    expect(await next.started({ id })).toMatchObject({ attempt: 1 });
    expect(await tables.sql('SELECT suspect FROM nestmq.job')).toEqual([{ suspect: false }]);
  });
});
