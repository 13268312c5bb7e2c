import { PLAIN, type Shape } from '../load/jobs.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStages, type Stage } from '../stage.js';
import { takeTurns, type Contender, type Workload } from '../workload.js';
import { drainOnce } from './drain.js';

const SHAPES: readonly (readonly [keys: number, jobs: number])[] = [
  [1_000, 20_000],
  [100_000, 100_000],
  [1, 100_000],
];

export const orderCost: Workload = {
  name: 'order-cost',
  description: 'preloaded jobs with keys, unordered, and the same jobs in order',
  async run(bench) {
    const stages = await openStages(bench, { only: ({ name }) => name === 'nestmq' });
    for (const stage of stages)
      for (const [keys, all] of SHAPES) {
        const jobs = Math.min(all, bench.settings.jobs ?? all);
        await takeTurns(bench, inBothWays(stage, jobs, Math.min(keys, jobs)));
      }
    await endStages(stages);
  },
};

/** They run in turn, so each ordered run is held against the unordered one just before. */
function inBothWays(stage: Stage, jobs: number, keys: number): Contender[] {
  const shape: Shape = { ...PLAIN, keys };
  const name = `${jobs} jobs of ${keys} ${keys === 1 ? 'key' : 'keys'}`;
  let unordered = Number.NaN;
  const drain = (ordered: boolean) => async (measured: boolean) => {
    const sample = await drainOnce(stage, measured ? jobs : Math.ceil(jobs / 10), { shape, ordered });
    if (ordered) return withRatio(sample, unordered);
    unordered = sample.perSecond!;
    return sample;
  };
  return [false, true].map((ordered) => ({
    system: stage.entry.name,
    name: `${name}, ${ordered ? 'in order' : 'unordered'}`,
    run: drain(ordered),
  }));
}

function withRatio(sample: Sample, unordered: number): Sample {
  return { ...sample, figures: { '% of unordered': (sample.perSecond! / unordered) * 100 } };
}
