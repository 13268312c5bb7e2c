import {
  createPostgresBackend,
  createRedisBackend,
  Job as BullJob,
  withBackend,
  type BulkJobOptions,
  type Queue,
  type Worker,
} from 'bullmq';
import { CONCURRENCY, POOL_SIZE, type Client, type NewJob, type Payload, type Place, type System, type Use } from './system.js'; // prettier-ignore

const QUEUE = 'letters';

/** Jobs at once in its throughput guide's examples of handlers that wait: https://docs.bullmq.io/guide/workers/concurrency */
const FAST = { concurrency: 100, removeOnComplete: { count: 0 } };

interface Opened {
  readonly queue: Pick<Queue<Payload>, 'add' | 'addBulk' | 'getJobCounts' | 'obliterate' | 'waitUntilReady' | 'close'>;
  readonly worker: Pick<Worker, 'waitUntilReady' | 'close'> | null;
}
type Process = (job: BullJob<Payload>) => Promise<void>;
type Settings = { readonly concurrency: number; readonly removeOnComplete?: { count: number } };

const onRedis =
  (settings: Settings) =>
  ({ redis }: Place, process: Process | null): Opened => {
    const { Queue, Worker } = withBackend(createRedisBackend);
    const { hostname: host, port, pathname } = new URL(redis!);
    const connection = { host, port: Number(port), db: Number(pathname.slice(1)), maxRetriesPerRequest: null };
    return {
      queue: new Queue<Payload>(QUEUE, { connection }),
      worker: process && new Worker<Payload, void>(QUEUE, process, { connection, ...settings }),
    };
  };

const onPostgres =
  (settings: Settings) =>
  ({ postgres }: Place, process: Process | null): Opened => {
    const { Queue, Worker } = withBackend(createPostgresBackend);
    const connection = { connectionString: postgres, max: POOL_SIZE, migrate: true };
    return {
      queue: new Queue<Payload>(QUEUE, { connection }),
      worker: process && new Worker<Payload, void>(QUEUE, process, { connection, ...settings }),
    };
  };

export const bullmqRedis = systemWith(onRedis({ concurrency: CONCURRENCY }));
export const bullmqRedisFast = systemWith(onRedis(FAST));
export const bullmqPostgres = systemWith(onPostgres({ concurrency: CONCURRENCY }));
export const bullmqPostgresFast = systemWith(onPostgres(FAST));

function systemWith(connect: (place: Place, process: Process | null) => Opened): System {
  return {
    install: async (place) => {
      const { queue } = connect(place, null);
      await queue.waitUntilReady();
      await queue.close();
    },
    open: (place, use) => open(connect(place, processOf(use)), use),
  };
}

async function open({ queue, worker }: Opened, use: Use): Promise<Client> {
  if (use.ordered) throw new Error('BullMQ keeps order by key in its paid edition only.');
  await Promise.all([queue.waitUntilReady(), worker?.waitUntilReady()]);
  const optionsOf = ({ delaySeconds }: NewJob): BulkJobOptions =>
    delaySeconds > 0 ? { delay: delaySeconds * 1_000 } : {};
  return {
    send: (job) => queue.add(job.name, job.payload, optionsOf(job)),
    sendMany: (jobs) => queue.addBulk(jobs.map((job) => ({ name: job.name, data: job.payload, opts: optionsOf(job) }))),
    transactions: null,
    countUnfinished: async () => {
      const counts = await queue.getJobCounts('waiting', 'active', 'delayed', 'prioritized');
      return Object.values(counts).reduce((sum, count) => sum + count, 0);
    },
    clear: () => queue.obliterate({ force: true }),
    close: async () => {
      await worker?.close();
      await queue.close();
    },
  };
}

/** One processor for all names, as its documentation does. */
function processOf({ work }: Use): Process | null {
  switch (work?.kind) {
    case undefined:
      return null;
    case 'plain':
      return (job) => work.run(job.data.n);
    case 'checkpoints':
      return (job) => work.run(job.data.n, (step) => job.updateProgress(step));
    default:
      throw new Error(`BullMQ has no ${work?.kind}.`);
  }
}
