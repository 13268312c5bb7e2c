import { setTimeout as sleep } from 'node:timers/promises';
import { PLAIN, type Shape } from '../load/jobs.js';
import { CALL, capacityFor } from '../load/offer.js';
import { clockMs } from '../measure/clock.js';
import { percentilesOf } from '../measure/statistics.js';
import type { Part } from '../processes/player.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStages, type Stage } from '../stage.js';
import { takeTurns, type Workload } from '../workload.js';

/** Jobs that may have been sent and not yet begun. */
const BACKLOG = 2_000;

/** Long enough for checkpoints and vacuum to come round. */
const SECONDS = 60;

export const sustained: Workload = {
  name: 'sustained',
  description: `calls of ${CALL} jobs by four callers of one process while another one works, ${BACKLOG} jobs waiting at most; times from the answer of the call to the handler`,
  defaultRepeat: 1,
  async run(bench) {
    const { settings } = bench;
    // pg-boss in its defaults does a few jobs a second: the backlog alone would take minutes
    const stages = await openStages(bench, { only: ({ pace }) => pace >= 100 });
    await takeTurns(
      bench,
      stages.map((stage) => ({
        system: stage.entry.name,
        name: 'jobs that do nothing',
        run: (measured) =>
          sustainOnce(stage, {
            seconds: measured ? (settings.seconds ?? SECONDS) : 1,
            maxJobs: settings.jobs ?? Infinity,
          }),
      })),
    );
    await endStages(stages);
  },
};

export interface SustainOptions {
  readonly seconds: number;
  readonly maxJobs: number;
  readonly shape?: Shape;
  readonly takesMs?: number;
  /** All has been measured, and nobody has been closed. */
  readonly measured?: () => Promise<void>;
}

export async function sustainOnce(
  stage: Stage,
  { seconds, maxJobs, shape = PLAIN, takesMs = 0, measured }: SustainOptions,
): Promise<Sample> {
  const { sender, workers } = stage;
  const part: Part = { shape, ordered: false, work: null };
  await sender.player.open(part);
  await sender.player.clear();
  await stage.settle();
  for (const worker of workers) {
    await worker.player.expect(Math.min(capacityFor(seconds), maxJobs));
    worker.onBegun = (count) => void sender.player.begun(count);
    await worker.player.open({ ...part, work: { kind: 'plain', takesMs } });
  }
  await stage.warmUp();
  const stop = await stage.startMeter();
  const began = clockMs();
  const { jobs, at } = await sender.player.offerInBulk({ seconds, maxJobs, backlog: BACKLOG });
  const offeredAt = clockMs();
  await allRan(stage, jobs);
  const ended = await sender.player.untilFinished();
  const usage = await stop();
  const deadTuples = await stage.deadTuples();
  await measured?.();
  const starts = await startsOf(stage, jobs);
  for (const { player } of workers) await player.close();
  const faults = await stage.checkRuns(jobs);
  await sender.player.close();
  const latencies = starts.map((startedAt, n) => Math.max(0, startedAt - at[Math.floor(n / CALL)]!));
  return {
    jobs,
    perSecond: jobs / ((ended - began) / 1_000),
    latency: percentilesOf(latencies),
    usage,
    deadTuples,
    faults,
    series: perSecondOf(starts, began, offeredAt),
  };
}

const PATIENCE_MS = 60_000;

/** @throws {Error} when no more jobs run, and not all have */
export async function allRan({ workers }: Stage, jobs: number): Promise<void> {
  const [worker] = workers;
  if (workers.length === 1) return void (await worker!.player.untilRun(jobs));
  for (let ran = 0, changedAt = clockMs(); ran < jobs;) {
    const now = (await Promise.all(workers.map(({ player }) => player.ran()))).reduce((sum, of) => sum + of, 0);
    if (now > ran) changedAt = clockMs();
    else if (clockMs() - changedAt > PATIENCE_MS) throw new Error(`${now} of ${jobs} jobs have run, and no other for a minute.`); // prettier-ignore
    ran = now;
    await sleep(5);
  }
}

/** When each job started, in whatever process. */
export async function startsOf({ workers }: Stage, jobs: number): Promise<Float64Array> {
  const all = await Promise.all(workers.map(({ player }) => player.starts()));
  return Float64Array.from({ length: jobs }, (_, n) => Math.max(...all.map((starts) => starts[n]!)));
}

/** Of each whole second how many jobs started in it. */
function perSecondOf(starts: Float64Array, from: number, to: number): number[] {
  const series = Array.from({ length: Math.floor((to - from) / 1_000) }, () => 0);
  for (const at of starts) {
    const second = Math.floor((at - from) / 1_000);
    if (second >= 0 && second < series.length) series[second]! += 1;
  }
  return series;
}
