import { Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { JobHandler, JobSpawner, Queue, QueueModule, type Job, type JobSpawnOptions } from 'nestmq';
import { DataSource } from 'typeorm';
import type { Payload } from '../systems/system.js';

export const CHANNEL = 'letters';

/** A handler that does nothing but tell that it was called. */
@Injectable()
export class Letters {
  onStart: (n: number) => void = () => undefined;
  /** For whoever wants to know more than its number. */
  onJob: (job: Job<Payload>) => void = () => undefined;

  @JobHandler(CHANNEL)
  async send(job: Job<Payload>): Promise<void> {
    this.onJob(job);
    this.onStart(job.payload.n);
  }
}

export interface BenchApplication {
  readonly jobs: JobSpawner;
  readonly queue: Queue;
  readonly dataSource: DataSource;
  readonly letters: Letters;
  close(): Promise<void>;
}

/** A Nest application as users write it, with the queue at its default options. */
export async function startApplication(
  url: string,
  { runner = true, poolSize = 10 }: { runner?: boolean; poolSize?: number } = {},
): Promise<BenchApplication> {
  @Module({
    imports: [
      TypeOrmModule.forRoot({ type: 'postgres', url, poolSize }),
      QueueModule.forRoot(runner ? {} : { runner }),
    ],
    providers: [Letters],
  })
  class BenchModule {}
  const app = await NestFactory.createApplicationContext(BenchModule, { logger: ['warn', 'error'] });
  app.enableShutdownHooks();
  return {
    jobs: app.get(JobSpawner),
    queue: app.get(Queue),
    dataSource: app.get(DataSource),
    letters: app.get(Letters),
    close: () => app.close(),
  };
}

/** Sends numbered jobs, in calls of `size`; answers their ids. */
export async function sendNumbered(
  { jobs }: Pick<BenchApplication, 'jobs'>,
  payloads: readonly Payload[],
  size: number,
  options: (n: number) => JobSpawnOptions = () => ({}),
): Promise<string[]> {
  const ids: string[] = [];
  for (let from = 0; from < payloads.length; from += size) {
    const items = payloads.slice(from, from + size).map((payload) => ({ ...options(payload.n), payload }));
    for (const { id } of await jobs.spawnMany(Letters, 'send', items)) ids.push(id);
  }
  return ids;
}
