import { connect } from '../servers/postgres.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStages, type Stage } from '../stage.js';
import { takeTurns, type Workload } from '../workload.js';
import { sustainOnce } from './sustained.js';

const SECONDS = 120;
const WINDOW_SECONDS = 10;

export const pinned: Workload = {
  name: 'pinned',
  description: `the sustained load for ${SECONDS} s, while a REPEATABLE READ transaction is open all the time, so that no row that dies can be cleaned up`,
  defaultRepeat: 1,
  async run(bench) {
    const { settings } = bench;
    const stages = await openStages(bench, { only: ({ server, group, tuned }) => server === 'postgres' && (group !== 'peer' || tuned) }); // prettier-ignore
    await takeTurns(
      bench,
      stages.map((stage) => ({
        system: stage.entry.name,
        name: 'snapshot held',
        run: async (measured) => {
          const maxJobs = settings.jobs ?? Infinity;
          if (!measured) return sustainOnce(stage, { seconds: 1, maxJobs });
          const release = await holdSnapshot(stage);
          return firstAndLast(await sustainOnce(stage, { seconds: settings.seconds ?? SECONDS, maxJobs, measured: release })); // prettier-ignore
        },
      })),
    );
    await endStages(stages);
  },
};

function firstAndLast(sample: Sample): Sample {
  const series = sample.series ?? [];
  const seconds = Math.min(WINDOW_SECONDS, Math.floor(series.length / 2));
  const rate = (part: readonly number[]): number => part.reduce((sum, jobs) => sum + jobs, 0) / part.length;
  if (seconds === 0) return sample;
  const [first, last] = [rate(series.slice(0, seconds)), rate(series.slice(-seconds))];
  return { ...sample, figures: { [`first ${seconds} s`]: first, [`last ${seconds} s`]: last, 'last / first': last / first } }; // prettier-ignore
}

/**
 * Holds a snapshot: no row that dies from now on can be cleaned up. It goes before the system is closed, since an upkeep that
 * waits for it, like the REINDEX CONCURRENTLY of pg-boss, would hold up the close for ever.
 */
async function holdSnapshot({ database }: Stage): Promise<() => Promise<void>> {
  const client = await connect(database!.url);
  await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
  await client.query('SELECT count(*) FROM pg_class');
  return () => client.end();
}
