// A runner of the history harness: its handlers do what the payload says, and write down when they begin and end.
import 'reflect-metadata';
import { Inject, Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { getDataSourceToken, TypeOrmModule } from '@nestjs/typeorm';
import { JobHandler, QueueModule, RejectJob, type Job, type JobBatch } from 'nestmq';
import type { DataSource } from 'typeorm';
import type { RunKey } from '../history/event.js';
import { EventLog } from '../history/harness/log.js';
import type { Deed, Task } from '../history/harness/task.js';
import { pause } from '../support/pace.js';

const env = process.env;
const log = new EventLog(env.URL!);
const RETRIED_SOON = { backoff: { type: 'fixed', base: 20, jitter: 1 } } as const;

const batch = Number(env.BATCH);
/** Jobs are spawned under the plain names. */
const one = (name: string): string => (batch > 1 ? `${name}, one by one` : name);
const several = (name: string): string => (batch > 1 ? name : `${name}, several`);

/** The fence is nothing that a handler is shown. */
function keyOf(job: Job): RunKey {
  const { id, run, runner, lease } = (job as unknown as { claimed: RunKey }).claimed;
  return { id, run, runner, lease };
}

@Injectable()
class Handlers {
  constructor(@Inject(getDataSourceToken()) private readonly dataSource: DataSource) {}

  @JobHandler('history', { name: one('plain'), ...RETRIED_SOON })
  async plain(job: Job<Task>): Promise<void> {
    await this.handle(job);
  }

  @JobHandler('history', { name: one('ordered'), ordered: true, onDead: 'skip', ...RETRIED_SOON })
  async ordered(job: Job<Task>): Promise<void> {
    await this.handle(job);
  }

  @JobHandler('history', { name: several('plain'), batch, ...RETRIED_SOON })
  async plainBatch(jobs: JobBatch<Task>): Promise<void> {
    await jobs.each((job) => this.handle(job));
  }

  @JobHandler('history', { name: several('ordered'), batch, ordered: true, onDead: 'skip', ...RETRIED_SOON })
  async orderedBatch(jobs: JobBatch<Task>): Promise<void> {
    await jobs.each((job) => this.handle(job));
  }

  private async handle(job: Job<Task>): Promise<void> {
    const key = keyOf(job);
    const { attempt, payload, seq } = job;
    await log.add('start', { ...key, attempt, seq, pid: process.pid });
    const { deeds, ms } = payload;
    try {
      await this.act(job, key, deeds[Math.min(attempt, deeds.length) - 1]!, ms);
    } catch (error) {
      await log.add('end', { ...key, how: 'threw' });
      throw error;
    }
    await log.add('end', { ...key, how: 'returned' });
  }

  private async act(job: Job, key: RunKey, deed: Deed, ms: number): Promise<void> {
    switch (deed) {
      case 'die':
        process.kill(process.pid, 'SIGKILL');
        return pause(60_000);
      case 'return':
        return pause(ms);
      case 'lapse':
        await job.keepAlive(50);
        return pause(ms);
      case 'throw':
        await pause(ms);
        throw new Error('told to throw');
      case 'reject':
        await pause(ms);
        throw new RejectJob('told to reject');
      default:
        await this.complete(job, key, ms, deed === 'roll back');
        if (deed === 'complete and throw') throw new Error('told to throw after the completion');
    }
  }

  /** Sometimes time passes before the completion, sometimes between it and the commit. */
  private async complete(job: Job, key: RunKey, ms: number, rollBack: boolean): Promise<void> {
    const late = Number(job.id) % 2 === 0;
    await this.dataSource.transaction(async (manager) => {
      if (!late) await pause(ms);
      await manager.query('INSERT INTO history.event (type, facts) VALUES ($1, $2)', ['effect', JSON.stringify(key)]);
      await job.complete({ manager });
      if (late) await pause(ms);
      if (rollBack) throw new Error('told to roll back');
    });
  }
}

@Module({
  imports: [
    TypeOrmModule.forRoot({
      type: 'postgres',
      url: env.URL!,
      retryAttempts: 0,
      extra: { max: 16 },
      poolErrorHandler: () => undefined,
    }),
    QueueModule.forRoot({
      leaseMs: Number(env.LEASE_MS),
      pollMs: Number(env.POLL_MS),
      prefetchMs: Number(env.PREFETCH_MS),
      concurrency: 12,
      shutdown: { graceMs: 500 },
    }),
  ],
  providers: [Handlers],
})
class RunnerModule {}

const app = await NestFactory.createApplicationContext(RunnerModule, {
  logger: env.LOG ? ['error', 'warn'] : false,
});
app.enableShutdownHooks();
process.send?.('ready');
