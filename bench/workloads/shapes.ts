import { PLAIN, type Shape } from '../load/jobs.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStages } from '../stage.js';
import type { Feature } from '../systems/index.js';
import { takeTurns, type Workload } from '../workload.js';
import { drainOnce, jobsFor } from './drain.js';

interface Case {
  readonly name: string;
  readonly shape: Shape;
  readonly most: number;
  readonly needs: Feature[];
}

const KIB = 1_024;

/** A system that fetches thousands ahead has them before the clock starts with its first job: they are to be the smaller part. */
const LARGE_JOBS = 10_000;

const CASES: readonly Case[] = [
  { name: '1 handler name', shape: PLAIN, most: 50_000, needs: ['many names'] },
  { name: '1 000 handler names', shape: { ...PLAIN, names: 1_000 }, most: 50_000, needs: ['many names'] },
  { name: 'payloads of 64 KiB', shape: { ...PLAIN, payloadBytes: 64 * KIB }, most: LARGE_JOBS, needs: [] },
];

export const shapes: Workload = {
  name: 'shapes',
  description: 'preloaded jobs of one and of 1 000 handler names, and with large payloads',
  defaultRepeat: 2,
  async run(bench) {
    const stages = await openStages(bench);
    for (const { name, shape, most, needs } of CASES)
      await takeTurns(
        bench,
        stages
          .filter(({ entry }) => needs.every((feature) => entry.does.includes(feature)))
          .map((stage) => ({
            system: stage.entry.name,
            name,
            run: async (measured) =>
              withBytes(await drainOnce(stage, jobsFor(bench, stage, measured, most), { shape }), shape),
          })),
      );
    await endStages(stages);
  },
};

function withBytes(sample: Sample, { payloadBytes }: Shape): Sample {
  if (payloadBytes < KIB) return sample;
  return { ...sample, figures: { 'MiB/s': (sample.perSecond! * payloadBytes) / KIB / KIB } };
}
