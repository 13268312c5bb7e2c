import { BARE_LOOPS, runBareLoop, type TransactionLoad } from '../load/bare-transactions.js';
import { PLAIN, payloadOf } from '../load/jobs.js';
import { PGBENCH_MODES, runPgbench } from '../load/pgbench.js';
import { startMeter, type Usage } from '../measure/meter.js';
import type { Sample } from '../report/rows.js';
import { cleanUp, type BenchDatabase } from '../servers/postgres.js';
import { findProgram } from '../servers/program.js';
import { BUSINESS_TABLE, endStages, openStages, type Stage } from '../stage.js';
import { POOL_SIZE } from '../systems/system.js';
import { takeTurns, type Bench, type Contender, type Workload } from '../workload.js';
import { drainOnce } from './drain.js';

/** What nestmq runs at once by a pool of that size: it leaves two connections free. */
const CONNECTIONS = POOL_SIZE - 2;

/** Ten seconds or so: connections are opened and statements planned within the run, thirty times. */
const JOBS = 30_000;

const NAME = 'one INSERT and the end of a job, a transaction';

export const transactions: Workload = {
  name: 'transactions',
  description: `a row and the end of a preloaded job in one transaction, ${CONNECTIONS} connections: handlers of nestmq, pgbench, and bare loops of pg`,
  async run(bench) {
    const found = await findProgram({
      program: 'pgbench',
      package: 'postgresql-contrib',
      purpose: 'the transactions to compare with',
      install: bench.settings.install,
    });
    if ('missing' in found) console.log(`  pgbench is left out: ${found.missing}`);
    const database = await bench.createQueueDatabase();
    await database.admin.query(BUSINESS_TABLE);
    const stages = await openStages(bench, { needs: ['transactional'], only: ({ name }) => name === 'nestmq', suffix: '_handlers' }); // prettier-ignore
    await takeTurns(bench, [
      ...('missing' in found ? [] : PGBENCH_MODES.map((mode) => byPgbench(bench, database, found.program, mode))),
      ...Object.keys(BARE_LOOPS).map((name) => byBareLoop(bench, database, name)),
      ...stages.map((stage) => byHandlers(bench, stage)),
    ]);
    await endStages(stages);
    await database.drop();
  },
};

function byPgbench(
  bench: Bench,
  database: BenchDatabase,
  program: string,
  mode: (typeof PGBENCH_MODES)[number],
): Contender {
  // prettier-ignore
  return contender(bench, `pgbench, ${mode}`, database, async (load) => {
    const stop = await startMeter(database);
    const { perSecond, clientMicros } = await runPgbench(program, database.url, mode, load);
    return { perSecond, usage: { ...(await stop()), nodeMicros: clientMicros } };
  });
}

function byBareLoop(bench: Bench, database: BenchDatabase, name: string): Contender {
  return contender(bench, name, database, async (load) => {
    const stop = await startMeter(database);
    const { perSecond } = await runBareLoop(database.url, BARE_LOOPS[name]!, load);
    return { perSecond, usage: await stop() };
  });
}

function contender(
  bench: Bench,
  system: string,
  database: BenchDatabase,
  measure: (load: TransactionLoad) => Promise<{ perSecond: number; usage: Usage }>,
): Contender {
  return {
    system,
    name: NAME,
    run: async (measured) => {
      const load = await prepare(database, jobsOf(bench, measured));
      const jobs = load.connections * load.perConnection;
      const { perSecond, usage } = await measure(load);
      await expectDone(database, jobs);
      return { jobs, perSecond, latency: null, usage };
    },
  };
}

function byHandlers(bench: Bench, stage: Stage): Contender {
  return {
    system: stage.entry.name,
    name: NAME,
    run: async (measured): Promise<Sample> => {
      const { admin } = stage.database!;
      await admin.query('TRUNCATE business');
      const jobs = jobsOf(bench, measured);
      const sample = await drainOnce(stage, jobs, { shape: PLAIN, work: { kind: 'transactional', takesMs: 0 } });
      await expectDone(stage.database!, jobs);
      return sample;
    },
  };
}

/** The same number for everybody: each connection of pgbench has as many. */
function jobsOf({ settings }: Bench, measured: boolean): number {
  const perConnection = Math.ceil((settings.jobs ?? JOBS) / CONNECTIONS / (measured ? 1 : 10));
  return perConnection * CONNECTIONS;
}

/** The jobs that are removed: rows like those that nestmq has spawned in its own run. */
async function prepare(database: BenchDatabase, jobs: number): Promise<TransactionLoad> {
  const { admin } = database;
  await admin.query('TRUNCATE business; TRUNCATE nestmq.job');
  await admin.query(
    `INSERT INTO nestmq.job (channel, name, payload)
    SELECT 'letters', 'letter', jsonb_set($1::jsonb, '{n}', to_jsonb(n))::json FROM generate_series(1, $2::int) AS n`,
    [JSON.stringify(payloadOf(0)), jobs],
  );
  await cleanUp(database);
  const { rows } = await admin.query<{ first: string; last: string }>(
    'SELECT min(id) AS first, max(id) AS last FROM nestmq.job',
  );
  const [firstId, lastId] = [Number(rows[0]!.first), Number(rows[0]!.last)];
  if (lastId - firstId + 1 !== jobs) throw new Error(`The ids of ${jobs} jobs are ${firstId} to ${lastId}.`);
  return { connections: CONNECTIONS, perConnection: jobs / CONNECTIONS, firstId };
}

async function expectDone({ admin }: BenchDatabase, jobs: number): Promise<void> {
  const { rows } = await admin.query<{ written: number; left: number }>(
    'SELECT (SELECT count(DISTINCT n) FROM business)::int AS written, (SELECT count(*) FROM nestmq.job)::int AS left',
  );
  const { written, left } = rows[0]!;
  if (written === jobs && left === 0) return;
  throw new Error(`Of ${jobs} transactions ${written} have written their row, and ${left} jobs are there.`);
}
