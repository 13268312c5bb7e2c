import { PLAIN } from '../load/jobs.js';
import { STEPS } from '../processes/player.js';
import { endStages, openStages, type Stage } from '../stage.js';
import type { Feature } from '../systems/index.js';
import type { Work } from '../systems/system.js';
import { takeTurns, type Workload } from '../workload.js';
import { drainOnce } from './drain.js';

interface Case {
  readonly name: string;
  readonly kind: Work['kind'];
  readonly needs: Feature;
  /** Of the systems that do so many or more a second without this. */
  readonly jobs: number;
}

const CASES: readonly Case[] = [
  { name: 'a row written in the transaction of the run', kind: 'transactional', needs: 'transactional', jobs: 10_000 },
  {
    name: 'the same in batches of up to 100, one INSERT each',
    kind: 'transactional batch',
    needs: 'transactional batch',
    jobs: 50_000,
  },
  { name: 'batches of up to 100', kind: 'batch', needs: 'batch', jobs: 50_000 },
  { name: `${STEPS} checkpoints a job`, kind: 'checkpoints', needs: 'checkpoints', jobs: 400 },
];

export const handlers: Workload = {
  name: 'handlers',
  description: 'preloaded jobs whose handlers do more than nothing',
  async run(bench) {
    const needed = new Set(CASES.map(({ needs }) => needs));
    const stages = await openStages(bench, { only: ({ does }) => does.some((feature) => needed.has(feature)) });
    for (const { name, kind, needs, jobs: most } of CASES)
      await takeTurns(
        bench,
        stages
          .filter(({ entry }) => entry.does.includes(needs))
          .map((stage) => ({
            system: stage.entry.name,
            name,
            run: async (measured) => {
              await emptyBusiness(stage);
              const all = Math.min(most, bench.settings.jobs ?? most, stage.entry.pace * 4);
              const jobs = measured ? all : Math.ceil(all / 10);
              const sample = await drainOnce(stage, jobs, { shape: PLAIN, work: { kind, takesMs: 0 } });
              if (kind.startsWith('transactional')) await expectRows(stage, jobs);
              const steps = sample.perSecond! * STEPS;
              return kind === 'checkpoints' ? { ...sample, figures: { 'checkpoints/s': steps } } : sample;
            },
          })),
      );
    await endStages(stages);
  },
};

async function emptyBusiness({ database }: Stage): Promise<void> {
  await database?.admin.query('TRUNCATE business');
}

/** What the handlers have written is there, once. */
async function expectRows({ database, entry }: Stage, rows: number): Promise<void> {
  const { rows: found } = await database!.admin.query<{ count: number; distinct: number }>(
    'SELECT count(*)::int AS count, count(DISTINCT n)::int AS distinct FROM business',
  );
  if (found[0]?.count === rows && found[0].distinct === rows) return;
  throw new Error(`${entry.label}: ${rows} handlers have committed, and ${JSON.stringify(found[0])} rows are there.`);
}
