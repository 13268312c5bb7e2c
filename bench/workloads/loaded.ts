import { PLAIN } from '../load/jobs.js';
import { percentilesOf } from '../measure/statistics.js';
import type { Part } from '../processes/player.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStages, type Stage } from '../stage.js';
import { takeTurns, type Workload } from '../workload.js';
import { startsOf } from './sustained.js';

const RATES = [500, 2_000, 5_000];

export const loaded: Workload = {
  name: 'loaded',
  description:
    'single jobs offered at a fixed rate by one process to another: from the moment when the call was due to the first line of the handler. Where calls fall behind by a quarter of a second the rate is given up',
  defaultRepeat: 2,
  async run(bench) {
    const { settings } = bench;
    const stages = await openStages(bench, { only: ({ pace }) => pace >= 100 }); // pg-boss in its defaults polls
    for (const rate of RATES)
      await takeTurns(
        bench,
        stages.map((stage) => ({
          system: stage.entry.name,
          name: `${rate.toLocaleString('en-US').replace(',', ' ')} jobs a second`,
          run: (measured) => {
            const seconds = measured ? Math.min(settings.seconds ?? 5, (settings.jobs ?? Infinity) / rate) : 0.5;
            return loadOnce(stage, { seconds, perSecond: rate });
          },
        })),
      );
    await endStages(stages);
  },
};

async function loadOnce(stage: Stage, terms: { seconds: number; perSecond: number }): Promise<Sample> {
  const { sender, workers } = stage;
  const part: Part = { shape: PLAIN, ordered: false, work: null };
  await sender.player.open(part);
  await sender.player.clear();
  await stage.settle();
  await workers[0]!.player.expect(Math.ceil(terms.seconds * terms.perSecond));
  await workers[0]!.player.open({ ...part, work: { kind: 'plain', takesMs: 0 } });
  await stage.warmUp();
  const stop = await stage.startMeter();
  const { jobs, at } = await sender.player.offerSteadily(terms);
  await workers[0]!.player.untilRun(jobs);
  await sender.player.untilFinished();
  const usage = await stop();
  const starts = await startsOf(stage, jobs);
  await workers[0]!.player.close();
  const faults = await stage.checkRuns(jobs);
  await sender.player.close();
  return {
    jobs,
    perSecond: null,
    latency: percentilesOf(starts.map((startedAt, n) => startedAt - at[n]!)),
    usage,
    faults,
    figures: { 'offered %': (jobs / Math.round(terms.seconds * terms.perSecond)) * 100 },
  };
}
