import { beforeEach } from '@jest/globals';
import { startApp, type TestApp } from './app.js';
import { untilDone } from './events.js';
import { laneWith } from './lanes.js';
import type { Tables } from './tables.js';
import { until } from './until.js';
import { startWorker, type WorkerProcess } from './workers.js';

/** What a handler of `processes/worker.ts` has written of its run. */
export interface Step {
  readonly what: 'starts' | 'ends' | 'fails';
  readonly id: string;
  readonly seq: number;
  readonly attempt: number;
  readonly pid: number;
}

/** Quick rescues, lanes in order; the poll is off, so that nothing runs by chance. */
export const LANES = { LEASE_MS: '1000', ORDERED: 'true' };
/** The same, and a lane is leased for its head alone. */
export const ONE_BY_ONE = { ...LANES, PREFETCH_MS: '0' };
/** The same, and a lane of quick jobs is leased for hundreds of them. */
export const MANY = { ...LANES, PREFETCH_MS: '1000' };

/** The same, and jobs come in batches. */
export const BATCHES = { ...LANES, BATCH: '5' };

/** Processes that work in lanes, and what they did, in the order of the database. */
export function useLaneProcesses(database: { readonly url: string }, tables: Tables) {
  beforeEach(async () => {
    await tables.clear();
    await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint PRIMARY KEY)');
    await tables.sql(`CREATE TABLE IF NOT EXISTS step (
      n bigint GENERATED ALWAYS AS IDENTITY, what text, job_id bigint, key text, seq int, attempt int, pid int)`);
    await tables.sql('TRUNCATE effect, step');
  });
  const stepsOf = (key: string): Promise<Step[]> =>
    tables.sql<Step & object>(
      'SELECT what, job_id::text AS id, seq, attempt, pid FROM step WHERE key = $1 ORDER BY n',
      [key],
    );
  return {
    stepsOf,
    startsOf: async (key: string): Promise<Step[]> => (await stepsOf(key)).filter(({ what }) => what === 'starts'),
    drained: (): Promise<boolean> => untilDone(tables),
    /** An application that only sends. */
    startSender: async (): Promise<{ app: TestApp; send: (task: string, key?: string) => Promise<string> }> => {
      const Work = laneWith({ retries: 20, backoff: { type: 'fixed', base: 20, jitter: 0 } });
      const app = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
      return { app, send: async (task, key = 'lane') => (await app.jobs.spawn('work', task, { key })).id };
    },
    /** Two processes, both of which run jobs by now. */
    startTwo: async (env: Record<string, string>): Promise<WorkerProcess[]> => {
      const workers = await Promise.all([startWorker(database.url, env), startWorker(database.url, env)]);
      await until(() => tables.number('SELECT (count(*) = 2)::int FROM nestmq.runner'), {
        what: 'both processes run jobs',
      });
      return workers;
    },
  };
}
