import { beforeEach, describe, expect, it, jest } from '@jest/globals';
import pg from 'pg';
import { startApp, type TestApp } from './support/app.js';
import { startChild, type Child } from './support/child.js';
import { ExactlyOnce } from './support/exactly-once.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { takeTime } from './support/work.js';

jest.setTimeout(300_000);

const database = useDatabase();
const tables = useTables(database);

beforeEach(async () => {
  await tables.clear();
  // Nothing but the transaction keeps an effect from being there twice.
  await tables.sql('DROP TABLE IF EXISTS effect');
  await tables.sql('CREATE TABLE effect (job_id bigint NOT NULL, note text NOT NULL)');
});

const spawner = (): Promise<TestApp> => startApp({ ...database, queue: { runner: false, openNames: true } });

/** Goes on in this process where the other one was ended. */
const survivor = (): Promise<TestApp> =>
  startApp({ ...database, queue: { leaseMs: 1_000, pollMs: 500 }, providers: [ExactlyOnce] });

async function startWorker(env: Record<string, string> = {}): Promise<Child> {
  const child = startChild('transactional-worker.ts', { URL: database.url, ...env });
  await child.message<{ type?: string }>(({ type }) => type === 'ready', 'it has booted', 60_000);
  return child;
}

const spawn = async (app: TestApp, payloads: readonly string[]): Promise<string[]> =>
  (await app.jobs.spawnMany(payloads.map((payload) => ({ name: 'work', payload, channel: 'work' })))).map(
    ({ id }) => id,
  );

const done = (): Promise<unknown> => untilDone(tables);

/** Each job has left each of its effects once, and its follow-up has run once. */
async function expectExactlyOnce(ids: readonly string[]): Promise<void> {
  const rows = await tables.sql<{ job_id: string; notes: string[] }>(
    'SELECT job_id::text, array_agg(note ORDER BY note) AS notes FROM effect GROUP BY job_id ORDER BY effect.job_id',
  );
  expect(rows).toEqual(ids.map((job_id) => ({ job_id, notes: ['followed', 'written'] })));
}

/** A session that holds an advisory lock, on which triggers of the test wait. */
async function holdLock(): Promise<{ release: () => Promise<void> }> {
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  await client.query('SELECT pg_advisory_lock(42)');
  return { release: () => client.end() };
}

const waiting = (): Promise<number> =>
  tables.number(`SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted`);

describe('kill -9 of a process in the middle of a transactional run', () => {
  it.each([
    'before the first statement',
    'behind the first statement',
    'behind the spawn',
    'before the commit',
    'while the commit is sent',
    'behind the commit',
  ])('%s leaves each effect exactly once', async (moment) => {
    const app = await spawner();
    const first = await startWorker({ CONCURRENCY: '1', DIES: '1' });
    const [id] = await spawn(app, [moment]);
    expect(await first.exit()).toBe('SIGKILL');
    const second = await survivor();
    await done();
    await expectExactlyOnce([id!]);
    await Promise.all([app.close(), second.close()]);
  });

  it('between its completion and the end of its COMMIT commits what the server has been told to, and nothing runs again', async () => {
    // A deferred constraint is checked by COMMIT, behind the completion.
    await tables.sql(`CREATE OR REPLACE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NULL; END $$`);
    await tables.sql(`CREATE CONSTRAINT TRIGGER wait_for_test AFTER INSERT ON effect
      DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_for_test()`);
    const app = await spawner();
    const lock = await holdLock();
    const first = await startWorker();
    const [id] = await spawn(app, ['never']);
    await until(waiting, { what: 'its COMMIT is under way' });
    await first.kill();
    const second = await survivor();
    await until(() => tables.number('SELECT count(*) FROM nestmq.runner WHERE dead_at IS NOT NULL'), {
      what: 'the process is declared dead',
    });
    await lock.release();
    await done();
    await expectExactlyOnce([id!]);
    await Promise.all([app.close(), second.close()]);
  });

  it('in the middle of a statement of its handler rolls back what that does afterwards', async () => {
    await tables.sql(`CREATE OR REPLACE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$`);
    await tables.sql(
      `CREATE TRIGGER wait_for_test BEFORE INSERT ON effect FOR EACH ROW EXECUTE FUNCTION wait_for_test()`,
    );
    const app = await spawner();
    const lock = await holdLock();
    const first = await startWorker();
    const [id] = await spawn(app, ['never']);
    await until(waiting, { what: 'its INSERT is under way' });
    await first.kill();
    await lock.release();
    const second = await survivor();
    await done();
    await expectExactlyOnce([id!]);
    await Promise.all([app.close(), second.close()]);
  });

  it('at random, again and again, leaves the effects of hundreds of jobs exactly once', async () => {
    const app = await spawner();
    const ids = await spawn(app, Array<string>(400).fill('never'));
    for (let kills = 0; kills < 3; kills++) {
      const worker = await startWorker();
      // Somewhere in the middle of its runs: of some it has sent the COMMIT, of some not.
      const before = await tables.number('SELECT count(*) FROM effect');
      await until(
        async () => (await tables.number('SELECT count(*) FROM effect')) > before || (await tables.drained()),
        {
          what: 'it works',
        },
      );
      await takeTime(Math.random() * 30);
      await worker.kill();
    }
    const last = await survivor();
    await done();
    await expectExactlyOnce(ids);
    await Promise.all([app.close(), last.close()]);
  });
});
