import { readFileSync } from 'node:fs';
import { beforeEach, describe, expect, it } from '@jest/globals';
import { JobHandler, type Job } from 'nestmq';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';
import { startWorker, type WorkerProcess } from './support/workers.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint PRIMARY KEY)');
});

const sender = () => startApp({ ...database, queue: { runner: false }, providers: [workWith()] });

describe('queue.runners()', () => {
  it('tells who runs where, since when, with what, and how many jobs, from any process', async () => {
    const { opened, open } = gate();
    class Handlers {
      @JobHandler('mail', { name: 'mail', formerNames: ['post', 'e-mail'] })
      mail(_job: Job): Promise<void> {
        return opened;
      }
    }
    const app = await startApp({
      ...database,
      queue: { ...POLLING_OFF, runnerId: 'mailer-0', channels: ['other', 'mail'], concurrency: { min: 2, max: 3 } },
      providers: [Handlers],
    });
    const other = await sender();
    await app.jobs.spawn('mail');
    await until(async () => (await other.queue.runners())[0]?.running === 1, { what: 'it runs' });
    const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
      version: string;
    };
    expect(await other.queue.runners()).toEqual([
      {
        ...{ id: expect.stringMatching(/^\d+$/), name: 'mailer-0', host: expect.any(String), pid: process.pid },
        ...{ version, startedAt: expect.any(Date), beatAt: expect.any(Date), state: 'alive', concurrency: 3 },
        ...{ channels: ['mail', 'other'], names: ['e-mail', 'mail', 'post'], running: 1 },
      },
    ]);
    open();
    await app.close();
    expect(await other.queue.runners()).toEqual([]);
    await other.close();
  });

  it('tells of one without a name that it serves every channel, and of those that stop or are dead', async () => {
    await tables.sql(
      `INSERT INTO nestmq.runner (id, host, pid, stopping, dead_at, started_at)
       VALUES (1, 'h', 1, false, NULL, now() - interval '3 s'), (2, 'h', 2, true, NULL, now() - interval '2 s'), (3, 'h', 3, true, now(), now())`,
    );
    const app = await sender();
    expect(await app.queue.runners()).toMatchObject([
      { id: '1', name: null, channels: null, version: null, names: [], running: 0, state: 'alive' },
      { id: '2', state: 'stopping' },
      { id: '3', state: 'dead' },
    ]);
    await app.close();
  });
});

/** Normal rescues would take minutes. */
const OWN = { RUNNER_ID: 'worker-0', RELEASE_OWN: '1', LEASE_MS: '120000' };

const killedWhileRunning = async (id: string, env: Record<string, string>): Promise<WorkerProcess> => {
  const worker = await startWorker(database.url, env);
  await worker.started({ id });
  await worker.kill();
  return worker;
};

describe('a process that is to release its own at its start', () => {
  it('runs at once what its killed predecessor had, and leaves alone what others have', async () => {
    const app = await sender();
    const { id: theirs } = await app.jobs.spawn('work', 'hang');
    const stranger = await startWorker(database.url, { ...OWN, RUNNER_ID: 'worker-1', CONCURRENCY: '1' });
    await stranger.started({ id: theirs });
    const { id } = await app.jobs.spawn('work', 'wait-then-complete');
    await killedWhileRunning(id, OWN);
    expect(await app.queue.get(id)).toMatchObject({ state: 'running', attempts: 1 });

    const again = await startWorker(database.url, OWN);
    expect(await again.started({ id })).toMatchObject({ attempt: 2 });
    again.send('go');
    await until(async () => (await app.queue.get(id)) === null, { what: 'it is completed' });
    expect(await app.queue.get(theirs)).toMatchObject({ state: 'running', attempts: 1 });
    await app.close();
  });

  it('makes dead what had no attempt left, as a rescue does', async () => {
    const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith({ retries: 0 })] });
    const { id } = await app.jobs.spawn('work', 'hang');
    await killedWhileRunning(id, OWN);
    const again = await startWorker(database.url, OWN);
    await until(async () => (await app.queue.get(id))?.state === 'dead', { what: 'it is dead' });
    expect(await app.queue.get(id)).toMatchObject({ reason: 'lease expired', attempts: 1 });
    expect(await again.starts()).toEqual([]);
    await app.close();
  });

  it('never touches a living process that has its name, however long both live', async () => {
    const env = { ...OWN, LEASE_MS: '1000' };
    const app = await sender();
    const { id } = await app.jobs.spawn('work', 'wait-then-complete');
    const first = await startWorker(database.url, { ...env, CONCURRENCY: '1' });
    await first.started({ id });
    const runner = (await app.queue.get(id))!.runner!;
    await startWorker(database.url, env);
    // Three leases of heartbeats: more than it takes to miss anybody.
    const beats = (): Promise<number> => tables.number('SELECT max(beat) FROM nestmq.runner WHERE id <> $1', [runner]);
    await until(async () => (await beats()) > 12, { what: 'the second one has lived for long' });
    expect(await app.queue.get(id)).toMatchObject({ state: 'running', attempts: 1, runner });
    first.send('go');
    await until(async () => (await app.queue.get(id)) === null, { what: 'the first one has completed it' });
    await until(() => first.of('outcome').length, { what: 'its handler knows' });
    expect(first.of('outcome')).toMatchObject([{ id, outcome: 'committed' }]);
    await app.close();
  });

  it('misses a predecessor of another machine by its heartbeats', async () => {
    await tables.sql(
      `INSERT INTO nestmq.runner (id, host, pid, name, process, beat_at) VALUES (7, 'elsewhere', 1, 'own', 'boot pid:[1] 1 1', now())`,
    );
    const app = await startApp({
      ...database,
      queue: { ...POLLING_OFF, leaseMs: 1_000, runnerId: 'own', onStart: 'release-own' },
      providers: [workWith()],
    });
    await until(async () => (await app.queue.runners()).every(({ id }) => id !== '7'), {
      what: 'it is declared dead, and forgotten',
    });
    await app.close();
  });

  it('recovers none where there is none', async () => {
    const app = await startApp({
      ...database,
      queue: { ...POLLING_OFF, runnerId: 'own', onStart: 'release-own' },
      providers: [workWith()],
    });
    await app.jobs.spawn('work');
    await until(() => app.events.some(({ type }) => type === 'completed'), { what: 'it runs jobs' });
    expect(app.events.filter(({ type }) => type === 'rescued')).toEqual([]);
    await app.close();
  });
});
