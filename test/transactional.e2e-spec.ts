import { beforeEach, describe, expect, it } from '@jest/globals';
import { type HandlerOptions, type Job, type QueueEvent } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { workWith, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const RETRY_AT_ONCE = { type: 'fixed', base: 1, jitter: 0 } as const;

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint, note text, UNIQUE (job_id, note))');
  await tables.sql('CREATE TABLE IF NOT EXISTS shared (id int PRIMARY KEY, total int NOT NULL)');
  await tables.sql('TRUNCATE effect, shared');
});

const has = (app: TestApp, type: QueueEvent['type']): boolean => app.events.some((event) => event.type === type);
const ofJobs = (app: TestApp): string[] => app.events.map(({ type }) => type).filter((type) => type !== 'listening');
const effects = (): Promise<{ job_id: string; note: string }[]> =>
  tables.sql('SELECT job_id::text, note FROM effect ORDER BY job_id, note');

const write = ({ id, manager }: Job, note = 'written'): Promise<unknown> =>
  manager.query('INSERT INTO effect VALUES ($1, $2)', [id, note]);

/** An application with one transactional handler. */
async function boot(behaviour: Behaviour, options: HandlerOptions = {}, queue: object = {}): Promise<TestApp> {
  const Work = workWith({ transactional: true, backoff: RETRY_AT_ONCE, ...options }, behaviour);
  return startApp({ ...database, queue: { ...POLLING_OFF, ...queue }, providers: [Work] });
}

describe('a transactional handler', () => {
  it('writes in one READ COMMITTED transaction, which completes its job', async () => {
    const seen: unknown[] = [];
    const app = await boot(async (job) => {
      await write(job);
      seen.push(...(await job.manager.query(`SELECT current_setting('transaction_isolation') AS level, count(*)::int AS jobs FROM nestmq.job`))); // prettier-ignore
      expect(await effects()).toEqual([]);
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(await effects()).toEqual([{ job_id: id, note: 'written' }]);
    expect(seen).toEqual([{ level: 'read committed', jobs: 1 }]);
    expect(await tables.sql('SELECT xmin::text FROM effect')).toHaveLength(1);
    expect(ofJobs(app)).toEqual(['started', 'completed']);
    await until(() => tables.drained(), { what: 'its lease is gone' });
    await app.close();
  });

  it('has all that it wrote rolled back when it throws, and is retried', async () => {
    const app = await boot(async (job) => {
      await write(job, `attempt ${job.attempt}`);
      if (job.attempt === 1) throw new Error('not yet');
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(await effects()).toEqual([{ job_id: id, note: 'attempt 2' }]);
    expect(ofJobs(app)).toEqual(['started', 'retrying', 'started', 'completed']);
    await app.close();
  });
});
