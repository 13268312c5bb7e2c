import { beforeEach, describe, expect, it } from '@jest/globals';
import { startApp, type TestApp } from './support/app.js';
import { startChild, type Child } from './support/child.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { ExactlyOnceBatches, type BatchTask } from './support/exactly-once-batches.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { takeTime } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(async () => {
  await tables.clear();
  // Nothing but the transaction keeps an effect from being there twice.
  await tables.sql('DROP TABLE IF EXISTS effect');
  await tables.sql('CREATE TABLE effect (job_id bigint NOT NULL, note text NOT NULL)');
});

const startSender = (): Promise<TestApp> => startApp({ ...database, queue: { runner: false, openNames: true } });

/** Goes on in this process where the other one was ended. */
const survivor = (): Promise<TestApp> =>
  startApp({ ...database, queue: { leaseMs: 1_000, pollMs: 500 }, providers: [ExactlyOnceBatches] });

async function startWorker(env: Record<string, string> = {}): Promise<Child> {
  const child = startChild('transactional-worker.ts', { URL: database.url, BATCHES: '1', ...env });
  await child.message<{ type?: string }>(({ type }) => type === 'ready', 'it has booted');
  return child;
}

async function send(app: TestApp, name: string, tasks: readonly BatchTask[], key = ''): Promise<string[]> {
  const ordered = key !== '';
  const answers = await app.jobs.spawnMany(
    tasks.map((payload) => ({ name, payload, channel: 'work', key, ...(ordered && { ordered }) })),
  );
  return answers.map(({ id }) => id);
}

const done = (): Promise<unknown> => untilDone(tables);

/** Each of these jobs has left each of its effects once, and its follow-up has run once; no other has left any. */
async function expectExactlyOnce(ids: readonly string[]): Promise<void> {
  const rows = await tables.sql<{ job_id: string; notes: string[] }>(
    'SELECT job_id::text, array_agg(note ORDER BY note) AS notes FROM effect GROUP BY job_id ORDER BY effect.job_id',
  );
  expect(rows).toEqual(ids.map((job_id) => ({ job_id, notes: ['followed', 'written'] })));
}

const MOMENTS = [
  'before the third job',
  'behind a statement of the third job',
  'behind the third job',
  'before the commit',
  'while the commit is sent',
  'behind the commit',
] as const;

/** A batch of five is ended with its process, and another process goes on. */
async function crash(name: string, tasks: readonly BatchTask[]): Promise<string[]> {
  const app = await startSender();
  const first = await startWorker({ CONCURRENCY: '1', DIES: '1' });
  const ids = await send(app, name, tasks);
  expect(await first.exit()).toBe('SIGKILL');
  expect(first.messages).toContainEqual({ type: 'batch', size: 5 });
  const second = await survivor();
  await done();
  await Promise.all([app.close(), second.close()]);
  return ids;
}

describe('kill -9 of a process in the middle of a transactional batch', () => {
  it.each(MOMENTS)('%s leaves the effects of each of its jobs exactly once', async (moment) => {
    const ids = await crash('together', Array<BatchTask>(5).fill({ moment }));
    await expectExactlyOnce(ids);
    expect(await tables.number('SELECT count(*) FROM nestmq.finished_job')).toBe(0);
  });

  it.each(MOMENTS)(
    '%s, where each has a savepoint and one is rejected, leaves the effects of the others exactly once, and none of that one',
    async (moment) => {
      const ids = await crash('each', [1, 2, 3, 4, 5].map((nth) => ({ moment, rejects: nth === 3 }))); // prettier-ignore
      await expectExactlyOnce(ids.filter((_, index) => index !== 2));
      expect(await tables.sql('SELECT id::text, state, reason FROM nestmq.finished_job')).toEqual([
        { id: ids[2], state: 'dead', reason: 'rejected' },
      ]);
    },
  );

  it.each([
    ['hundreds of jobs', ''],
    ['the jobs of a lane', 'lane'],
  ])('at random, again and again, leaves the effects of %s exactly once', async (_, key) => {
    const app = await startSender();
    const tasks = Array<BatchTask>(150).fill({ moment: 'never' });
    const ids = [...(await send(app, 'together', tasks, key)), ...(await send(app, 'each', tasks, key))];
    for (let kills = 0; kills < 3; kills++) {
      const worker = await startWorker();
      // Somewhere in the middle of its batches: of some it has sent the COMMIT, of some not.
      const before = await tables.number('SELECT count(*) FROM effect');
      await until(
        async () => (await tables.number('SELECT count(*) FROM effect')) > before || (await tables.drained()),
        { what: 'it works' },
      );
      await takeTime(Math.random() * 20);
      await worker.kill();
    }
    const last = await survivor();
    await done();
    await expectExactlyOnce(ids);
    await Promise.all([app.close(), last.close()]);
  });
});
