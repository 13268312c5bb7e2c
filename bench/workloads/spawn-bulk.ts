import { PLAIN } from '../load/jobs.js';
import { endStages, openStages } from '../stage.js';
import { takeTurns, type Workload } from '../workload.js';
import { spawnOnce } from './spawn-single.js';

/** Jobs of one call. */
const SIZES = [1_000, 10_000];

const NONE = new Float64Array();

export const spawnBulk: Workload = {
  name: 'spawn-bulk',
  description: `calls of ${SIZES.join(' and of ')} jobs by one caller, one after another, in a process that only sends`,
  async run(bench) {
    const stages = await openStages(bench, { workers: 0, only: ({ tuned }) => !tuned });
    for (const { sender } of stages) await sender.player.open({ shape: PLAIN, ordered: false, work: null });
    for (const size of SIZES)
      await takeTurns(
        bench,
        stages.map((stage) => ({
          system: stage.entry.name,
          name: `calls of ${size}`,
          run: (measured) => {
            const count = Math.min(bench.settings.jobs ?? Infinity, measured ? 60_000 : size);
            return spawnOnce(stage, async () => {
              const seconds = await stage.sender.player.sendInTurn(count, size);
              return { calls: count, seconds, durations: NONE };
            });
          },
        })),
      );
    await endStages(stages);
  },
};
