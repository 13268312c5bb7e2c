import { setTimeout as sleep } from 'node:timers/promises';
import { PgBoss, type ConstructorOptions, type Job, type JobInsert, type Queue, type WorkOptions } from 'pg-boss';
import pg from 'pg';
import { OwnTransactions } from './transactions.js';
import { CONCURRENCY, POOL_SIZE, type Client, type NewJob, type Payload, type System, type Use, type Work } from './system.js'; // prettier-ignore

interface Settings {
  readonly boss: ConstructorOptions;
  readonly queue: Partial<Queue>;
  readonly work: WorkOptions;
  /** Of ordered jobs only one a key comes in a batch; `work` then sleeps until its next poll, as the batch is not full. */
  readonly fetchOrdered: boolean;
}

const BATCH = 1_000;
const LOOPS = 4;

/** As it comes, but for the workers at once: each fetches one job and polls every two seconds. */
export const pgBoss = systemWith({ boss: {}, queue: {}, work: { localConcurrency: CONCURRENCY }, fetchOrdered: false });

/** Woken by NOTIFY, in batches of 1 000, and without a pause while batches are full. */
export const pgBossFast = systemWith({
  boss: { useListenNotify: true },
  queue: { notify: true },
  work: { batchSize: BATCH, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5, localConcurrency: LOOPS },
  fetchOrdered: true,
});

function systemWith(settings: Settings): System {
  return {
    install: async ({ postgres }) => {
      const boss = await start(postgres, settings);
      await boss.stop();
    },
    open: ({ postgres }, use) => open(postgres, use, settings),
  };
}

async function start(connectionString: string, { boss: options }: Settings): Promise<PgBoss> {
  const boss = new PgBoss({ connectionString, max: POOL_SIZE, ...options });
  boss.on('error', console.error);
  await boss.start();
  return boss;
}

async function open(connectionString: string, use: Use, settings: Settings): Promise<Client> {
  const boss = await start(connectionString, settings);
  const pool = new pg.Pool({ connectionString, max: 1 }); // for counting jobs
  const transactions = new OwnTransactions(connectionString, (manager, { name, payload }) => {
    const executeSql = async (text: string, values?: unknown[]): Promise<{ rows: any[] }> => ({ rows: await manager.query(text, values) }); // prettier-ignore
    return boss.send(name, payload, { db: { executeSql } });
  });
  for (const name of use.names)
    await boss.createQueue(name, { ...settings.queue, ...(use.ordered && { policy: 'key_strict_fifo' }) });
  const loops = new FetchLoops(boss);
  for (const name of use.work === null ? [] : use.names)
    if (use.ordered && settings.fetchOrdered) loops.start(name, use.work!);
    else await startWork(boss, name, use.work!, settings.work);

  const optionsOf = ({ key, delaySeconds, payload }: NewJob): JobInsert => ({
    ...(use.ordered && key !== null && { singletonKey: key, id: idOf(payload.n) }),
    ...(delaySeconds > 0 && { startAfter: delaySeconds }),
  });
  return {
    send: (job) => boss.send(job.name, job.payload, optionsOf(job)),
    sendMany: async (jobs) => {
      for (const [name, group] of groupByName(jobs))
        await boss.insert(name, group.map((job) => ({ data: job.payload, ...optionsOf(job) }))); // prettier-ignore
    },
    transactions,
    countUnfinished: async () => {
      const { rows } = await pool.query<{ count: number }>(
        `SELECT count(*)::int AS count FROM pgboss.job WHERE name = ANY ($1) AND state < 'completed'`,
        [use.names],
      );
      return rows[0]!.count;
    },
    clear: async () => {
      for (const name of use.names) await boss.deleteAllJobs(name);
    },
    close: async () => {
      await loops.stop();
      await boss.stop({ timeout: 5_000 });
      await Promise.all([pool.end(), transactions.close()]);
    },
  };
}

async function startWork(boss: PgBoss, name: string, work: Work, options: WorkOptions): Promise<void> {
  const numbersOf = (jobs: Job<Payload>[]): number[] => jobs.map(({ data }) => data.n);
  if (work.kind === 'plain')
    await boss.work(name, options, async (jobs: Job<Payload>[]) => {
      for (const n of numbersOf(jobs)) await work.run(n);
    });
  else if (work.kind === 'transactional')
    await boss.work(name, { ...options, transactional: true }, async (jobs: Job<Payload>[], tx) => {
      for (const n of numbersOf(jobs)) await work.run(n, (text, values) => tx.executeSql(text, values));
    });
  else if (work.kind === 'transactional batch')
    await boss.work(name, { ...options, batchSize: work.size, transactional: true }, async (jobs: Job<Payload>[], tx) =>
      work.run(numbersOf(jobs), (text, values) => tx.executeSql(text, values)),
    );
  else if (work.kind === 'batch')
    await boss.work(name, { ...options, batchSize: work.size }, (jobs: Job<Payload>[]) => work.run(numbersOf(jobs)));
  else throw new Error(`pg-boss has no ${work.kind}.`);
}

/** `fetch` and `complete` in a loop of one's own, which its documentation has beside `work`. */
class FetchLoops {
  private readonly running: Promise<void>[] = [];
  private stopping = false;

  constructor(private readonly boss: PgBoss) {}

  start(name: string, work: Work): void {
    for (let loop = 0; loop < LOOPS; loop++) this.running.push(this.loop(name, work));
  }

  async stop(): Promise<void> {
    this.stopping = true;
    await Promise.all(this.running);
  }

  private async loop(name: string, work: Work): Promise<void> {
    if (work.kind !== 'plain') throw new Error(`There is no ${work.kind} in a loop.`);
    while (!this.stopping) {
      const jobs = await this.boss.fetch<Payload>(name, { batchSize: BATCH });
      for (const { data } of jobs) await work.run(data.n);
      if (jobs.length > 0)
        await this.boss.complete(name, jobs.map(({ id }) => id)); // prettier-ignore
      else await sleep(5);
    }
  }
}

/** Jobs of one call are created at the same time, and ordered by their ids, which are random where they are not given. */
const idOf = (n: number): string => `00000000-0000-7000-8000-${n.toString(16).padStart(12, '0')}`;

/** `insert` takes the jobs of one queue. */
function groupByName(jobs: readonly NewJob[]): Map<string, NewJob[]> {
  const groups = new Map<string, NewJob[]>();
  for (const job of jobs) {
    const group = groups.get(job.name);
    if (group === undefined) groups.set(job.name, [job]);
    else group.push(job);
  }
  return groups;
}
