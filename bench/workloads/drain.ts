import { PLAIN, type Shape } from '../load/jobs.js';
import type { Part } from '../processes/player.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStages, type Stage } from '../stage.js';
import { takeTurns, type Bench, type Workload } from '../workload.js';

export const drain: Workload = {
  name: 'drain',
  description: 'preloaded jobs, from the first start to the last one durably finished; one process works',
  async run(bench) {
    const stages = await openStages(bench);
    await takeTurns(
      bench,
      stages.map((stage) => ({
        system: stage.entry.name,
        name: 'jobs that do nothing',
        run: (measured) => drainOnce(stage, jobsFor(bench, stage, measured)),
      })),
    );
    await endStages(stages);
  },
};

const MOST_JOBS = 200_000;

/** As many as the system does in four seconds, so that the slow ones do not take minutes. */
export function jobsFor({ settings }: Bench, { entry }: Stage, measured: boolean, most = MOST_JOBS): number {
  const seconds = measured ? (settings.seconds ?? 4) : 0.5;
  const paced = Math.max(measured ? 50 : 10, Math.round(entry.pace * seconds));
  return Math.min(settings.jobs ?? most, paced);
}

export interface DrainOptions {
  readonly shape?: Shape;
  readonly ordered?: boolean;
  readonly work?: Part['work'];
}

/** Sends so many jobs while nobody works, then lets the workers start. */
export async function drainOnce(
  stage: Stage,
  jobs: number,
  { shape = PLAIN, ordered = false, work = { kind: 'plain', takesMs: 0 } }: DrainOptions = {},
): Promise<Sample> {
  const { sender, workers } = stage;
  const [worker] = workers;
  await sender.player.open({ shape, ordered, work: null });
  await sender.player.clear();
  await sender.player.sendAll(0, jobs, 1_000);
  await stage.settle();
  await worker!.player.expect(jobs, ordered ? shape : null);
  const begun = worker!.player.untilFirst().then(async ({ startedAt, cpuMicros }) => ({
    startedAt,
    stop: await stage.startMeter(cpuMicros),
  }));
  await worker!.player.open({ shape, ordered, work });
  const { startedAt, stop } = await begun;
  await worker!.player.untilRun(jobs);
  const endedAt = await sender.player.untilFinished();
  const usage = await stop();
  const deadTuples = await stage.deadTuples();
  await worker!.player.close();
  const faults = await stage.checkRuns(jobs);
  await sender.player.close();
  return {
    jobs,
    perSecond: jobs / ((endedAt - startedAt) / 1_000),
    latency: null,
    usage,
    deadTuples,
    faults,
  };
}
