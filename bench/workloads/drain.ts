import { CHANNEL, sendNumbered, startApplication, type BenchApplication } from '../application.js';
import { startMeter } from '../meter.js';
import { payloadsFrom } from '../payload.js';
import { createRawTables, RawRunner, RawSender } from '../raw/raw-queue.js';
import type { Sample } from '../report.js';
import type { BenchDatabase } from '../server.js';
import { cleanUp, emptied } from '../tables.js';
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
async function drainQueue(database: BenchDatabase, app: BenchApplication, jobs: number): Promise<Sample> {
  await cleanUp(database);
  await app.queue.pause(CHANNEL);
  const ids = await sendNumbered(app, payloadsFrom(0, jobs), 1_000);
  const tally = new Tally(jobs);
  app.letters.onStart = (n) => tally.add(n);
  return timed(database, jobs, tally, {
    start: () => app.queue.resume(CHANNEL),
    end: () => emptied(database, 'nestmq', ids.slice(-200)),
  });
}

async function drainRaw(database: BenchDatabase, sender: RawSender, runner: RawRunner, jobs: number): Promise<Sample> {
  await cleanUp(database);
  const payloads = payloadsFrom(0, jobs);
  for (let from = 0; from < jobs; from += 1_000)
    await sender.sendMany(payloads.slice(from, from + 1_000), { notify: false });
  const tally = new Tally(jobs);
  runner.onStart = (n) => tally.add(n);
  return timed(database, jobs, tally, {
    start: () => runner.wake(),
    end: async () => {
      await runner.idle();
      await emptied(database, 'raw SQL');
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
