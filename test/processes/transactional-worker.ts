// An application with transactional handlers, which ends itself by SIGKILL where the test says, or is ended by the test.
import 'reflect-metadata';
import { Inject, Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { getDataSourceToken, TypeOrmModule } from '@nestjs/typeorm';
import { JobHandler, JobSpawner, QueueModule, type Job } from 'nestmq';
import type { DataSource } from 'typeorm';

/** Where a first run ends its process: around each statement, and around what the engine sends. */
export type Moment =
  | 'never'
  | 'before the first statement'
  | 'behind the first statement'
  | 'behind the spawn'
  | 'before the commit'
  | 'while the commit is sent'
  | 'behind the commit';

const env = process.env;
const die = (): void => process.kill(process.pid, 'SIGKILL') as unknown as void;

@Injectable()
class Worker {
  /** The run that is about to commit; the process runs one job at a time where it counts. */
  about: Moment = 'never';

  constructor(
    @Inject(JobSpawner) private readonly jobs: JobSpawner,
    @Inject(getDataSourceToken()) dataSource: DataSource,
  ) {
    dataSource.subscribers.push({
      beforeTransactionCommit: () => {
        if (this.about === 'before the commit') die();
        if (this.about === 'while the commit is sent') setImmediate(die);
      },
      afterTransactionCommit: () => {
        if (this.about === 'behind the commit') die();
      },
    });
  }

  @JobHandler('work', { name: 'work', transactional: true, retries: 100, backoff: 10 })
  async run({ id, attempt, payload, manager }: Job<Moment>): Promise<void> {
    const moment = attempt === 1 ? payload : 'never';
    if (moment === 'before the first statement') die();
    await manager.query(`INSERT INTO effect (job_id, note) VALUES ($1, 'written')`, [id]);
    if (moment === 'behind the first statement') die();
    await this.jobs.spawn('follow-up', id, { manager });
    if (moment === 'behind the spawn') die();
    this.about = moment;
  }

  @JobHandler('work', { name: 'follow-up', transactional: true, retries: 100, backoff: 10 })
  async followUp({ payload, manager }: Job<string>): Promise<void> {
    await manager.query(`INSERT INTO effect (job_id, note) VALUES ($1, 'followed')`, [payload]);
  }
}

@Module({
  imports: [
    TypeOrmModule.forRoot({ type: 'postgres', url: env.URL!, retryAttempts: 0, poolErrorHandler: () => undefined }),
    QueueModule.forRoot({
      leaseMs: 1_000,
      pollMs: 500,
      ...(env.CONCURRENCY && { concurrency: Number(env.CONCURRENCY) }),
    }),
  ],
  providers: [Worker],
})
class WorkerModule {}

await NestFactory.createApplicationContext(WorkerModule, { logger: env.LOG ? ['error', 'warn'] : false });
process.send?.({ type: 'ready' });
