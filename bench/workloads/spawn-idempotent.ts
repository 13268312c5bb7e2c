import type { JobSpawnOptions } from 'nestmq';
import { Letters, startApplication, type BenchApplication } from '../nestmq/application.js';
import { callRepeatedly } from '../nestmq/call-repeatedly.js';
import { startMeter } from '../measure/meter.js';
import { payloadOf, payloadsFrom } from '../load/jobs.js';
import type { Sample } from '../report/rows.js';
import { expectJobs } from '../nestmq/tables.js';
import type { BenchDatabase } from '../servers/postgres.js';
import { compare, type Bench, type Workload } from '../workload.js';

const CALL = 1_000;

/** A key as an application has it: of the business, and new each time. */
const keyOf = (n: number): string => `invoice-${n}-2026-11`;

/** Name of the case, and what its jobs are spawned with. Each is measured against the one without a key. */
const KEYS: readonly (readonly [name: string, options: (n: number) => JobSpawnOptions])[] = [
  ['without a key', () => ({})],
  ['with a key', (n) => ({ idempotencyKey: keyOf(n) })],
  ['with a key for ever', (n) => ({ idempotencyKey: keyOf(n), scope: 'forever' })],
];

export const spawnIdempotent: Workload = {
  name: 'spawn-idempotent',
  description: `spawn by 1, 10 and 100 concurrent callers, in a transaction, and spawnMany of ${CALL}: with an idempotency key, and without`,
  async run(given) {
    const bench = { ...given, database: await given.createQueueDatabase() };
    const app = await startApplication(bench.database.url, { runner: false, poolSize: 20 });
    for (const callers of [1, 10, 100])
      await compareKeys(bench, `spawn, ${callers} caller${callers === 1 ? '' : 's'}`, bySeconds(bench), (options) =>
        repeatedly(bench, callers, (n) => app.jobs.spawn(Letters, 'send', payloadOf(n), options(n))),
      );
    await compareKeys(bench, 'spawn in a transaction, 10 callers', bySeconds(bench), (options) =>
      repeatedly(bench, 10, (n) =>
        app.dataSource.transaction((manager) =>
          app.jobs.spawn(Letters, 'send', payloadOf(n), { ...options(n), manager }),
        ),
      ),
    );
    const bulk = { amount: bench.settings.jobs ?? 50_000, warmUp: 20_000 };
    await compareKeys(bench, `spawnMany of ${CALL}`, bulk, (options) => (jobs) => sendAll(bench, app, jobs, options));
    await app.close();
    await bench.database.drop();
  },
};

type OwnBench = Bench & { readonly database: BenchDatabase };

const bySeconds = ({ settings }: Bench): Amounts => ({ amount: settings.seconds ?? 3, warmUp: 0.5 });

type Amounts = Parameters<typeof compare>[1];
type Measure = (amount: number) => Promise<Sample>;

/** All of them in turn, so that each run with keys has its like without in the same seconds. */
async function compareKeys(
  bench: OwnBench,
  name: string,
  amounts: Amounts,
  measure: (options: (n: number) => JobSpawnOptions) => Measure,
): Promise<void> {
  let without = Number.NaN;
  const contenders = KEYS.map(([keys, options], index) => {
    const once = measure(options);
    return {
      system: 'nestmq',
      name: `${name}, ${keys}`,
      run: async (amount: number) => {
        await bench.database.admin.query('TRUNCATE nestmq.idempotency_key');
        const sample = await once(amount);
        if (index === 0) {
          without = sample.perSecond!;
          return sample;
        }
        return { ...sample, figures: { '% of without': (sample.perSecond! / without) * 100 } };
      },
    };
  });
  await compare(bench, amounts, contenders);
}

const repeatedly =
  ({ database, settings }: OwnBench, callers: number, call: (n: number) => Promise<unknown>): Measure =>
  (seconds) =>
    callRepeatedly(database, { callers, seconds, maxCalls: settings.jobs ?? Infinity }, call);

async function sendAll(
  { database }: OwnBench,
  app: BenchApplication,
  jobs: number,
  options: (n: number) => JobSpawnOptions,
): Promise<Sample> {
  await database.admin.query('TRUNCATE nestmq.job');
  const calls = Array.from({ length: Math.ceil(jobs / CALL) }, (_, call) =>
    payloadsFrom(call * CALL, Math.min(CALL, jobs - call * CALL)).map((payload) => ({
      ...options(payload.n),
      payload,
    })),
  );
  const stopMeter = await startMeter(database);
  const startedAt = performance.now();
  for (const items of calls) await app.jobs.spawnMany(Letters, 'send', items);
  const seconds = (performance.now() - startedAt) / 1_000;
  const usage = await stopMeter();
  await expectJobs(database, jobs);
  return { jobs, perSecond: jobs / seconds, latency: null, usage };
}
