import { beforeEach, describe, expect, it } from '@jest/globals';
import { TypeOrmModule } from '@nestjs/typeorm';
import { QueueModule } from 'nestmq';
import { JOBS_PER_PRUNE, pruneJobs } from '../libs/queue/src/statements/prune-jobs.js';
import { run } from '../libs/queue/src/statements/statement.js';
import { POLLING_OFF, startApp } from './support/app.js';
import { boot } from './support/boot.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { openSession } from './support/engine.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

// Ids below zero, where no spawned job's can be.
const finished = (count: number, deleteAt: string | null): Promise<object[]> =>
  tables.sql(
    `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, delete_at, channel, key, name)
     SELECT coalesce((SELECT min(id) FROM nestmq.finished_job), 0) - i, 'completed', 1, 0, now(), now(), now() + $2::interval, 'c', '', 'n'
     FROM generate_series(1, $1::int) AS i`,
    [count, deleteAt],
  );
const kept = (): Promise<number> => tables.number('SELECT count(*) FROM nestmq.finished_job');

const prune = async (): Promise<number> => {
  const session = await openSession(database.url);
  const [count] = await session.transaction((client) => run(client, pruneJobs, {}));
  return count!;
};

describe('pruneJobs', () => {
  it('deletes what is over, and neither what is kept for longer nor what is kept for ever, nor a live job', async () => {
    await finished(3, '-1 second');
    await finished(2, '1 hour');
    await finished(2, null);
    await tables.sql(`INSERT INTO nestmq.job (channel, name) VALUES ('c', 'n')`);
    expect(await prune()).toBe(3);
    expect(await kept()).toBe(4);
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(1);
  });

  it('deletes each job once and answers 0 the second time', async () => {
    await finished(5, '-1 second');
    expect([await prune(), await prune()]).toEqual([5, 0]);
  });

  it('writes nothing when nothing is due', async () => {
    await finished(5, '1 hour');
    const session = await openSession(database.url);
    const xid = await session.transaction(async (client) => {
      expect(await run(client, pruneJobs, {})).toEqual([0]);
      return (await session.pg.query('SELECT pg_current_xact_id_if_assigned() AS xid')).rows[0].xid as unknown;
    });
    expect(xid).toBeNull();
  });

  it('twice at once deletes everything once, in chunks, without waiting for each other', async () => {
    await finished(JOBS_PER_PRUNE * 2 + 7, '-1 second');
    const first = await openSession(database.url);
    const counts = await first.transaction(async (client) => {
      const mine = await run(client, pruneJobs, {});
      // Within the first one's transaction: what it has locked is passed by.
      return [...mine, await prune()];
    });
    expect(counts).toEqual([JOBS_PER_PRUNE, JOBS_PER_PRUNE]);
    expect(await prune()).toBe(7);
    expect(await kept()).toBe(0);
  });
});

describe('pruners of several processes', () => {
  it('at once delete each job once, without an error or a deadlock, and leave what is kept', async () => {
    await finished(JOBS_PER_PRUNE * 6 + 3, '-1 second');
    await finished(2, '1 hour');
    const sessions = await Promise.all(Array.from({ length: 4 }, () => openSession(database.url)));
    const pruned = await Promise.all(
      sessions.map(async (session) => {
        let total = 0;
        for (let chunk = JOBS_PER_PRUNE; chunk > 0; total += chunk) {
          [chunk = 0] = await session.transaction((client) => run(client, pruneJobs, {}));
        }
        return total;
      }),
    );
    expect(pruned.reduce((sum, count) => sum + count)).toBe(JOBS_PER_PRUNE * 6 + 3);
    expect(await kept()).toBe(2);
  });

  it('in runners at once leave nothing that is over, and report no error', async () => {
    await finished(JOBS_PER_PRUNE * 4 + 1, '-1 second');
    await finished(2, '1 hour');
    const start = () =>
      boot({
        imports: [
          TypeOrmModule.forRoot({ type: 'postgres', url: database.url }),
          QueueModule.forRoot({ ...POLLING_OFF, pruneEvery: 100 }),
        ],
        providers: [workWith()],
      });
    const apps = await Promise.all([start(), start(), start()]);
    await until(async () => (await kept()) === 2, { what: 'only those that are kept are left' });
    for (const { close } of apps) await close();
    const complaints = apps.flatMap(({ logged }) => logged).filter((line) => /failed/.test(line));
    expect(complaints).toEqual([]);
  });

  it('keep the count of a lane whose jobs they delete', async () => {
    const Ordered = workWith({ ordered: true, retention: 1 });
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, pruneEvery: 100 }, providers: [Ordered] });
    await app.jobs.spawnMany([1, 2, 3].map((payload) => ({ name: 'work', payload, key: 'k' })));
    await untilDone(tables);
    await until(async () => (await kept()) === 0, { what: 'all are pruned' });
    await app.jobs.spawn('work', 4, { key: 'k' });
    const work = app.get(Ordered);
    await until(() => work.runs.length === 4, { what: 'the next one runs' });
    expect(work.runs.map(({ seq }) => seq)).toEqual([1, 2, 3, 4]);
    await app.close();
  });
});

describe('the pruner of a runner', () => {
  it('prunes everything that is over, however many chunks, and what finishes meanwhile at its next turn', async () => {
    await finished(JOBS_PER_PRUNE * 2 + 7, '-1 second');
    await finished(1, '1 hour');
    const Work = workWith({ retention: 1 });
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, pruneEvery: 100 }, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(
      async () => app.get(Work).runs.length > 0 && (await app.queue.get(id)) === null && (await kept()) === 1,
      {
        what: 'only the one that is kept is left',
      },
    );
    await app.close();
  });

  it('forgets runners that are dead and have nothing left', async () => {
    await tables.sql(`INSERT INTO nestmq.runner (id, host, pid, dead_at) VALUES (7, 'gone', 1, now())`);
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, pruneEvery: 100 }, providers: [workWith()] });
    await until(() => tables.number(`SELECT (count(*) = 0)::int FROM nestmq.runner WHERE host = 'gone'`), {
      what: 'it is forgotten',
    });
    await app.close();
  });
});

describe('an application from spawn to prune', () => {
  it('leaves all tables empty, and nobody dead', async () => {
    const app = await startApp({
      ...database,
      queue: { ...POLLING_OFF, pruneEvery: 100 },
      providers: [workWith({ retention: 1 })],
    });
    await app.jobs.spawnMany(Array.from({ length: 3 }, () => ({ name: 'work', payload: null })));
    await untilDone(tables);
    await until(async () => (await kept()) === 0, { what: 'all are pruned' });
    expect(app.events.filter(({ type }) => type === 'completed')).toHaveLength(3);
    await app.close();
    expect(await tables.number('SELECT count(*) FROM nestmq.runner')).toBe(0);
  });
});
