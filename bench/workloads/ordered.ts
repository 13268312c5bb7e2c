import { CHANNEL, sendNumbered, startApplication, type BenchApplication } from '../application.js';
import { startMeter } from '../meter.js';
import { OrderWatch } from '../order-watch.js';
import { payloadsFrom } from '../payload.js';
import type { Sample } from '../report.js';
import type { BenchDatabase } from '../server.js';
import { cleanUp, emptied } from '../tables.js';
import { Tally } from '../tally.js';
import { compare, type Contender, type Workload } from '../workload.js';

/** How the jobs are divided over keys. */
interface Shape {
  readonly keys: number;
  readonly jobs: number;
}

const SHAPES: readonly Shape[] = [
  { keys: 1_000, jobs: 20_000 },
  { keys: 100_000, jobs: 100_000 },
  { keys: 1, jobs: 100_000 },
];

export const ordered: Workload = {
  name: 'ordered',
  description: 'preloaded jobs with keys, unordered and in order: of many lanes, of lanes of one job each, of one lane',
  async run(bench) {
    const { database, settings } = bench;
    const app = await startApplication(database.url);
    for (const shape of SHAPES.map((whole) => reduced(whole, settings.jobs)))
      await compare(bench, { amount: shape.jobs, warmUp: 5_000 }, inBothWays(database, app, shape));
    await app.close();
  },
};

/** The same shape with fewer jobs. */
function reduced({ keys, jobs }: Shape, most: number | null): Shape {
  const fewer = Math.min(jobs, most ?? jobs);
  return { keys: Math.max(1, Math.round((keys * fewer) / jobs)), jobs: fewer };
}

/** They run in turn, so each ordered run is held against the unordered one just before. */
function inBothWays(database: BenchDatabase, app: BenchApplication, { keys, jobs: all }: Shape): Contender[] {
  let unordered = Number.NaN;
  const name = `${all} jobs of ${keys} ${keys === 1 ? 'key' : 'keys'}`;
  const keyOf = (n: number): string => `key ${n % keys}`;
  return [
    {
      system: 'nestmq',
      name: `${name}, unordered`,
      run: async (jobs) => {
        const sample = await drainKeyed(database, app, jobs, { keyOf, ordered: false });
        unordered = sample.perSecond!;
        return sample;
      },
    },
    {
      system: 'nestmq',
      name: `${name}, in order`,
      run: async (jobs) => {
        const sample = await drainKeyed(database, app, jobs, { keyOf, ordered: true });
        return { ...sample, figures: { '% of unordered': (sample.perSecond! / unordered) * 100 } };
      },
    },
  ];
}

/** As `drain` does it: the resumption of the channel is the start, and the last row durably gone the end. */
async function drainKeyed(
  database: BenchDatabase,
  app: BenchApplication,
  jobs: number,
  { keyOf, ordered: inOrder }: { keyOf: (n: number) => string; ordered: boolean },
): Promise<Sample> {
  await database.admin.query('TRUNCATE nestmq.lane');
  await cleanUp(database);
  await app.queue.pause(CHANNEL);
  const options = (n: number): { key: string; ordered: boolean } => ({ key: keyOf(n), ordered: inOrder });
  const ids = await sendNumbered(app, payloadsFrom(0, jobs), 1_000, options);
  const tally = new Tally(jobs);
  const watch = new OrderWatch();
  app.letters.onJob = inOrder ? ({ key, payload, seq }) => watch.started(key, payload.n, seq) : () => undefined;
  app.letters.onStart = (n) => tally.add(n);

  const stopMeter = await startMeter(database);
  const startedAt = performance.now();
  await app.queue.resume(CHANNEL);
  await tally.reached(jobs);
  await emptied(database, 'nestmq', ids.slice(-200));
  const seconds = (performance.now() - startedAt) / 1_000;
  const usage = await stopMeter();
  tally.check(jobs);
  watch.check();
  return { jobs, perSecond: jobs / seconds, latency: null, usage };
}
