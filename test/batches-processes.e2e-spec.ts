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
const BATCHES = { LEASE_MS: '1000', BATCH: '5', CONCURRENCY: '1' };

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint PRIMARY KEY)');
  await tables.sql('TRUNCATE effect');
});

async function sender(options = {}) {
  const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith(options)] });
  const send = async (...tasks: string[]): Promise<string[]> => {
    const answers = await app.jobs.spawnMany(tasks.map((payload) => ({ name: 'work', payload })));
    return answers.map(({ id }) => id);
  };
  return { app, send };
}

describe('kill -9 in the middle of a batch', () => {
  it('repeats no job that was told of; the others come one by one, each charged with that run at most', async () => {
    const { app, send } = await sender({ retries: 3 });
    const first = await startWorker(database.url, BATCHES);
    const ids = await send('end', 'effect', 'wait-then-complete', 'end', 'effect');
    await first.started({ id: ids[2]! });
    await until(async () => !(await app.queue.exists(ids[0]!)) && !(await app.queue.exists(ids[1]!)), {
      what: 'what was told of is written',
    });
    await first.kill();
    const second = await startWorker(database.url, BATCHES);
    second.send('go');
    await untilDone(tables);
    const starts = await second.starts();
    expect(starts.map(({ id }) => id)).toEqual([ids[2], ids[3], ids[4]]);
    for (const { attempt } of starts) expect(attempt).toBeLessThanOrEqual(2);
    expect(await tables.sql('SELECT job_id::text AS id FROM effect ORDER BY job_id')).toEqual(
      [ids[1], ids[2], ids[4]].map((id) => ({ id })),
    );
    await app.close();
  });

  it('by one of its jobs, again and again, makes that one dead, and no other', async () => {
    const { app, send } = await sender({ retries: 2 });
    const [before, poison, after] = await send('end', 'exit', 'end');
    let dead = false;
    for (let crash = 0; crash < 6 && !dead; crash++) {
      const worker = await startWorker(database.url, BATCHES);
      await until(
        async () => {
          dead = (await app.queue.get(poison!))?.state === 'dead' && !(await app.queue.exists(after!));
          return dead || worker.process.exitCode !== null;
        },
        { what: 'the process has ended, or the job is dead' },
      );
    }
    expect(await app.queue.get(poison!)).toMatchObject({ state: 'dead', reason: 'lease expired', attempts: 3 });
    expect([await app.queue.exists(before!), await app.queue.exists(after!)]).toEqual([false, false]);
    await app.close();
  });
});

describe('two processes', () => {
  it('never run the same job in their batches, and run all of them', async () => {
    const { app } = await sender({ retries: 20 });
    const workers = await Promise.all([startWorker(database.url, BATCHES), startWorker(database.url, BATCHES)]);
    await app.jobs.spawnMany(Array.from({ length: 300 }, () => ({ name: 'work', payload: 'effect' })));
    await untilDone(tables);
    expect(await tables.number('SELECT count(*) FROM effect')).toBe(300);
    const started = (await Promise.all(workers.map((worker) => worker.starts()))).flat().map(({ id }) => id);
    expect(started.length).toBeGreaterThanOrEqual(300);
    expect(new Set(started).size).toBe(started.length);
    await app.close();
  });
});
