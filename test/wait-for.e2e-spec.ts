import { beforeEach, describe, expect, it } from '@jest/globals';
import {
  InvalidOptionsError,
  JobDeadError,
  JobNotFoundError,
  QueueClosedError,
  RejectJob,
  WaitTimeoutError,
} from 'nestmq';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { recordSql } from './support/sql-log.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const KEPT = { retention: '1h', retries: 0 } as const;

const looksIn = (statements: readonly string[]): number =>
  statements.filter((text) => text.includes('AS wanted')).length;

describe('queue.waitFor', () => {
  it('answers what the handler returned, in whatever process it ran', async () => {
    const Work = workWith(KEPT, ({ payload }) => ({ double: (payload as number) * 2 }));
    const sender = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    const { id } = await sender.jobs.spawn('work', 21);
    const waiting = sender.queue.waitFor<{ double: number }>(id);
    const runner = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    expect((await waiting).double).toBe(42);
    // Long over: it is answered as long as `retention` keeps it.
    expect(await runner.queue.waitFor(id)).toEqual({ double: 42 });
    await sender.close();
    await runner.close();
  });

  it('rejects for a dead job with its reason and last error', async () => {
    const Work = workWith(KEPT, () => Promise.reject(new RejectJob('no such user')));
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    const error = (await app.queue.waitFor(id).catch((reason: unknown) => reason)) as JobDeadError;
    expect(error).toBeInstanceOf(JobDeadError);
    expect(error).toMatchObject({ code: 'job_dead', jobId: id, reason: 'rejected' });
    expect(error.lastError).toContain('no such user');
    await app.close();
  });

  it('rejects for a job that nobody has, or of which nothing was kept, and says that it takes a retention', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    for (const gone of [id, '987654321']) {
      const error = (await app.queue.waitFor(gone).catch((reason: unknown) => reason)) as JobNotFoundError;
      expect(error).toBeInstanceOf(JobNotFoundError);
      expect(error).toMatchObject({ code: 'not_found', jobId: gone });
      expect(error.message).toContain('`retention`');
    }
    await app.close();
  });

  it('gives up at the timeout and by the signal; the job goes on', async () => {
    const { opened, open } = gate();
    const Work = workWith(KEPT, () => opened.then(() => 'done'));
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    const late = app.queue.waitFor(id, { timeout: 20 });
    await expect(late).rejects.toThrow(WaitTimeoutError);
    await expect(late).rejects.toMatchObject({ code: 'wait_timeout', jobId: id, timeoutMs: 20 });
    const reason = new Error('the client went away');
    const controller = new AbortController();
    const aborted = app.queue.waitFor(id, { signal: controller.signal });
    controller.abort(reason);
    await expect(aborted).rejects.toBe(reason);
    const patient = app.queue.waitFor(id, { timeout: '1h' });
    open();
    expect(await patient).toBe('done');
    await app.close();
  });

  it('looks for all jobs that a process waits for by one statement', async () => {
    const { opened, open } = gate();
    const Work = workWith(KEPT, ({ payload }) => opened.then(() => payload));
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, concurrency: 60 }, providers: [Work] });
    const spawned = await app.jobs.spawnMany(
      Array.from({ length: 60 }, (_, payload) => ({ name: 'work' as const, payload })),
    );
    await until(() => app.get(Work).runs.length === 60, { what: 'all of them run' });
    const statements = recordSql();
    const waiting = spawned.map(({ id }) => app.queue.waitFor(id));
    await until(() => looksIn(statements) > 2, { what: 'it has looked three times' });
    // 60 waits with a statement each would have been 180.
    expect(looksIn(statements)).toBeLessThan(10);
    open();
    expect(await Promise.all(waiting)).toEqual(spawned.map((_, payload) => payload));
    await app.close();
  });

  it('sends nothing when nobody waits', async () => {
    const Work = workWith(KEPT, () => 'done');
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    const statements = recordSql();
    await app.queue.waitFor(id);
    const looks = looksIn(statements);
    expect(looks).toBeGreaterThan(0);
    // A second job runs from spawn to end meanwhile, and its events tell nobody.
    const next = await app.jobs.spawn('work');
    await until(() => app.queue.get(next.id).then((job) => job?.state === 'completed'), { what: 'it has ended' });
    expect(looksIn(statements)).toBe(looks);
    await app.close();
  });

  it('ends with QueueClosedError when the process shuts down, and is refused from then on', async () => {
    const Work = workWith(KEPT);
    const app = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    const waiting = app.queue.waitFor(id).catch((reason: unknown) => reason);
    await app.close();
    expect(await waiting).toBeInstanceOf(QueueClosedError);
    await expect(app.queue.waitFor(id)).rejects.toThrow(QueueClosedError);
  });

  it('answers who waits for a job that ends during the shutdown', async () => {
    const { opened, open } = gate();
    const Work = workWith(KEPT, () => opened.then(() => 'just so'));
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => app.get(Work).runs.length, { what: 'it runs' });
    const waiting = app.queue.waitFor(id);
    const closing = app.close();
    open();
    expect(await waiting).toBe('just so');
    await closing;
  });

  it('refuses what is no id, and no time', async () => {
    const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith()] });
    for (const id of ['', 'x', '-1', 5 as never]) {
      await expect(app.queue.waitFor(id)).rejects.toThrow(InvalidOptionsError);
    }
    for (const timeout of [0, -1, Number.NaN, '25d', 'soon' as never] as const) {
      await expect(app.queue.waitFor('1', { timeout })).rejects.toThrow(InvalidOptionsError);
    }
    await app.close();
  });
});
