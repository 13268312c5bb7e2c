import { CHANNEL, sendNumbered, startApplication, type BenchApplication } from '../application.js';
import { clockMs } from '../clock.js';
import { startMeter } from '../meter.js';
import { payloadsFrom } from '../payload.js';
import type { Sample } from '../report.js';
import type { BenchDatabase } from '../server.js';
import { readClaims, resetCounts } from '../statements-counted.js';
import { cleanUp, emptied } from '../tables.js';
import { Tally } from '../tally.js';
import { compare, type Workload } from '../workload.js';
import { sampleOneByOne, spawnHere } from './latency.js';

/** Jobs whose drain is timed, whatever waits behind them. */
const FRONT = 50_000;

const MAX_LATENCY_SAMPLES = 200;

export const backlog: Workload = {
  name: 'backlog',
  description:
    'drain of the first 50 000 jobs of a channel, and idle spawns into it: over nothing, over many due jobs, over many future ones',
  countStatements: true,
  async run(bench) {
    const { database, settings } = bench;
    const amount = settings.jobs ?? 1_000_000;
    const app = await startApplication(database.url);
    const scenes: [string, Scene][] = [
      ['over nothing', { waiting: () => 0, delay: '0' }],
      [`over ${amount} due jobs`, { waiting: (jobs) => jobs, delay: '0' }],
      [`over ${amount} future jobs`, { waiting: (jobs) => jobs, delay: '1 day' }],
    ];
    await compare(
      bench,
      { amount, warmUp: 20_000 },
      scenes.map(([name, scene]) => ({
        system: 'nestmq',
        name,
        run: (jobs) => drainFront(database, app, jobs, scene),
      })),
    );
    await app.close();
  },
};

interface Scene {
  /** How many jobs wait behind the front. */
  readonly waiting: (amount: number) => number;
  /** When they are due, from now. */
  readonly delay: string;
}

async function drainFront(
  database: BenchDatabase,
  app: BenchApplication,
  amount: number,
  { waiting, delay }: Scene,
): Promise<Sample> {
  const front = Math.min(FRONT, amount);
  const behind = waiting(amount);
  const due = front + (delay === '0' ? behind : 0);
  await app.queue.pause(CHANNEL);
  await sendNumbered(app, payloadsFrom(0, front), 1_000);
  await copyJobs(database, { first: front, count: behind, delay });
  await cleanUp(database);
  const tally = new Tally(front + behind);
  app.letters.onStart = (n) => tally.add(n);

  await resetCounts(database);
  const stopMeter = await startMeter(database);
  const startedAt = clockMs();
  await app.queue.resume(CHANNEL);
  await tally.reached(front);
  const seconds = (clockMs() - startedAt) / 1_000;
  const usage = await stopMeter();
  const { claims, millisPerClaim } = await readClaims(database);
  await tally.reached(due);
  tally.check(due);
  const idle =
    delay === '0' && behind > 0
      ? null
      : await idleSpawns(database, app, Math.min(MAX_LATENCY_SAMPLES, Math.ceil(amount / 5)));
  await database.admin.query(`DELETE FROM nestmq.job WHERE due_at > statement_timestamp()`);
  await emptied(database, 'nestmq');
  return {
    jobs: front,
    perSecond: front / seconds,
    latency: idle?.latency ?? null,
    usage,
    figures: {
      'jobs/claim': front / claims,
      'server ms/claim': millisPerClaim,
      ...(idle && { 'server ms/claim when idle': idle.millisPerClaim }),
    },
  };
}

/** What one claim costs when there is one job for it. */
async function idleSpawns(
  database: BenchDatabase,
  app: BenchApplication,
  samples: number,
): Promise<Pick<Sample, 'latency'> & { millisPerClaim: number }> {
  await resetCounts(database);
  const { latency } = await sampleOneByOne(samples, app.letters, (n) => spawnHere(app, n));
  const { millisPerClaim } = await readClaims(database);
  return { latency, millisPerClaim };
}

/** Copies one of the jobs, in the server: to send a million takes longer. */
async function copyJobs(
  { admin }: BenchDatabase,
  { first, count, delay }: { first: number; count: number; delay: string },
): Promise<void> {
  await admin.query(
    `INSERT INTO nestmq.job (channel, name, policy_id, max_attempts, due_at, payload)
    SELECT channel, name, policy_id, max_attempts, clock_timestamp() + $3::interval,
      json_build_object('n', n, 'to', payload -> 'to', 'subject', payload -> 'subject')
    FROM (SELECT * FROM nestmq.job ORDER BY id DESC LIMIT 1) AS model, generate_series($1::integer, $1::integer + $2::integer - 1) AS n`,
    [first, count, delay],
  );
}
