// A whole application in a process of its own. Its handler does what the payload says, and tells the test by messages.
import 'reflect-metadata';
import { Inject, Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { getDataSourceToken, TypeOrmModule } from '@nestjs/typeorm';
import { JobHandler, JobSpawner, Queue, QueueModule, type HandlerOptions, type Job, type JobBatch } from 'nestmq';
import type { DataSource } from 'typeorm';

/** What the handler is to do; `chaos`: anything of it, at random. */
export type Task =
  | 'end'
  | 'fail'
  | 'exit'
  | 'hang'
  | 'hang-once'
  | 'obey'
  | 'effect'
  | 'wait-then-complete'
  | 'spawn-late'
  | 'chaos'
  | 'step'
  | 'flaky';

export type WorkerMessage =
  | { readonly type: 'ready' }
  | {
      readonly type: 'started';
      readonly id: string;
      readonly seq: number | null;
      readonly attempt: number;
      readonly task: string;
    }
  | { readonly type: 'aborted'; readonly id: string; readonly reason: string }
  | { readonly type: 'outcome'; readonly id: string; readonly outcome: string }
  | { readonly type: 'event'; readonly event: string; readonly id?: string }
  | { readonly type: 'closed' }
  /** Behind whatever was told before it. */
  | { readonly type: 'echo' };

const env = process.env;
const send = (message: WorkerMessage): void => void process.send?.(message);
/** With `QUIET`, what is kept until somebody asks, so that a job takes no longer than it has to. */
const kept: WorkerMessage[] = [];
const tell = (message: WorkerMessage): void => void (env.QUIET ? kept.push(message) : send(message));

const commands = new Set<string>();
const waiting: (() => void)[] = [];
process.on('message', (command: string) => {
  if (command === 'echo') return [...kept.splice(0), { type: 'echo' } as const].forEach(send);
  commands.add(command);
  for (const resolve of waiting.splice(0)) resolve();
});

async function told(command: string): Promise<void> {
  while (!commands.has(command)) await new Promise<void>((resolve) => waiting.push(resolve));
}

const OPTIONS: HandlerOptions = {
  retries: Number(env.RETRIES ?? 4),
  backoff: { type: 'fixed', base: 20, jitter: 0 },
  ...(env.ORDERED && { ordered: true }),
  ...(env.ON_DEAD && { onDead: env.ON_DEAD as 'skip' | 'block' }),
};

@Injectable()
class Worker {
  constructor(
    @Inject(getDataSourceToken()) private readonly dataSource: DataSource,
    @Inject(JobSpawner) private readonly jobs: JobSpawner,
  ) {}

  @JobHandler('work', { ...OPTIONS, name: env.BATCH ? 'one by one' : 'work' })
  async run(job: Job<Task>): Promise<void> {
    job.signal.addEventListener('abort', () => {
      tell({ type: 'aborted', id: job.id, reason: (job.signal.reason as Error).name });
    });
    tell({ type: 'started', id: job.id, seq: job.seq, attempt: job.attempt, task: job.payload });
    await this.tasks[job.payload](job);
  }

  /** With `BATCH` the same, for several jobs at once. */
  @JobHandler('work', { ...OPTIONS, name: env.BATCH ? 'work' : 'together', batch: Number(env.BATCH ?? 1) })
  async runTogether(batch: JobBatch<Task>): Promise<void> {
    await batch.each((job) => this.run(job));
  }

  private readonly tasks: Record<Task, (job: Job) => Promise<unknown>> = {
    end: async () => undefined,
    fail: async () => {
      throw new Error('told to fail');
    },
    exit: async () => process.exit(7),
    hang: () => new Promise(() => undefined),
    'hang-once': async (job) => {
      await this.log('starts', job);
      if (job.attempt === 1) await new Promise(() => undefined);
      await this.log('ends', job);
    },
    obey: (job) =>
      new Promise((_, reject) => job.signal.addEventListener('abort', () => reject(job.signal.reason as Error))),
    effect: (job) => this.complete(job),
    'wait-then-complete': async (job) => {
      await told('go');
      const outcome = await this.complete(job).then(
        () => 'committed',
        (error: unknown) => (error as { code?: string }).code ?? String(error),
      );
      tell({ type: 'outcome', id: job.id, outcome });
      if (outcome !== 'committed') throw new Error(outcome);
    },
    'spawn-late': async (job) => {
      await told('go');
      await this.jobs.spawn('work', 'end', { key: `after ${job.id}` });
    },
    chaos: (job) => this.chaos(job),
    step: async (job) => {
      await this.log('starts', job);
      await this.log('ends', job);
    },
    flaky: async (job) => {
      await this.log('starts', job);
      const fails = Math.random() < 0.3;
      await this.log(fails ? 'fails' : 'ends', job);
      if (fails) throw new Error('flaky');
    },
  };

  /** Writes into the test's table, which numbers what all processes do. */
  private async log(what: 'starts' | 'ends' | 'fails', { id, key, seq, attempt }: Job): Promise<void> {
    await this.dataSource.query(
      'INSERT INTO step (what, job_id, key, seq, attempt, pid) VALUES ($1, $2, $3, $4, $5, $6)',
      [what, id, key, seq, attempt, process.pid],
    );
  }

  private complete(job: Job): Promise<void> {
    return this.dataSource.transaction(async (manager) => {
      await manager.query('INSERT INTO effect (job_id) VALUES ($1)', [job.id]);
      await job.complete({ manager });
    });
  }

  /** Errors before and after the completion, and inside its transaction. */
  private async chaos(job: Job): Promise<void> {
    const fate = Math.random();
    if (fate < 0.1) throw new Error('before');
    await this.dataSource.transaction(async (manager) => {
      await manager.query('INSERT INTO effect (job_id) VALUES ($1)', [job.id]);
      await job.complete({ manager });
      if (fate < 0.2) throw new Error('inside');
    });
    if (fate < 0.3) throw new Error('after');
  }
}

@Module({
  imports: [
    TypeOrmModule.forRoot({
      type: 'postgres',
      url: env.URL!,
      retryAttempts: 0,
      extra: { max: 20 },
      poolErrorHandler: () => undefined,
    }),
    QueueModule.forRoot({
      pollMs: Number(env.POLL_MS ?? 60_000),
      leaseMs: Number(env.LEASE_MS ?? 10_000),
      concurrency: Number(env.CONCURRENCY ?? 32),
      ...(env.PREFETCH_MS && { prefetchMs: Number(env.PREFETCH_MS) }),
      ...(env.RUNNER_ID && { runnerId: env.RUNNER_ID }),
      ...(env.RELEASE_OWN && { onStart: 'release-own' as const }),
      shutdown: { graceMs: Number(env.GRACE_MS ?? 15_000) },
      ...(env.MAX_RETRIES === 'Infinity' && { defaults: { retries: Infinity } }),
    }),
  ],
  providers: [Worker],
})
class WorkerModule {}

const app = await NestFactory.createApplicationContext(WorkerModule, { logger: env.LOG ? ['error', 'warn'] : false });
app.get(Queue).events.subscribe((event) => {
  if (event.type === 'started') return;
  tell({ type: 'event', event: event.type, ...('id' in event && { id: event.id }) });
});
async function closeWhenTold(): Promise<void> {
  await told('close');
  await app.close();
  send({ type: 'closed' });
  process.disconnect();
}

if (env.HOOKS) app.enableShutdownHooks();
else void closeWhenTold();
send({ type: 'ready' });
