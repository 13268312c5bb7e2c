import type { System } from './system.js';

/** What the bench knows of a system before it loads it: that happens in the processes that use it. */
export interface SystemEntry {
  /** On the command line, and in the JSON file. */
  readonly name: string;
  /** In tables and plots. */
  readonly label: string;
  /** What was set, or that nothing was. */
  readonly settings: string;
  readonly group: 'nestmq' | 'peer' | 'raw';
  readonly tuned: boolean;
  readonly server: 'postgres' | 'redis';
  /** Where its version stands. */
  readonly package: string | null;
  /** Jobs a second that it does, roughly: gives its runs a size that takes seconds. */
  readonly pace: number;
  readonly does: readonly Feature[];
  load(): Promise<System>;
}

export type Feature =
  'transactional spawn' | 'transactional' | 'batch' | 'transactional batch' | 'checkpoints' | 'order' | 'many names';

const loadGraphile = (): Promise<typeof import('./graphile-worker.js')> => import('./graphile-worker.js');
const loadBoss = (): Promise<typeof import('./pg-boss.js')> => import('./pg-boss.js');
const loadBull = (): Promise<typeof import('./bullmq.js')> => import('./bullmq.js');

export const SYSTEMS: readonly SystemEntry[] = [
  {
    name: 'nestmq',
    label: 'nestmq',
    settings: 'default options',
    group: 'nestmq',
    tuned: false,
    server: 'postgres',
    package: null,
    pace: 100_000,
    does: [
      'transactional spawn',
      'transactional',
      'batch',
      'transactional batch',
      'checkpoints',
      'order',
      'many names',
    ],
    load: async () => (await import('./nestmq.js')).nestmq,
  },
  {
    name: 'graphile-worker',
    label: 'graphile-worker',
    settings: 'defaults, concurrentJobs 10',
    group: 'peer',
    tuned: false,
    server: 'postgres',
    package: 'graphile-worker',
    pace: 2_000,
    does: ['transactional spawn', 'order', 'many names'],
    load: async () => (await loadGraphile()).graphileWorker,
  },
  {
    name: 'graphile-worker-fast',
    label: 'graphile-worker, tuned',
    settings: 'concurrentJobs 24, localQueue.size 500, completeJobBatchDelay 0, failJobBatchDelay 0',
    group: 'peer',
    tuned: true,
    server: 'postgres',
    package: 'graphile-worker',
    pace: 30_000,
    does: ['transactional spawn', 'order', 'many names'],
    load: async () => (await loadGraphile()).graphileWorkerFast,
  },
  {
    name: 'pg-boss',
    label: 'pg-boss',
    settings: 'defaults, localConcurrency 10',
    group: 'peer',
    tuned: false,
    server: 'postgres',
    package: 'pg-boss',
    pace: 5,
    does: ['transactional spawn', 'transactional', 'batch', 'transactional batch', 'order'],
    load: async () => (await loadBoss()).pgBoss,
  },
  {
    name: 'pg-boss-fast',
    label: 'pg-boss, tuned',
    settings:
      'useListenNotify, batchSize 1000, burstWhenBatchFull, localConcurrency 4, pollingIntervalSeconds 0.5; ordered: fetch and complete of 1000 in 4 loops',
    group: 'peer',
    tuned: true,
    server: 'postgres',
    package: 'pg-boss',
    pace: 20_000,
    does: ['transactional spawn', 'transactional', 'batch', 'transactional batch', 'order'],
    load: async () => (await loadBoss()).pgBossFast,
  },
  {
    name: 'bullmq-redis',
    label: 'BullMQ on Redis',
    settings: 'defaults, concurrency 10',
    group: 'peer',
    tuned: false,
    server: 'redis',
    package: 'bullmq',
    pace: 8_000,
    does: ['checkpoints', 'many names'],
    load: async () => (await loadBull()).bullmqRedis,
  },
  {
    name: 'bullmq-redis-fast',
    label: 'BullMQ on Redis, tuned',
    settings: 'concurrency 100, removeOnComplete 0',
    group: 'peer',
    tuned: true,
    server: 'redis',
    package: 'bullmq',
    pace: 12_000,
    does: ['checkpoints', 'many names'],
    load: async () => (await loadBull()).bullmqRedisFast,
  },
  {
    name: 'bullmq-postgres',
    label: 'BullMQ on Postgres',
    settings: 'defaults, concurrency 10',
    group: 'peer',
    tuned: false,
    server: 'postgres',
    package: 'bullmq',
    pace: 800,
    does: ['checkpoints', 'many names'],
    load: async () => (await loadBull()).bullmqPostgres,
  },
  {
    name: 'bullmq-postgres-fast',
    label: 'BullMQ on Postgres, tuned',
    settings: 'concurrency 100, removeOnComplete 0',
    group: 'peer',
    tuned: true,
    server: 'postgres',
    package: 'bullmq',
    pace: 1_000,
    does: ['checkpoints', 'many names'],
    load: async () => (await loadBull()).bullmqPostgresFast,
  },
  {
    name: 'raw',
    label: 'raw SQL',
    settings: 'UPDATE … RETURNING with SKIP LOCKED by 500, batched DELETE',
    group: 'raw',
    tuned: false,
    server: 'postgres',
    package: null,
    pace: 150_000,
    does: ['transactional spawn', 'transactional'],
    load: async () => (await import('./raw-sql.js')).rawSql,
  },
];
