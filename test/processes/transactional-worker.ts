// An application with transactional handlers, which ends itself by SIGKILL where the test says, or is ended by the test.
import 'reflect-metadata';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { QueueModule } from 'nestmq';
import { ExactlyOnceBatches } from '../support/exactly-once-batches.js';
import { ExactlyOnce } from '../support/exactly-once.js';

const env = process.env;

@Module({
  imports: [
    TypeOrmModule.forRoot({ type: 'postgres', url: env.URL!, retryAttempts: 0, poolErrorHandler: () => undefined }),
    QueueModule.forRoot({
      leaseMs: 1_000,
      pollMs: 500,
      ...(env.CONCURRENCY && { concurrency: Number(env.CONCURRENCY) }),
    }),
  ],
  providers: [env.BATCHES ? ExactlyOnceBatches : ExactlyOnce],
})
class WorkerModule {}

await NestFactory.createApplicationContext(WorkerModule, { logger: env.LOG ? ['error', 'warn'] : false });
process.send?.({ type: 'ready' });
