import type { Sample } from '../report/rows.js';
import { endStages, openStages, type Stage } from '../stage.js';
import { takeTurns, type Workload } from '../workload.js';
import { sustainOnce } from './sustained.js';

const PROCESSES = [1, 2, 4, 8];

/**
 * For each process, since they share the load: one that has run a few thousand jobs of its own is still being compiled, and eight
 * of them compile on two cores.
 */
const WARM_UP_S = 2;

/** In a busy fleet one process is the first for a fifth of a second: each is to have its share several times. */
const SECONDS = 12;

/** A handler that waits for something, as most do. */
const TAKES_MS = 10;

export const scaleOut: Workload = {
  name: 'scale-out',
  description: `the sustained load with ${PROCESSES.join(', ')} working processes: handlers that do nothing, and handlers that wait for ${TAKES_MS} ms`,
  defaultRepeat: 2,
  async run(bench) {
    const { settings } = bench;
    for (const workers of PROCESSES.filter((count) => count <= settings.processes)) {
      const stages = await openStages(bench, {
        workers,
        suffix: String(workers),
        only: ({ group, server, tuned, package: name }) =>
          server === 'postgres' && (group !== 'peer' || (tuned && name !== 'bullmq')),
      });
      for (const takesMs of [0, TAKES_MS])
        await takeTurns(
          bench,
          stages.map((stage) => ({
            system: stage.entry.name,
            name: `${workers} ${workers === 1 ? 'process' : 'processes'}, ${takesMs === 0 ? 'no-op' : `${takesMs} ms`}`,
            run: async (measured) => {
              const seconds = measured ? (settings.seconds ?? SECONDS) : takesMs === 0 ? WARM_UP_S * workers : 1;
              const sample = await sustainOnce(stage, { seconds, maxJobs: settings.jobs ?? Infinity, takesMs });
              return { ...sample, figures: await sharesOf(stage, sample) };
            },
          })),
        );
      await endStages(stages);
    }
  },
};

/** Of what an even share would be, the least and the greatest, in percent. */
async function sharesOf({ workers }: Stage, { jobs }: Sample): Promise<Record<string, number>> {
  const ran = await Promise.all(workers.map(({ player }) => player.ran()));
  const percent = (of: number): number => (of / (jobs / workers.length)) * 100;
  return { 'least share %': percent(Math.min(...ran)), 'greatest %': percent(Math.max(...ran)) };
}
