import { CHANNEL, sendNumbered, startApplication, type BenchApplication } from '../application.js';
import { startMeter } from '../meter.js';
import { payloadsFrom } from '../payload.js';
import { createRawTables, RawRunner, RawSender } from '../raw/raw-queue.js';
import type { Sample } from '../report.js';
import type { BenchDatabase } from '../server.js';
import { Tally } from '../tally.js';
import { compare, type Workload } from '../workload.js';

export const drain: Workload = {
  name: 'drain',
  description: 'preloaded jobs, from the word go to the last row durably gone; one process at the default options',
  async run(bench) {
    const { database, settings } = bench;
    const amount = settings.jobs ?? 50_000;
    await createRawTables(database.admin);
    const app = await startApplication(database.url);
    const sender = await RawSender.open(database.url);
    const runner = await RawRunner.open(database.url);
    const name = `${amount} jobs`;
    await compare(bench, { amount, warmUp: 20_000 }, [
      { system: 'nestmq', name, run: (jobs) => drainQueue(database, app, jobs) },
      { system: 'raw SQL', name, run: (jobs) => drainRaw(database, sender, runner, jobs) },
    ]);
    await Promise.all([app.close(), sender.close(), runner.close()]);
  },
};

/** The channel is paused while it is filled: its resumption is the start, so that the wake-up is counted too. */
export async function drainQueue(database: BenchDatabase, app: BenchApplication, jobs: number): Promise<Sample> {
  await cleanUp(database, 'nestmq.job', 'nestmq.lease');
  await app.queue.pause(CHANNEL);
  const ids = await sendNumbered(app, payloadsFrom(0, jobs), 1_000);
  const tally = new Tally(jobs);
  app.letters.onStart = (n) => tally.add(n);
  return timed(database, jobs, tally, {
    start: () => app.queue.resume(CHANNEL),
    end: () => gone(database, 'nestmq.job', ids.slice(-200)),
  });
}

async function drainRaw(database: BenchDatabase, sender: RawSender, runner: RawRunner, jobs: number): Promise<Sample> {
  await cleanUp(database, 'raw.job');
  const payloads = payloadsFrom(0, jobs);
  for (let from = 0; from < jobs; from += 1_000)
    await sender.sendMany(payloads.slice(from, from + 1_000), { notify: false });
  const tally = new Tally(jobs);
  runner.onStart = (n) => tally.add(n);
  return timed(database, jobs, tally, {
    start: () => runner.wake(),
    end: async () => {
      await runner.idle();
      await gone(database, 'raw.job', []);
    },
  });
}

async function timed(
  database: BenchDatabase,
  jobs: number,
  tally: Tally,
  { start, end }: { start: () => unknown; end: () => Promise<void> },
): Promise<Sample> {
  const stopMeter = await startMeter(database);
  const startedAt = performance.now();
  await start();
  await tally.reached(jobs);
  await end();
  const seconds = (performance.now() - startedAt) / 1_000;
  const usage = await stopMeter();
  tally.check(jobs);
  return { jobs, perSecond: jobs / seconds, latency: null, usage };
}

/**
 * Waits until the jobs are gone, the last ones first: to look through the whole table again and again would take time
 * from the server that is measured.
 */
async function gone({ admin }: BenchDatabase, table: string, lastIds: readonly string[]): Promise<void> {
  const isThere = async (condition: string, values: unknown[]): Promise<boolean> => {
    const { rowCount } = await admin.query(`SELECT FROM ${table} WHERE ${condition} LIMIT 1`, values);
    return rowCount !== 0;
  };
  while (await isThere('id = ANY ($1::bigint[])', [lastIds]));
  while (await isThere('true', []));
}

/** What an earlier run has left to clean up must not be cleaned up in the next one's time. */
async function cleanUp({ admin }: BenchDatabase, ...tables: string[]): Promise<void> {
  for (const table of tables) await admin.query(`VACUUM ${table}`);
  await admin.query('CHECKPOINT');
}
