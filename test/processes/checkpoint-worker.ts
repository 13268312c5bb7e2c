// An application in a process of its own whose handler stores what the payload says, tells so, and does not end.
import { existsSync } from 'node:fs';
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
  /** Blocks the event loop until there is such a file, and completes then, instead of hanging. */
  readonly blockUntil?: string;
}

/** Nobody wakes who waits at it. */
const nothing = new Int32Array(new SharedArrayBuffer(4));

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
    const { blockUntil } = job.payload;
    if (blockUntil !== undefined) {
      while (!existsSync(blockUntil)) Atomics.wait(nothing, 0, 0, 10);
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
