import { PLAIN } from '../load/jobs.js';
import { percentilesOf } from '../measure/statistics.js';
import { pause, type Part } from '../processes/player.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStages, type Stage } from '../stage.js';
import { takeTurns, type Bench, type Contender, type Workload } from '../workload.js';

const RECEIVER: Part = { shape: PLAIN, ordered: false, work: { kind: 'plain', takesMs: 0 } };
const SENDER: Part = { ...RECEIVER, work: null };

/** Of a system that polls, as many as come in so many seconds. */
const SECONDS = 6;
const SAMPLES = 1_000;

export const latency: Workload = {
  name: 'latency',
  description:
    'one job at a time to an idle worker: from the call of spawn, whose commit is part of it, to the first line of the handler',
  defaultRepeat: 2,
  async run(bench) {
    const stages = await openStages(bench);
    for (const stage of stages) {
      await stage.sender.player.open(SENDER);
      await stage.workers[0]!.player.open(RECEIVER);
      await stage.warmUp();
    }
    const contender = (stage: Stage, name: string, sample: Sampler): Contender => ({
      system: stage.entry.name,
      name,
      run: (measured) => sampleOnce(bench, stage, measured, sample),
    });
    await takeTurns(bench, stages.map((stage) => contender(stage, 'in one process', inOneProcess))); // prettier-ignore
    await takeTurns(bench, stages.map((stage) => contender(stage, 'from one process to another', toAnother))); // prettier-ignore
    await endStages(stages);
  },
};

type Sampler = (stage: Stage, samples: number, seconds: number) => Promise<Float64Array>;

const inOneProcess: Sampler = ({ workers }, samples, seconds) => workers[0]!.player.sampleHere(samples, seconds);

const toAnother: Sampler = async ({ sender, workers }, samples, seconds) => {
  const until = performance.now() + seconds * 1_000;
  const latencies: number[] = [];
  for (let n = 0; n < samples && performance.now() < until; n++) {
    const [startedAt, calledAt] = await Promise.all([workers[0]!.player.untilNext(n), sender.player.sendOne(n)]);
    latencies.push(startedAt - calledAt);
    await pause();
  }
  return Float64Array.from(latencies);
};

async function sampleOnce({ settings }: Bench, stage: Stage, measured: boolean, sample: Sampler): Promise<Sample> {
  const samples = Math.min(settings.jobs ?? SAMPLES, measured ? SAMPLES : 50);
  const seconds = settings.seconds ?? SECONDS;
  await stage.workers[0]!.player.expect(samples);
  const latencies = await sample(stage, samples, measured ? seconds : seconds / 3);
  const jobs = latencies.length;
  const faults = await stage.checkRuns(jobs);
  return { jobs, perSecond: null, latency: percentilesOf(latencies), usage: null, faults, figures: { samples: jobs } };
}
