import { beforeEach, describe, expect, it } from '@jest/globals';
import { startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { startWorker } from './support/workers.js';
import { workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
/** Quick rescues; the poll is off, so that nothing runs by chance. */
const LEASE = { LEASE_MS: '1000' };

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint PRIMARY KEY)');
  await tables.sql('TRUNCATE effect');
});

async function spawner() {
  const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith({ retries: 2 })] });
  return {
    app,
    spawn: async (task: string) => (await app.jobs.spawn('work', task)).id,
    attempts: async (id: string) => (await app.queue.get(id))?.attempts,
  };
}

describe('kill -9 of a process in the middle of a handler', () => {
  it('leaves the job running, its attempt counted, until another process runs it as the next attempt', async () => {
    const { app, spawn } = await spawner();
    const first = await startWorker(database.url, LEASE);
    const id = await spawn('wait-then-complete');
    await first.started({ id });
    await first.kill();
    const left = await app.queue.get(id);
    expect(left).toMatchObject({ state: 'running', attempts: 1 });
    expect(left?.runner).not.toBeNull();

    const second = await startWorker(database.url, LEASE);
    expect(await second.started({ id })).toMatchObject({ attempt: 2 });
    second.send('go');
    await untilDone(tables);
    expect(await tables.number('SELECT count(*) FROM effect')).toBe(1);
    await app.close();
  });

  it('again and again makes it dead at its limit, with reason "lease expired", and the channel goes on', async () => {
    const { app, spawn } = await spawner();
    const id = await spawn('hang');
    for (let attempt = 1; attempt <= 3; attempt++) {
      const worker = await startWorker(database.url, LEASE);
      expect(await worker.started({ id })).toMatchObject({ attempt });
      await worker.kill();
    }
    const next = await startWorker(database.url, LEASE);
    await until(async () => (await app.queue.get(id))?.state === 'dead', { what: 'it is dead' });
    expect(await app.queue.get(id)).toMatchObject({ reason: 'lease expired', attempts: 3, maxAttempts: 3 });
    const fresh = await spawn('end');
    expect(await next.started({ id: fresh })).toMatchObject({ attempt: 1 });
    await app.close();
  });

  it('gives back, without an attempt, what had only been taken ahead, and charges the known start', async () => {
    const { app, spawn } = await spawner();
    const first = await startWorker(database.url, { ...LEASE, CONCURRENCY: '1' });
    const running = await spawn('hang');
    await first.started({ id: running });
    const waiting = await spawn('end');
    await first.kill();
    await startWorker(database.url, LEASE);
    await until(async () => (await app.queue.get(waiting)) === null, { what: 'the one that waited is done' });
    await until(async () => (await app.queue.get(running))?.attempts === 2, {
      what: 'the other runs again',
    });
    await app.close();
  });
});

describe('a process that is paused past its lease', () => {
  it('has lost its job: another one completes it, and its own completion, with all that its transaction wrote, is refused', async () => {
    const { app, spawn } = await spawner();
    const paused = await startWorker(database.url, LEASE);
    const id = await spawn('wait-then-complete');
    await paused.started({ id });
    paused.process.kill('SIGSTOP');
    const other = await startWorker(database.url, LEASE);
    expect(await other.started({ id })).toMatchObject({ attempt: 2 });
    other.send('go');
    await until(() => other.of('outcome').length, { what: 'the other has completed it' });
    await untilDone(tables);
    await tables.sql('DELETE FROM effect');

    paused.send('go');
    paused.process.kill('SIGCONT');
    await until(() => paused.of('outcome').length, { what: 'its completion is answered' });
    expect(paused.of('outcome')).toEqual([{ type: 'outcome', id, outcome: 'lease_lost' }]);
    expect(await tables.sql('SELECT FROM effect')).toEqual([]);
    await until(() => paused.of('event').some(({ event }) => event === 'lease-lost'), { what: 'it tells so' });
    expect(paused.of('event').filter((told) => told.id === id && told.event === 'completed')).toEqual([]);

    // It lives on under another id, and works.
    await other.kill();
    const next = await spawn('end');
    await paused.started({ id: next });
    await until(async () => (await app.queue.get(next)) === null, { what: 'its next job is completed' });
    await app.close();
  });
});

describe('a job that ends its process', () => {
  it('dies of its own attempts, and costs each neighbour one at most', async () => {
    const { app, spawn } = await spawner();
    const neighbours = await Promise.all(Array.from({ length: 3 }, () => spawn('obey')));
    const first = await startWorker(database.url, LEASE);
    for (const id of neighbours) await first.started({ id });
    const killer = await spawn('exit');
    expect(await first.exit()).toBe(7);
    // The neighbours are of those that end when they are run again.
    await tables.sql(`UPDATE nestmq.job SET payload = '"effect"' WHERE id <> $1`, [killer]);

    const starts: { id: string; attempt: number }[] = [];
    while (!(await tables.drained())) {
      const worker = await startWorker(database.url, LEASE);
      await until(async () => worker.process.exitCode !== null || (await tables.drained()), {
        what: 'the process has ended, or the queue is empty',
      });
      await worker.kill();
      starts.push(...worker.of('started'));
    }
    expect(await app.queue.get(killer)).toMatchObject({ state: 'dead', reason: 'lease expired', attempts: 3 });
    for (const id of neighbours) {
      expect(starts.filter((run) => run.id === id).map(({ attempt }) => attempt)).toEqual([2]);
    }
    expect(await tables.number('SELECT count(*) FROM effect')).toBe(3);
    await app.close();
  });
});
