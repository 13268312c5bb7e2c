import { Letters, startApplication } from '../nestmq/application.js';
import { callRepeatedly } from '../nestmq/call-repeatedly.js';
import { OrderWatch } from '../nestmq/order-watch.js';
import { payloadOf } from '../load/jobs.js';
import type { BenchDatabase } from '../servers/postgres.js';
import { emptied } from '../nestmq/tables.js';
import type { Sample } from '../report/rows.js';
import { compare, type Workload } from '../workload.js';

/** Each has a connection of its own. */
const CALLERS = 32;

export const laneSpawn: Workload = {
  name: 'lane-spawn',
  description: `one ordered job a transaction from ${CALLERS} connections, into one lane and into ${CALLERS} lanes; then they run, in order`,
  async run(bench) {
    const { settings } = bench;
    const database = await bench.createQueueDatabase();
    const app = await startApplication(database.url, { runner: false, poolSize: CALLERS });
    let intoMany = Number.NaN;
    const into = (name: string, keyOf: (caller: number) => string, told: Told) => ({
      system: 'nestmq',
      name,
      run: async (seconds: number): Promise<Sample> => {
        const load = { callers: CALLERS, seconds, maxCalls: settings.jobs ?? Infinity };
        const sample = await callRepeatedly(database, load, (n, caller) =>
          app.dataSource.transaction(async (manager) => {
            await app.jobs.spawn(Letters, 'send', payloadOf(n), { key: keyOf(caller), ordered: true, manager });
          }),
        );
        await runAll(database, sample.jobs);
        return { ...sample, ...told(sample.perSecond!) };
      },
    });
    await compare(bench, { amount: settings.seconds ?? 3, warmUp: 0.5 }, [
      into(
        `into ${CALLERS} lanes`,
        (caller) => `lane ${caller}`,
        (rate) => {
          intoMany = rate;
          return {};
        },
      ),
      into(
        'into one lane',
        () => 'lane',
        (rate) => ({ figures: { '% of many lanes': (rate / intoMany) * 100 } }),
      ),
    ]);
    await app.close();
    await database.drop();
  },
};

type Told = (perSecond: number) => { figures?: Record<string, number> };

/** Runs what was sent, each lane in the order of the ids: all of it has committed. */
async function runAll(database: BenchDatabase, jobs: number): Promise<void> {
  const watch = new OrderWatch();
  let runs = 0;
  const app = await startApplication(database.url);
  app.letters.onJob = ({ key, id, seq }) => {
    runs += 1;
    watch.started(key, Number(id), seq);
  };
  await emptied(database);
  await app.close();
  watch.check();
  if (runs !== jobs) throw new Error(`${jobs} jobs were sent, ${runs} have run.`);
}
