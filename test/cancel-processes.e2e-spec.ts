import { beforeEach, describe, expect, it } from '@jest/globals';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { laneWith } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { startWorker } from './support/workers.js';

const database = useDatabase();
const tables = useTables(database);

/** Neither a poll nor a heartbeat comes in the time of a test: only the notification tells. */
const TOLD_ONLY = { LEASE_MS: '600000' };

const SHORT_LEASE = { LEASE_MS: '1000' };

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint PRIMARY KEY)');
  await tables.sql('TRUNCATE effect');
});

/** An application that runs nothing. */
const startDesk = (): Promise<TestApp> =>
  startApp({ ...database, queue: { ...POLLING_OFF, runner: false }, providers: [laneWith()] });

const ended = (desk: TestApp, id: string, state: string) =>
  until(async () => ((await desk.queue.get(id))?.state === state ? desk.queue.get(id) : null), {
    what: `job ${id} is ${state}`,
  });

const send = async (desk: TestApp, task: string, options = {}): Promise<string> =>
  (await desk.jobs.spawn('work', task, { ordered: false, ...options })).id;

describe('a job that runs in another process', () => {
  it('is told to stop by a notification, and never runs again', async () => {
    const desk = await startDesk();
    const worker = await startWorker(database.url, TOLD_ONLY);
    const id = await send(desk, 'obey');
    await worker.started({ id });
    expect(await desk.queue.cancel(id, { reason: 'not wanted' })).toEqual({ outcome: 'requested', state: 'running' });
    await until(() => worker.of('aborted').length, { what: 'its signal has aborted' });
    expect(worker.of('aborted')).toEqual([{ type: 'aborted', id, reason: 'JobCancelledError' }]);
    expect(await ended(desk, id, 'cancelled')).toMatchObject({ reason: 'not wanted', attempts: 1 });
    const marker = await send(desk, 'end');
    await worker.started({ id: marker });
    expect((await worker.starts()).map((run) => run.id)).toEqual([id, marker]);
    await desk.close();
  });

  it('is told to stop by its heartbeat where no notification comes through', async () => {
    const desk = await startDesk();
    const worker = await startWorker(database.url, SHORT_LEASE);
    const id = await send(desk, 'obey');
    await worker.started({ id });
    await tables.sql(`UPDATE nestmq.job SET cancel_requested_at = now(), cancel_reason = 'by hand'`);
    expect(await ended(desk, id, 'cancelled')).toMatchObject({ reason: 'by hand' });
    await desk.close();
  });

  it('is completed when its transaction had completed it before', async () => {
    const desk = await startDesk();
    const worker = await startWorker(database.url, TOLD_ONLY);
    const id = await send(desk, 'wait-then-complete');
    await worker.started({ id });
    expect(await desk.queue.cancel(id)).toMatchObject({ outcome: 'requested' });
    worker.send('go');
    await until(() => worker.of('outcome').length, { what: 'the handler knows' });
    expect(worker.of('outcome')).toMatchObject([{ outcome: 'committed' }]);
    expect(await tables.number('SELECT count(*) FROM effect')).toBe(1);
    await untilDone(tables);
    expect(await tables.number('SELECT count(*) FROM nestmq.finished_job')).toBe(0);
    await desk.close();
  });

  it('and dies with its process, told to stop, is cancelled by the rescuer and not run again', async () => {
    const desk = await startDesk();
    const worker = await startWorker(database.url, SHORT_LEASE);
    const id = await send(desk, 'hang');
    await worker.started({ id });
    await desk.queue.cancel(id, { reason: 'not wanted' });
    await until(() => worker.of('aborted').length, { what: 'its signal has aborted' });
    await worker.kill();
    const other = await startWorker(database.url, SHORT_LEASE);
    expect(await ended(desk, id, 'cancelled')).toMatchObject({ reason: 'not wanted', attempts: 1 });
    const marker = await send(desk, 'end');
    await other.started({ id: marker });
    expect((await other.starts()).map((run) => run.id)).toEqual([marker]);
    await desk.close();
  });

  it('and outlasts the shutdown of its process is cancelled all the same', async () => {
    const desk = await startDesk();
    const worker = await startWorker(database.url, { ...SHORT_LEASE, HOOKS: '1', GRACE_MS: '50' });
    const id = await send(desk, 'hang');
    await worker.started({ id });
    await desk.queue.cancel(id);
    worker.process.kill('SIGTERM');
    await worker.exit();
    const other = await startWorker(database.url, SHORT_LEASE);
    await ended(desk, id, 'cancelled');
    expect(await other.starts()).toEqual([]);
    await desk.close();
  });

  it.each(['skip', 'block'] as const)(
    'as the head of a lane and is lost after it was told to stop lets the lane go on, with onDead: %s',
    async (onDead) => {
      const desk = await startDesk();
      const env = { ...SHORT_LEASE, ORDERED: '1', ON_DEAD: onDead, RETRIES: '0' };
      const worker = await startWorker(database.url, env);
      const [head, next] = [
        await send(desk, 'hang', { key: 'lane', ordered: true }),
        await send(desk, 'end', { key: 'lane', ordered: true }),
      ];
      await worker.started({ id: head });
      await desk.queue.cancel(head);
      await worker.kill();
      const other = await startWorker(database.url, env);
      expect(await other.started({ id: next })).toMatchObject({ seq: 2 });
      expect(await ended(desk, head, 'cancelled')).toMatchObject({ seq: 1 });
      await untilDone(tables);
      await desk.close();
    },
  );
});
