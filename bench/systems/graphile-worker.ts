import { Logger, makeWorkerUtils, run, type TaskList, type TaskSpec } from 'graphile-worker';
import pg from 'pg';
import { OwnTransactions } from './transactions.js';
import { CONCURRENCY, POOL_SIZE, type Client, type NewJob, type Payload, type System, type Use } from './system.js';

/** A line for every job would be most of the work. */
const logger = new Logger(() => () => undefined);

type WorkerPreset = NonNullable<GraphileConfig.Preset['worker']>;

/** As it comes, but for the jobs at once. */
export const graphileWorker = systemWith({ concurrentJobs: CONCURRENCY });

/** As its performance page says for throughput: https://worker.graphile.org/docs/performance */
export const graphileWorkerFast = systemWith({
  concurrentJobs: 24,
  maxPoolSize: 26,
  localQueue: { size: 500 },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
});

function systemWith(settings: WorkerPreset): System {
  return {
    install: async ({ postgres }) => {
      const utils = await makeWorkerUtils({ connectionString: postgres, logger });
      await utils.migrate();
      await utils.release();
    },
    open: ({ postgres }, use) => open(postgres, use, settings),
  };
}

async function open(connectionString: string, use: Use, settings: WorkerPreset): Promise<Client> {
  const pool = new pg.Pool({ connectionString, max: 1 }); // for counting and removing jobs
  const transactions = new OwnTransactions(connectionString, (manager, { name, payload }) =>
    manager.query('SELECT graphile_worker.add_job($1, $2::json)', [name, JSON.stringify(payload)]),
  );
  const utils = await makeWorkerUtils({ connectionString, maxPoolSize: POOL_SIZE, logger });
  const runner =
    use.work === null
      ? null
      : await run({
          preset: { worker: { connectionString, ...settings } },
          logger,
          parsedCronItems: [],
          taskList: tasksOf(use),
          noHandleSignals: true,
        });
  // The jobs of one `addJobs` get their ids in no order, and one `runAt`: so it is given, a millisecond apart.
  const yesterday = Date.now() - 86_400_000;
  const specOf = (job: NewJob): Pick<TaskSpec, 'queueName' | 'runAt'> => ({
    ...(use.ordered && job.key !== null && { queueName: job.key, runAt: new Date(yesterday + job.payload.n) }),
    ...(job.delaySeconds > 0 && { runAt: new Date(Date.now() + job.delaySeconds * 1_000) }),
  });
  return {
    send: (job) => utils.addJob(job.name, job.payload, specOf(job)),
    sendMany: (jobs) =>
      utils.addJobs(jobs.map((job) => ({ identifier: job.name, payload: job.payload, ...specOf(job) }))),
    transactions,
    countUnfinished: async () => {
      const { rows } = await pool.query<{ count: number }>('SELECT count(*)::int AS count FROM graphile_worker.jobs');
      return rows[0]!.count;
    },
    clear: async () => void (await pool.query('TRUNCATE graphile_worker._private_jobs')),
    close: async () => {
      await runner?.stop();
      await utils.release();
      await Promise.all([pool.end(), transactions.close()]);
    },
  };
}

function tasksOf({ names, work }: Use): TaskList {
  return Object.fromEntries(
    names.map((name) => [
      name,
      async (payload) => {
        const { n } = payload as Payload;
        if (work?.kind !== 'plain') throw new Error(`graphile-worker has no ${work?.kind}.`);
        await work.run(n);
      },
    ]),
  );
}
