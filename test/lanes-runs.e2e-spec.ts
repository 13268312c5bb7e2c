import { beforeEach, describe, expect, it } from '@jest/globals';
import type { HandlerOptions } from 'nestmq';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { openSession } from './support/engine.js';
import { laneWith, payloadsOf, turn, upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import type { Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

const drained = (): Promise<boolean> => untilDone(tables);

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint PRIMARY KEY)');
  await tables.sql('TRUNCATE effect');
});

/** A runner that knows how quick its handler is, and leases lanes for many jobs. */
async function startQuick(behaviour: Behaviour, options: HandlerOptions = {}) {
  const Work = laneWith(
    { backoff: { type: 'fixed', base: 1, jitter: 0 }, ...options },
    ({ key }) => key === 'warm' && undefined,
  );
  const app = await startApp({ ...database, queue: { ...POLLING_OFF, prefetchMs: 1_000 }, providers: [Work] });
  const work = app.get(Work);
  await app.jobs.spawnMany(upTo(100).map((payload) => ({ name: 'work', payload, key: 'warm' })));
  await drained();
  work.behaviour = behaviour;
  /** Sends a lane that one claim finds whole. */
  const send = async (count: number): Promise<string[]> => {
    await app.queue.pause('work');
    const spawned = await app.jobs.spawnMany(upTo(count).map((payload) => ({ name: 'work', payload, key: 'lane' })));
    return spawned.map(({ id }) => id);
  };
  return { app, work, send };
}

describe('a lane that is leased for many jobs', () => {
  it('is one lease, of which one job runs at a time', async () => {
    const seen: object[] = [];
    const { app, work, send } = await startQuick(async () => {
      if (seen.length === 0)
        seen.push(...(await tables.sql('SELECT cardinality(job_ids) AS jobs, started, seqs FROM nestmq.lease')));
    });
    await send(20);
    await app.queue.resume('work');
    await drained();
    expect(seen).toEqual([{ jobs: 20, started: 1, seqs: upTo(20).map(String) }]);
    expect(payloadsOf(work, 'lane')).toEqual(upTo(20));
    await app.close();
  });

  it('lets no completing transaction of a job commit before the ends of those before it are written', async () => {
    const { app, work, send } = await startQuick(async (job) => {
      if (job.payload !== 2) return;
      await app.dataSource.transaction(async (manager) => {
        await manager.query('INSERT INTO effect (job_id) VALUES ($1)', [job.id]);
        await job.complete({ manager });
        work.steps.push('2 completes');
      });
    });
    const [first, second] = await send(3);
    // Nobody can write the end of the first job.
    const { pg } = await openSession(database.url);
    await pg.query('BEGIN');
    await pg.query('SELECT FROM nestmq.job WHERE id = $1 FOR UPDATE', [first]);
    await app.queue.resume('work');
    await until(() => work.steps.includes('2 starts'), { what: 'the second one runs' });
    await app.jobs.spawn('work', 'marker', { key: 'another lane' });
    await until(() => work.steps.includes('marker starts'), { what: 'a job of another lane has run' });
    expect(work.steps).not.toContain('2 completes');
    expect(await tables.number('SELECT count(*) FROM effect')).toBe(0);
    await pg.query('COMMIT');
    await drained();
    expect(await tables.sql('SELECT job_id::text AS id FROM effect')).toEqual([{ id: second }]);
    expect(payloadsOf(work, 'lane')).toEqual(upTo(3));
    await app.close();
  });

  it('keeps its order, and runs nothing twice that was completed with an effect, while all connections break', async () => {
    const { app, work, send } = await startQuick(async (job) => {
      await turn();
      if (Number(job.payload) % 10 === 0) {
        await app.dataSource.transaction(async (manager) => {
          await manager.query('INSERT INTO effect (job_id) VALUES ($1)', [job.id]);
          await job.complete({ manager });
        });
      }
    });
    const ids = await send(300);
    await app.queue.resume('work');
    for (const round of upTo(5)) {
      await until(() => payloadsOf(work, 'lane').length > round * 40, { what: 'it goes on' });
      await tables.sql(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'nestmq %'`);
    }
    await drained();
    const lane = work.runs.filter(({ key }) => key === 'lane');
    expect([...new Set(lane.map(({ payload }) => payload))]).toEqual(upTo(300));
    expect(lane.filter(({ payload, seq }) => payload !== seq)).toEqual([]);
    const starts = work.steps.filter((step) => /^\d+ /.test(step));
    expect(starts.map((step) => step.endsWith('starts'))).toEqual(starts.map((_, index) => index % 2 === 0));
    const effects = await tables.sql<{ id: string }>('SELECT job_id::text AS id FROM effect ORDER BY job_id');
    expect(effects.map(({ id }) => id)).toEqual(ids.filter((_, index) => (index + 1) % 10 === 0));
    await app.close();
  });

  it('counts against the limit of its handler also while the end of one job is written, before the next starts', async () => {
    let [now, most] = [0, 0];
    const complete: Behaviour = async (job) => {
      most = Math.max(most, (now += 1));
      await app.dataSource.transaction((manager) => job.complete({ manager }));
      now -= 1;
    };
    const { app, work } = await startQuick(complete, { concurrency: 1 });
    await app.queue.pause('work');
    await app.jobs.spawnMany(upTo(60).map((payload) => ({ name: 'work', payload, key: `lane ${payload % 6}` })));
    await app.queue.resume('work');
    await drained();
    expect(most).toBe(1);
    expect(payloadsOf(work, 'lane 0')).toEqual(upTo(10).map((n) => 6 * n));
    await app.close();
  });
});
