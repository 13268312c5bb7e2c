import { PLAIN, type Shape } from '../load/jobs.js';
import { endStages, openStages } from '../stage.js';
import { takeTurns, type Workload } from '../workload.js';
import { drainOnce } from './drain.js';

/** How the jobs are divided over keys. */
interface Case {
  readonly name: string;
  readonly jobs: number;
  readonly shape: Shape;
  /** Systems that would take minutes get fewer jobs of the same keys. */
  readonly fewer: Readonly<Record<string, number>>;
}

const SLOW = { 'graphile-worker': 1_500, 'pg-boss': 40 };

const CASES: readonly Case[] = [
  { name: '1 000 keys × 20', jobs: 20_000, shape: { ...PLAIN, keys: 1_000 }, fewer: SLOW },
  { name: '20 keys × 100', jobs: 2_000, shape: { ...PLAIN, keys: 20 }, fewer: { ...SLOW, 'graphile-worker-fast': 100 } },
  { name: '20 000 keys × 1', jobs: 20_000, shape: { ...PLAIN, keys: 20_000 }, fewer: SLOW },
  { name: 'half of the jobs of one key', jobs: 20_000, shape: { ...PLAIN, keys: 1_000, hotEvery: 2 }, fewer: { ...SLOW, 'graphile-worker-fast': 20 } },
]; // prettier-ignore

export const ordered: Workload = {
  name: 'ordered',
  description:
    'preloaded jobs with keys, of which those of one key start in the order in which they were sent; the order is checked',
  defaultRepeat: 2,
  async run(bench) {
    const stages = await openStages(bench, { needs: ['order'] });
    for (const { name, jobs: all, shape, fewer } of CASES)
      await takeTurns(
        bench,
        stages.map((stage) => ({
          system: stage.entry.name,
          name,
          run: (measured) => {
            const jobs = Math.min(fewer[stage.entry.name] ?? all, bench.settings.jobs ?? all);
            return drainOnce(stage, measured ? jobs : Math.ceil(jobs / 10), { shape, ordered: true });
          },
        })),
      );
    await endStages(stages);
  },
};
