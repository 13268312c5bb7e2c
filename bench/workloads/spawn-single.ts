import { Letters, startApplication, type BenchApplication } from '../application.js';
import { callRepeatedly, type Call } from '../callers.js';
import { payloadOf } from '../payload.js';
import { createRawTables, RawSender } from '../raw/raw-queue.js';
import type { System } from '../report.js';
import { compare, type Bench, type Contender, type Workload } from '../workload.js';

const BUSINESS_INSERT = 'INSERT INTO business (n) VALUES ($1)';

/** Connections of the application's pool: what a busy service has. */
const POOL_SIZE = 20;

export const spawnSingle: Workload = {
  name: 'spawn-single',
  description:
    'one job a call by 1, 10 and 100 concurrent callers, alone and in a transaction with one business INSERT',
  async run(bench) {
    const { database } = bench;
    await createRawTables(database.admin);
    await database.admin.query('CREATE TABLE business (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n integer)');
    const app = await startApplication(database.url, { runner: false, poolSize: POOL_SIZE });
    for (const callers of [1, 10, 100]) await compareCallers(bench, app, callers);
    await app.close();
  },
};

async function compareCallers(bench: Bench, app: BenchApplication, callers: number): Promise<void> {
  const { database, settings } = bench;
  const senders = await Promise.all(Array.from({ length: callers }, () => RawSender.open(database.url)));
  const label = `${callers} caller${callers === 1 ? '' : 's'}`;
  const contender = (system: System, name: string, call: Call): Contender => ({
    system,
    name: `${label}, ${name}`,
    run: (seconds) => callRepeatedly(database, { callers, seconds, maxCalls: settings.jobs ?? Infinity, system }, call),
  });
  await compare(bench, { amount: settings.seconds ?? 3, warmUp: 0.5 }, [
    contender('nestmq', 'spawn', (n) => app.jobs.spawn(Letters, 'send', payloadOf(n))),
    contender('raw SQL', 'INSERT', (n, caller) => senders[caller]!.sendOne(payloadOf(n), { notify: false })),
    contender('raw SQL', 'INSERT and NOTIFY', (n, caller) => senders[caller]!.sendOne(payloadOf(n), { notify: true })),
    contender('nestmq', 'business row and spawn in a transaction', (n) =>
      app.dataSource.transaction(async (manager) => {
        await manager.query(BUSINESS_INSERT, [n]);
        await app.jobs.spawn(Letters, 'send', payloadOf(n), { manager });
      }),
    ),
    contender('raw SQL', 'business row, INSERT and NOTIFY in a transaction', (n, caller) =>
      senders[caller]!.sendWithBusiness(payloadOf(n), BUSINESS_INSERT),
    ),
  ]);
  await Promise.all(senders.map((sender) => sender.close()));
}
