import type { Queue } from 'nestmq';
import { startMeter } from '../measure/meter.js';
import { startApplication } from '../nestmq/application.js';
import type { Sample } from '../report/rows.js';
import type { BenchDatabase } from '../servers/postgres.js';
import { percentilesOf } from '../measure/statistics.js';
import type { Bench, Workload } from '../workload.js';

const LIVE = 1_000_000;
const CALLS = 50;

/** Name of the case, and the channel and state of the n-th job: everything but the state is SQL. */
const SHAPES: readonly (readonly [name: string, channels: number, states: string])[] = [
  ['one channel, all due', 1, 'due'],
  ['one channel, of every state', 1, 'mixed'],
  ['10 channels, of every state', 10, 'mixed'],
];

export const stats: Workload = {
  name: 'stats',
  description: `queue.stats() with ${LIVE} live jobs, nothing cached by nestmq: ${CALLS} calls, one after another`,
  async run(bench) {
    const { settings, repeat } = bench;
    const database = await bench.createQueueDatabase();
    const app = await startApplication(database.url, { runner: false });
    for (const [name, channels, states] of SHAPES) {
      await fill(database, settings.jobs ?? LIVE, channels, states === 'mixed');
      for (const [when, prepare] of [
        ['just inserted', async () => undefined],
        ['vacuumed', () => database.admin.query('VACUUM ANALYZE nestmq.job, nestmq.finished_job')],
      ] as const) {
        await prepare();
        await app.queue.stats();
        const samples: Sample[] = [];
        for (let turn = 0; turn < repeat; turn++) samples.push(await measure(database, bench, app.queue));
        bench.report({ workload: bench.workload, name: `${name}, ${when}`, system: 'nestmq', samples });
      }
    }
    await app.close();
    await database.drop();
  },
};

async function measure(database: BenchDatabase, { settings }: Bench, queue: Queue): Promise<Sample> {
  const calls = Math.min(CALLS, settings.jobs ?? CALLS);
  const times: number[] = [];
  const stopMeter = await startMeter(database);
  const startedAt = performance.now();
  for (let call = 0; call < calls; call++) {
    const calledAt = performance.now();
    await queue.stats();
    times.push(performance.now() - calledAt);
  }
  const seconds = (performance.now() - startedAt) / 1_000;
  const usage = await stopMeter();
  return { jobs: calls, perSecond: calls / seconds, latency: percentilesOf(Float64Array.from(times)), usage };
}

/**
 * Due ones, later ones, retries, lanes and held ones: an equal share of each, some of them running, and dead letters beside; or due
 * ones only. What autovacuum has done depends on when it came by, so it does not come.
 */
async function fill({ admin }: BenchDatabase, jobs: number, channels: number, mixed: boolean): Promise<void> {
  for (const table of ['job', 'finished_job'])
    await admin.query(`ALTER TABLE nestmq.${table} SET (autovacuum_enabled = off)`);
  await admin.query('TRUNCATE nestmq.job, nestmq.finished_job, nestmq.lease');
  await admin.query(
    `INSERT INTO nestmq.job (id, channel, name, key, position, attempt, held_until, due_at, payload)
    SELECT n, 'channel ' || n % $2::integer, 'Letters.send',
      CASE WHEN kind = 3 THEN 'key ' || n % 997 ELSE '' END, CASE WHEN kind = 3 THEN n END, (kind = 2)::integer,
      CASE WHEN kind = 4 THEN clock_timestamp() + interval '1 day' END,
      clock_timestamp() + CASE WHEN kind IN (1, 2) THEN interval '1 day' ELSE interval '-1 day' END + n * interval '1 microsecond',
      json_build_object('n', n, 'to', 'somebody@example.org')
    FROM generate_series(1, $1::integer) AS n, LATERAL (SELECT CASE WHEN $3 THEN n / $2::integer % 5 ELSE 0 END AS kind) AS job`,
    [jobs, channels, mixed],
  );
  if (!mixed) return;
  await admin.query(
    `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, channel, key, name)
    SELECT $1::integer + n, 'dead', 1, 0, clock_timestamp(), clock_timestamp(), 'channel ' || n % $2::integer, '', 'Letters.send'
    FROM generate_series(1, $1::integer / 5) AS n`,
    [jobs, channels],
  );
  await admin.query(
    `INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, started, hi_due_at, hi_id)
    SELECT 1, row_number() OVER (), channel, 0, ids, array_fill(0, ARRAY[cardinality(ids)]), cardinality(ids), clock_timestamp(), ids[cardinality(ids)]
    FROM (
      SELECT 'channel ' || c AS channel, ARRAY(
        SELECT id FROM nestmq.job
        WHERE channel = 'channel ' || c AND position IS NULL AND held_until IS NULL AND attempt = 0 ORDER BY due_at, id LIMIT 32
      ) AS ids
      FROM generate_series(0, $1::integer - 1) AS c
    ) AS due
    WHERE cardinality(ids) > 0`,
    [channels],
  );
}
