import { Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { JobHandler, JobSpawner, Queue, QueueModule, type Job, type JobBatch } from 'nestmq';
import { startMeter } from '../meter.js';
import { payloadsFrom, type Payload } from '../payload.js';
import { pairOfStatements, type PairOfStatements } from '../raw/pair-of-statements.js';
import { createRawTables } from '../raw/raw-queue.js';
import type { Sample } from '../report.js';
import type { BenchDatabase } from '../server.js';
import { cleanUp, emptied } from '../tables.js';
import { Tally } from '../tally.js';
import { compare, type Workload } from '../workload.js';

const CHANNEL = 'receipts';
const BATCH = 100;
/** Batches are so much faster that as many jobs would be over before there is something to measure. */
const JOBS_PER_SINGLE = 5;

/** TypeORM's default pool has 10, of which transactional runs leave 2 free. */
const CONNECTIONS = 8;

/** A handler that writes one row, in the transaction of its run. */
@Injectable()
class Receipts {
  onEnd: (n: number) => void = () => undefined;

  @JobHandler(CHANNEL, { transactional: true })
  async write({ payload, manager }: Job<Payload>): Promise<void> {
    await manager.query('INSERT INTO business (n) VALUES ($1)', [payload.n]);
    this.onEnd(payload.n);
  }

  /** The same for many: what a batch is for is one statement. */
  @JobHandler(`${CHANNEL} by batch`, { transactional: true, batch: BATCH })
  async writeMany({ jobs, manager }: JobBatch<Payload>): Promise<void> {
    const numbers = jobs.map(({ payload }) => payload.n);
    await manager.query('INSERT INTO business (n) SELECT unnest($1::bigint[])', [numbers]);
    for (const n of numbers) this.onEnd(n);
  }
}

type Method = 'write' | 'writeMany';
const channelOf = (method: Method): string => (method === 'write' ? CHANNEL : `${CHANNEL} by batch`);

interface Application {
  readonly jobs: JobSpawner;
  readonly queue: Queue;
  readonly receipts: Receipts;
  close(): Promise<void>;
}

export const transactional: Workload = {
  name: 'transactional',
  description: `preloaded jobs whose handlers write one row each in their transaction, and ${BATCH} in one, beside the same two statements`,
  async run(bench) {
    const { database, settings } = bench;
    const amount = settings.jobs ?? 10_000;
    await createRawTables(database.admin);
    await database.admin.query('CREATE TABLE business (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n bigint)');
    const app = await startApplication(database.url);
    const floor = await pairOfStatements(database.url);
    const name = `${amount} jobs, ${CONNECTIONS} connections`;
    const rates = { floor: Number.NaN, single: Number.NaN };
    const share = (sample: Sample, of: number, figure: string): Sample => ({
      ...sample,
      figures: { [figure]: sample.perSecond! / of },
    });
    await compare(bench, { amount, warmUp: 4_000 }, [
      {
        system: 'raw SQL',
        name: `${name}, ${floor.name}`,
        run: async (jobs) => {
          const sample = await runPairs(database, floor, jobs);
          rates.floor = sample.perSecond!;
          return sample;
        },
      },
      {
        system: 'nestmq',
        name,
        run: async (jobs) => {
          const sample = await runJobs(database, app, 'write', jobs);
          rates.single = sample.perSecond!;
          return share(sample, rates.floor, 'times the floor');
        },
      },
      {
        system: 'nestmq',
        name: `${JOBS_PER_SINGLE * amount} jobs in batches of ${BATCH}`,
        run: async (jobs) =>
          share(await runJobs(database, app, 'writeMany', JOBS_PER_SINGLE * jobs), rates.single, 'times single'),
      },
    ]);
    await app.close();
  },
};

async function startApplication(url: string): Promise<Application> {
  @Module({
    imports: [TypeOrmModule.forRoot({ type: 'postgres', url }), QueueModule.forRoot()],
    providers: [Receipts],
  })
  class BenchModule {}
  const app = await NestFactory.createApplicationContext(BenchModule, { logger: ['warn', 'error'] });
  app.enableShutdownHooks();
  return { jobs: app.get(JobSpawner), queue: app.get(Queue), receipts: app.get(Receipts), close: () => app.close() };
}

/** The channel is paused while it is filled: its resumption is the start, so that the wake-up is counted too. */
async function runJobs(database: BenchDatabase, app: Application, method: Method, jobs: number): Promise<Sample> {
  const channel = channelOf(method);
  await reset(database);
  await app.queue.pause(channel);
  const payloads = payloadsFrom(0, jobs);
  const ids: string[] = [];
  for (let from = 0; from < jobs; from += 1_000) {
    const items = payloads.slice(from, from + 1_000).map((payload) => ({ name: `Receipts.${method}`, payload }));
    for (const { id } of await app.jobs.spawnMany(items)) ids.push(id);
  }
  const tally = new Tally(jobs);
  app.receipts.onEnd = (n) => tally.add(n);
  const stopMeter = await startMeter(database);
  const startedAt = performance.now();
  await app.queue.resume(channel);
  await tally.reached(jobs);
  await emptied(database, 'nestmq', ids.slice(-200));
  const seconds = (performance.now() - startedAt) / 1_000;
  const usage = await stopMeter();
  tally.check(jobs);
  await expectRows(database, jobs);
  return { jobs, perSecond: jobs / seconds, latency: null, usage };
}

async function runPairs(database: BenchDatabase, floor: PairOfStatements, jobs: number): Promise<Sample> {
  await reset(database);
  const each = Math.ceil(jobs / CONNECTIONS);
  await database.admin.query('TRUNCATE raw.job RESTART IDENTITY');
  await database.admin.query(
    `INSERT INTO raw.job (channel, payload) SELECT 'letters', '{}' FROM generate_series(1, $1::int)`,
    [each * CONNECTIONS],
  );
  const stopMeter = await startMeter(database);
  const perSecond = await floor.run(CONNECTIONS, each);
  const usage = await stopMeter();
  await emptied(database, 'raw SQL');
  await expectRows(database, each * CONNECTIONS);
  return { jobs: each * CONNECTIONS, perSecond, latency: null, usage };
}

async function reset(database: BenchDatabase): Promise<void> {
  await database.admin.query('TRUNCATE business');
  await cleanUp(database);
}

/** What the handlers have written is there, once. */
async function expectRows({ admin }: BenchDatabase, rows: number): Promise<void> {
  const { rows: found } = await admin.query<{ count: number; distinct: number }>(
    'SELECT count(*)::int AS count, count(DISTINCT n)::int AS distinct FROM business',
  );
  if (found[0]?.count === rows && found[0].distinct === rows) return;
  throw new Error(`${rows} handlers have committed, and ${JSON.stringify(found[0])} rows are there.`);
}
