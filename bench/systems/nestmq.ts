import { Injectable, Module, type Type } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import {
  JobHandler,
  JobSpawner,
  QueueModule,
  type HandlerOptions,
  type Job,
  type JobBatch,
  type SpawnItem,
} from 'nestmq';
import { migrate, queueMigrations } from 'nestmq/migrations';
import { DataSource } from 'typeorm';
import { POOL_SIZE, type Client, type NewJob, type Payload, type System, type Use, type Work } from './system.js';

const CHANNEL = 'letters';

/** The one option that is not the default: a payload of 64 KiB and its envelope are just above it. */
const MAX_PAYLOAD_BYTES = 2 ** 20;

/** A Nest application as users write it, with the queue at its default options but for the size of payloads. */
export const nestmq: System = {
  install: async ({ postgres }) => {
    const dataSource = await new DataSource({
      type: 'postgres',
      url: postgres,
      migrations: [...queueMigrations],
    }).initialize();
    await migrate(dataSource);
    await dataSource.destroy();
  },

  open: async ({ postgres }, use): Promise<Client> => {
    @Module({
      imports: [
        TypeOrmModule.forRoot({ type: 'postgres', url: postgres, poolSize: POOL_SIZE }),
        QueueModule.forRoot({ runner: use.work !== null, maxPayloadBytes: MAX_PAYLOAD_BYTES }),
      ],
      providers: [handlersOf(use)],
    })
    class BenchModule {}
    const app = await NestFactory.createApplicationContext(BenchModule, { logger: ['warn', 'error'] });
    app.enableShutdownHooks();
    const jobs = app.get(JobSpawner);
    const dataSource = app.get(DataSource);
    const itemOf = (job: NewJob): SpawnItem<Payload> & { name: string } => ({ ...optionsOf(job, use), name: job.name, payload: job.payload }); // prettier-ignore
    return {
      send: (job) => jobs.spawn(job.name, job.payload, optionsOf(job, use)),
      sendMany: (many) => jobs.spawnMany(many.map(itemOf)),
      transactions: {
        run: (work) => dataSource.transaction(work),
        send: (manager, job) => jobs.spawn(job.name, job.payload, { ...optionsOf(job, use), manager }),
      },
      countUnfinished: async () => {
        const [row] = await dataSource.query<{ count: number }[]>('SELECT count(*)::int AS count FROM nestmq.job');
        return row!.count;
      },
      clear: () => dataSource.query('TRUNCATE nestmq.job, nestmq.lane, nestmq.lease, nestmq.finished_job'),
      close: () => app.close(),
    };
  },
};

const optionsOf = ({ key, delaySeconds }: NewJob, { ordered }: Use): Pick<SpawnItem, 'key' | 'ordered' | 'delay'> => ({
  ...(key !== null && { key, ordered }),
  ...(delaySeconds > 0 && { delay: `${delaySeconds}s` as const }),
});

/** A class with a handler for each name. Applications write it down: `@JobHandler('letters') async send(job) { … }`. */
function handlersOf({ names, work }: Use): Type {
  const { options, handler } = handlingOf(work);
  class Letters {
    readonly queue = CHANNEL;
  }
  for (const name of names) {
    const descriptor = { value: (given: Job<never>) => handler(given as never), configurable: true, writable: true };
    Object.defineProperty(Letters.prototype, name, descriptor);
    JobHandler(CHANNEL, { ...options, name })(Letters.prototype, name, descriptor);
  }
  Injectable()(Letters);
  return Letters;
}

interface Handling {
  readonly options: HandlerOptions;
  readonly handler: (given: never) => Promise<void>;
}

function handlingOf(work: Work | null): Handling {
  if (work === null) return { options: {}, handler: async () => undefined };
  if (work.kind === 'plain') return { options: {}, handler: ({ payload }: Job<Payload>) => work.run(payload.n) };
  if (work.kind === 'transactional')
    return {
      options: { transactional: true },
      handler: ({ payload, manager }: Job<Payload>) =>
        work.run(payload.n, (text, values) => manager.query(text, values)),
    };
  if (work.kind === 'batch')
    return {
      options: { batch: work.size },
      handler: ({ jobs }: JobBatch<Payload>) => work.run(jobs.map(({ payload }) => payload.n)),
    };
  if (work.kind === 'transactional batch')
    return {
      options: { transactional: true, batch: work.size },
      handler: ({ jobs, manager }: JobBatch<Payload>) =>
        work.run(
          jobs.map(({ payload }) => payload.n),
          (text, values) => manager.query(text, values),
        ),
    };
  return {
    options: {},
    handler: (job: Job<Payload>) =>
      work.run(job.payload.n, (step) => job.checkpoint({ payload: { ...job.payload, subject: `step ${step}` } })),
  };
}
