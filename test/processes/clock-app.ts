import 'reflect-metadata';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { JobHandler, JobSpawner, QueueModule, type Job } from 'nestmq';

// A process with a wrong clock that runs jobs and sends some when it is told to.

class Clock {
  @JobHandler('clock', { backoff: { type: 'fixed', base: '1h', jitter: 0 } })
  tick(job: Job<string>): void {
    process.send?.({ ran: job.payload });
    if (job.payload === 'fail') throw new Error('once more');
  }
}

@Module({
  imports: [
    TypeOrmModule.forRoot({ type: 'postgres', url: process.env['DATABASE']! }),
    QueueModule.forRoot({ pollMs: 60_000 }),
  ],
  providers: [Clock],
})
class AppModule {}

const app = await NestFactory.createApplicationContext(AppModule, { logger: ['error', 'warn'] });
const jobs = app.get(JobSpawner);
process.on('message', (message: { payload: string; delay: number } | 'stop') => {
  if (message === 'stop') void app.close().then(() => process.disconnect());
  else {
    const { payload, delay } = message;
    void jobs.spawn(Clock, 'tick', payload, { delay }).then(({ id }) => process.send?.({ spawned: id }));
  }
});
process.send?.({ ready: true, now: Date.now() });
