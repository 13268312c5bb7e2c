import type { Queue } from 'nestmq';
import { startApplication } from '../application.js';
import { rowOf, type Sample } from '../report.js';
import type { BenchDatabase } from '../server.js';
import { percentilesOf } from '../statistics.js';
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
    const { database, settings, repeat } = bench;
    const app = await startApplication(database.url, { runner: false });
    for (const [name, channels, states] of SHAPES) {
      await fill(database, settings.jobs ?? LIVE, channels, states === 'mixed');
      for (const [when, prepare] of [
        ['just inserted', async () => undefined],
        ['vacuumed', () => database.admin.query('VACUUM ANALYZE nestmq.job')],
      ] as const) {
        await prepare();
        await app.queue.stats();
        const samples: Sample[] = [];
        for (let turn = 0; turn < repeat; turn++) samples.push(await measure(bench, app.queue));
        bench.report(rowOf({ workload: bench.workload, name: `${name}, ${when}`, system: 'nestmq' }, samples));
      }
    }
    await app.close();
  },
};

async function measure({ settings }: Bench, queue: Queue): Promise<Sample> {
  const calls = Math.min(CALLS, settings.jobs ?? CALLS);
  const times: number[] = [];
  const startedAt = performance.now();
  for (let call = 0; call < calls; call++) {
    const calledAt = performance.now();
    await queue.stats();
    times.push(performance.now() - calledAt);
  }
  const seconds = (performance.now() - startedAt) / 1_000;
  return { jobs: calls, perSecond: calls / seconds, latency: percentilesOf(Float64Array.from(times)), usage: null };
}

/** Due ones, later ones, retries, and lanes: an equal share of each, or due ones only. */
async function fill({ admin }: BenchDatabase, jobs: number, channels: number, mixed: boolean): Promise<void> {
  await admin.query('TRUNCATE nestmq.job');
  await admin.query(
    `INSERT INTO nestmq.job (id, channel, name, key, position, attempt, due_at, payload)
    SELECT n, 'channel ' || n % $2::integer, 'Letters.send',
      CASE WHEN kind = 3 THEN 'key ' || n % 997 ELSE '' END, CASE WHEN kind = 3 THEN n END, (kind = 2)::integer,
      clock_timestamp() + CASE WHEN kind IN (1, 2) THEN interval '1 day' ELSE interval '-1 day' END + n * interval '1 microsecond',
      json_build_object('n', n, 'to', 'somebody@example.org')
    FROM generate_series(1, $1::integer) AS n, LATERAL (SELECT CASE WHEN $3 THEN n / $2::integer % 4 ELSE 0 END AS kind) AS job`,
    [jobs, channels, mixed],
  );
}
