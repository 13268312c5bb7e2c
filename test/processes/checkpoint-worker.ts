// An application in a process of its own whose handler stores what the payload says, tells so, and does not end.
import 'reflect-metadata';
import { Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { JobHandler, QueueModule, type CheckpointChanges, type Job, type ProgressReport } from 'nestmq';

export interface StoreThenHang {
  readonly checkpoint?: Omit<CheckpointChanges, 'bytes'>;
  /** Stored as bytes. */
  readonly text?: string;
  readonly progress?: ProgressReport;
  /** Blocks the event loop so long, and completes then, instead of hanging. */
  readonly blockMs?: number;
}

const tell = (message: string): void => void process.send?.(message);

@Injectable()
class Worker {
  @JobHandler('work', { name: 'work', keepAlive: process.env.KEEP_ALIVE !== 'false' })
  async run(job: Job<StoreThenHang>): Promise<void> {
    const { checkpoint, text, progress } = job.payload;
    if (checkpoint) await job.checkpoint(checkpoint as CheckpointChanges<StoreThenHang>);
    if (text !== undefined) await job.checkpoint({ bytes: Buffer.from(text) });
    if (progress) await job.progress(progress);
    tell('stored');
    if (job.payload.blockMs !== undefined) {
      const end = performance.now() + job.payload.blockMs;
      while (performance.now() < end);
      tell(
        await job.complete().then(
          () => 'completed',
          (error: { code: string }) => error.code,
        ),
      );
    }
    await new Promise(() => undefined);
  }
}

@Module({
  imports: [
    TypeOrmModule.forRoot({ type: 'postgres', url: process.env.URL!, retryAttempts: 0 }),
    QueueModule.forRoot({ leaseMs: 1_000 }),
  ],
  providers: [Worker],
})
class WorkerModule {}

await NestFactory.createApplicationContext(WorkerModule, { logger: ['error', 'warn'] });
tell('ready');
