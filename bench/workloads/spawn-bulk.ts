import { sendNumbered, startApplication } from '../application.js';
import { startMeter } from '../meter.js';
import { payloadsFrom, type Payload } from '../payload.js';
import { createRawTables, RawSender } from '../raw/raw-queue.js';
import type { Sample, System } from '../report.js';
import type { BenchDatabase } from '../server.js';
import { expectJobs, tableOf } from '../tables.js';
import { compare, type Workload } from '../workload.js';

const CALL = 1_000;

export const spawnBulk: Workload = {
  name: 'spawn-bulk',
  description: `spawnMany of ${CALL} by one caller, one call after the other, in a process without a runner`,
  async run(bench) {
    const { database, settings } = bench;
    const amount = settings.jobs ?? 50_000;
    await createRawTables(database.admin);
    const app = await startApplication(database.url, { runner: false });
    const sender = await RawSender.open(database.url);
    const sendRaw = async (payloads: readonly Payload[]): Promise<void> => {
      for (let from = 0; from < payloads.length; from += CALL)
        await sender.sendMany(payloads.slice(from, from + CALL), { notify: true });
    };
    await compare(bench, { amount, warmUp: 20_000 }, [
      {
        system: 'nestmq',
        name: `spawnMany of ${CALL}`,
        run: (jobs) => send(database, 'nestmq', jobs, (payloads) => sendNumbered(app, payloads, CALL)),
      },
      {
        system: 'raw SQL',
        name: `INSERT of ${CALL} and NOTIFY`,
        run: (jobs) => send(database, 'raw SQL', jobs, sendRaw),
      },
    ]);
    await Promise.all([app.close(), sender.close()]);
  },
};

async function send(
  database: BenchDatabase,
  system: System,
  jobs: number,
  work: (payloads: readonly Payload[]) => Promise<unknown>,
): Promise<Sample> {
  await database.admin.query(`TRUNCATE ${tableOf(system)}`);
  const payloads = payloadsFrom(0, jobs);
  const stopMeter = await startMeter(database);
  const startedAt = performance.now();
  await work(payloads);
  const seconds = (performance.now() - startedAt) / 1_000;
  const usage = await stopMeter();
  await expectJobs(database, system, jobs);
  return { jobs, perSecond: jobs / seconds, latency: null, usage };
}
