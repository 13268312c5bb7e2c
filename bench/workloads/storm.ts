import { PLAIN } from '../load/jobs.js';
import { percentilesOf } from '../measure/statistics.js';
import type { Part } from '../processes/player.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStages, type Stage } from '../stage.js';
import { takeTurns, type Workload } from '../workload.js';
import { allRan } from './sustained.js';

const CALLERS = 32;
const PROCESSES = 4;

const PART: Part = { shape: PLAIN, ordered: false, work: null };

export const storm: Workload = {
  name: 'storm',
  description: `${CALLERS} callers of one process, each of which sends a job a transaction, with a row of its own: while nobody works, and while ${PROCESSES} processes listen and work`,
  async run(bench) {
    const { settings } = bench;
    const workers = Math.min(PROCESSES, settings.processes);
    const stages = await openStages(bench, {
      needs: ['transactional spawn'],
      workers,
      only: ({ name }) => name !== 'pg-boss', // it polls, and ten jobs a second would be all
    });
    const terms = (measured: boolean): { callers: number; seconds: number; maxCalls: number } => ({
      callers: CALLERS,
      seconds: measured ? (settings.seconds ?? 3) : 0.5,
      maxCalls: settings.jobs ?? Infinity,
    });
    for (const work of [null, { kind: 'plain', takesMs: 0 }] as const)
      await takeTurns(
        bench,
        stages.map((stage) => ({
          system: stage.entry.name,
          name: work === null ? 'nobody works' : `${workers} processes work`,
          run: (measured) => stormOnce(stage, terms(measured), work),
        })),
      );
    await endStages(stages);
  },
};

async function stormOnce(
  stage: Stage,
  terms: { callers: number; seconds: number; maxCalls: number },
  work: Part['work'],
): Promise<Sample> {
  const { sender, workers } = stage;
  await sender.player.open(PART);
  await sender.player.clear();
  await stage.settle();
  for (const { player } of workers) {
    await player.expect(Math.ceil(terms.seconds * 50_000));
    if (work !== null) await player.open({ ...PART, work });
  }
  if (work !== null) await stage.warmUp();
  const stop = await stage.startMeter();
  const { calls: jobs, seconds, durations } = await sender.player.callInTransactions(terms);
  if (work !== null) {
    await allRan(stage, jobs);
    await sender.player.untilFinished();
  }
  const usage = await stop();
  for (const { player } of workers) await player.close();
  const faults = work === null ? { lost: 0, doubled: 0 } : await stage.checkRuns(jobs);
  const deadTuples = await stage.deadTuples();
  await sender.player.close();
  return { jobs, perSecond: jobs / seconds, latency: percentilesOf(durations), usage, deadTuples, faults };
}
