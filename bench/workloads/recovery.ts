import { setTimeout as sleep } from 'node:timers/promises';
import { PLAIN } from '../load/jobs.js';
import { clockMs } from '../measure/clock.js';
import type { Part } from '../processes/player.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStage, type Stage } from '../stage.js';
import { takeTurns, type Workload } from '../workload.js';

const PATIENCE_MS = 60_000;

/** Jobs that are in two processes' hands when one of them dies. */
const JOBS = 200;
const TAKES_MS = 300;
const FEW = 10;
const MOST_JOBS = 10_000;

export const recovery: Workload = {
  name: 'recovery',
  description: `two processes work on ${JOBS} jobs of ${TAKES_MS} ms, and one of them is killed by SIGKILL: seconds until all jobs are finished, of which the work of the other one takes a few`,
  defaultRepeat: 1,
  async run(bench) {
    const count = Math.min(JOBS, bench.settings.jobs ?? JOBS);
    for (const entry of bench.systems.filter(
      ({ name, tuned }) => name === 'pg-boss-fast' || (!tuned && name !== 'pg-boss'),
    )) {
      await takeTurns(bench, [
        {
          system: entry.name,
          name: 'kill −9 of one of two processes',
          run: async (measured) => {
            if (!measured) return { jobs: 0, perSecond: null, latency: null, usage: null };
            const stage = await openStage(bench, entry, { workers: 2 });
            const sample = await killOne(
              stage,
              count,
              bench.settings.seconds === null ? PATIENCE_MS : bench.settings.seconds * 20_000,
            );
            await endStages([stage]);
            return sample;
          },
        },
      ]);
    }
  },
};

async function killOne(stage: Stage, jobs: number, patienceMs: number): Promise<Sample> {
  const { sender } = stage;
  const [victim, survivor] = stage.workers as [Stage['workers'][number], Stage['workers'][number]];
  const part: Part = { shape: PLAIN, ordered: false, work: null };
  await sender.player.open(part);
  for (const { player } of stage.workers) {
    await player.expect(MOST_JOBS);
    await player.open({ ...part, work: { kind: 'plain', takesMs: TAKES_MS } });
  }
  await stage.warmUp();
  const sent = await sendUntilBothWork(stage, jobs);
  const { counts: before } = await victim.player.runs();
  await victim.kill();
  const killedAt = clockMs();
  const left = await untilFinished(stage, killedAt + patienceMs);
  const { counts: after } = await survivor.player.runs();
  const neverStarted = after.subarray(0, sent).filter((runs, n) => runs === 0 && before[n] === 0).length;
  return {
    jobs: sent,
    perSecond: null,
    latency: null,
    usage: null,
    figures: {
      [left > 0 ? 'not within s' : 'seconds']: (clockMs() - killedAt) / 1_000,
      'jobs left': left,
      'started again': after.filter((runs, n) => runs > 0 && before[n]! > 0).length,
    },
    faults: { lost: Math.max(0, neverStarted - left), doubled: after.filter((runs) => runs > 1).length },
  };
}

/** A few at a time: a system that claims in batches would give all of them to one process. Answers how many. */
async function sendUntilBothWork({ sender, workers }: Stage, jobs: number): Promise<number> {
  let sent = 0;
  let idle = true;
  while (sent < jobs || idle) {
    if (sent === MOST_JOBS) throw new Error(`One of two processes has got none of ${sent} jobs.`);
    await sender.player.sendAll(sent, FEW, FEW);
    sent += FEW;
    await sleep(10);
    idle = (await Promise.all(workers.map(({ player }) => player.ran()))).includes(0);
  }
  return sent;
}

async function untilFinished({ sender }: Stage, until: number): Promise<number> {
  for (;;) {
    const left = await sender.player.countUnfinished();
    if (left === 0 || clockMs() > until) return left;
    await sleep(50);
  }
}
