import { startApplication } from '../application.js';
import { queueSender, rawSender } from '../bulk-sender.js';
import { createRawTables, RawRunner } from '../raw/raw-queue.js';
import type { System } from '../report.js';
import { connect, type BenchDatabase } from '../server.js';
import { sourceHere, sustain, type Receiver, type Source, type Sustained } from '../sustain.js';
import { cleanUp } from '../tables.js';
import { compare, type Contender, type Workload } from '../workload.js';
import { termsOf } from './sustained.js';

export const pinned: Workload = {
  name: 'pinned',
  description:
    'the sustained load of one process, with and without a REPEATABLE READ transaction held open all the time',
  defaultRepeat: 1,
  async run(bench) {
    const { database, settings } = bench;
    await createRawTables(database.admin);
    const app = await startApplication(database.url);
    const runner = await RawRunner.open(database.url);
    const sender = await rawSender(database.url);
    const pair = (system: System, source: Source, receiver: Receiver): Contender[] => {
      const load = (seconds: number): Promise<Sustained> =>
        sustain(database, termsOf(seconds, settings.jobs), source, { system, receiver });
      return withAndWithout(database, system, load);
    };
    await compare(bench, { amount: settings.seconds ?? 60, warmUp: 3 }, [
      ...pair('nestmq', sourceHere(queueSender(app).sendMany), app.letters),
      ...pair('raw SQL', sourceHere(sender.sendMany), runner),
    ]);
    await Promise.all([app.close(), runner.close(), sender.close()]);
  },
};

/** They run in turn, so each run with the transaction is held against the one without it just before. */
function withAndWithout(
  database: BenchDatabase,
  system: System,
  load: (seconds: number) => Promise<Sustained>,
): Contender[] {
  let without = Number.NaN;
  return [
    {
      system,
      name: 'no transaction',
      run: async (seconds) => {
        await cleanUp(database);
        const sample = await load(seconds);
        without = sample.perSecond;
        return sample;
      },
    },
    {
      system,
      name: 'transaction held open',
      run: async (seconds) => {
        await cleanUp(database);
        const sample = await whilePinned(database, () => load(seconds));
        return { ...sample, figures: { ...sample.figures, '% of without': (sample.perSecond / without) * 100 } };
      },
    },
  ];
}

/** Holds a snapshot: no row that dies from now on can be cleaned up. */
async function whilePinned<T>({ url }: BenchDatabase, work: () => Promise<T>): Promise<T> {
  const client = await connect(url);
  try {
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    await client.query('SELECT count(*) FROM pg_class');
    return await work();
  } finally {
    await client.end();
  }
}
