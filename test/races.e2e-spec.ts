import { beforeEach, describe, expect, it } from '@jest/globals';
import type { QueueEvent } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';
import { startWorker, type WorkerProcess } from './support/workers.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint PRIMARY KEY)');
  await tables.sql('TRUNCATE effect');
});

const count = (app: TestApp, type: QueueEvent['type']): number =>
  app.events.filter((event) => event.type === type).length;
/** Without the runs after a failed one: what the server does not serialize in a handler's own transaction runs again. */
const firstRunsBy = async (workers: readonly WorkerProcess[]): Promise<string[]> => {
  const starts = (await Promise.all(workers.map((worker) => worker.starts()))).flat();
  return starts.flatMap(({ id, attempt }) => (attempt === 1 ? id : []));
};

describe('two processes', () => {
  it.each(['read committed', 'repeatable read', 'serializable'])(
    'under a default of %s never run the same job, and run all of them',
    async (level) => {
      const name = new URL(database.url).pathname.slice(1);
      await tables.sql(`ALTER DATABASE ${name} SET default_transaction_isolation = '${level}'`);
      const producer = await startApp({ ...database, queue: { runner: false }, providers: [workWith()] });
      const workers = await Promise.all([startWorker(database.url), startWorker(database.url)]);
      const ids: string[] = [];
      for (let call = 0; call < 20; call++) {
        const spawned = await producer.jobs.spawnMany(
          Array.from({ length: 20 }, () => ({ name: 'work', payload: 'effect' })),
        );
        ids.push(...spawned.map(({ id }) => id));
      }
      await untilDone(tables);
      expect((await firstRunsBy(workers)).toSorted()).toEqual(ids.toSorted());
      expect(await tables.number('SELECT count(*) FROM effect')).toBe(400);
      await producer.close();
      await tables.sql(`ALTER DATABASE ${name} RESET default_transaction_isolation`);
    },
  );
});

describe('a spawn in a transaction that commits late, under load', () => {
  it('is found without polling, and every job runs exactly once', async () => {
    const ran = new Map<string, number>();
    const Work = workWith({}, ({ id }) => void ran.set(id, (ran.get(id) ?? 0) + 1));
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const ids: string[] = [];
    const spawn = async (options: object = {}): Promise<void> => {
      ids.push((await app.jobs.spawn('work', null, options)).id);
    };
    const late = Array.from({ length: 8 }, () => gate());
    const transactions = late.map(({ opened }, index) =>
      app.dataSource.transaction(async (manager) => {
        await spawn({ manager, priority: index % 2 });
        await opened;
        await spawn({ manager, priority: index % 2 });
      }),
    );
    await until(() => ids.length === late.length, { what: 'every transaction has spawned' });
    for (const [index, { open }] of late.entries()) {
      await Promise.all(Array.from({ length: 100 }, (_, nth) => spawn({ priority: nth % 2 })));
      open();
      await transactions[index];
    }
    await untilDone(tables);
    expect([...ran.keys()].toSorted()).toEqual(ids.toSorted());
    expect([...ran.values()].every((times) => times === 1)).toBe(true);
    await app.close();
  });

  it('into many channels and keys is found as well', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const commit = gate();
    let open = 0;
    const transactions = Array.from({ length: 6 }, (_, index) =>
      app.dataSource.transaction(async (manager) => {
        await app.jobs.spawnMany(
          Array.from({ length: 50 }, (__, nth) => ({
            ...{ name: 'work', payload: null, key: `k${nth % 5}`, channel: `c${(nth + index) % 7}` },
          })),
          { manager },
        );
        open += 1;
        await commit.opened;
      }),
    );
    await until(() => open === 6, { what: 'all are open' });
    await app.jobs.spawnMany(
      Array.from({ length: 300 }, (_, nth) => ({
        name: 'work',
        payload: null,
        key: `k${nth % 5}`,
        channel: `c${nth % 7}`,
      })),
    );
    await until(() => count(app, 'completed') === 300, { what: 'the others are done' });
    commit.open();
    await Promise.all(transactions);
    await untilDone(tables);
    expect(app.get(Work).runs).toHaveLength(600);
    await app.close();
  });
});

describe('the history of 5 000 jobs under kills, errors and late commits', () => {
  const JOBS = 5_000;

  it('shows every committed job completed exactly once, and none lost', async () => {
    const Work = workWith({ retries: Infinity, backoff: { type: 'fixed', base: 20, jitter: 0 } });
    const app = await startApp({
      ...database,
      queue: { runner: false },
      providers: [Work],
    });
    const committed: string[] = [];
    const env = { LEASE_MS: '1000', POLL_MS: '500' };
    let workers = await Promise.all([startWorker(database.url, env), startWorker(database.url, env)]);
    const produce = async (): Promise<void> => {
      while (committed.length < JOBS) {
        const rollsBack = Math.random() < 0.1;
        await app.dataSource
          .transaction(async (manager) => {
            const items = Array.from({ length: 50 }, () => ({ name: 'work', payload: 'chaos' }));
            const spawned = await app.jobs.spawnMany(items, { manager });
            await manager.query('SELECT pg_sleep(random() * 0.05)');
            if (rollsBack) throw new Error('rolled back');
            return spawned;
          })
          .then(
            (spawned) => committed.push(...spawned.map(({ id }) => id)),
            () => undefined,
          );
      }
    };
    const producing = Promise.all([produce(), produce(), produce()]);
    for (let kill = 1; kill <= 3; kill++) {
      await until(() => tables.number(`SELECT (count(*) > ${kill * 400})::int FROM effect`), {
        what: 'some are done',
      });
      const [victim, ...rest] = workers;
      await victim.kill();
      workers = [...rest, await startWorker(database.url, env)];
    }
    await producing;
    await untilDone(tables);
    expect(await tables.number(`SELECT count(*) FROM nestmq.finished_job WHERE state = 'dead'`)).toBe(0);
    const done = await tables.sql<{ job_id: string }>('SELECT job_id::text FROM effect');
    // The unique key on effect.job_id is the other half: nothing was completed twice.
    expect(done.map(({ job_id }) => job_id).toSorted()).toEqual(committed.toSorted());
    await app.close();
  });
});
