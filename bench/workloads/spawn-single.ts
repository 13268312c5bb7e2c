import { PLAIN } from '../load/jobs.js';
import type { Called, CallTerms } from '../load/repeat-calls.js';
import { percentilesOf } from '../measure/statistics.js';
import type { PlayerProcess } from '../processes/start.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStages, type Stage } from '../stage.js';
import { POOL_SIZE } from '../systems/system.js';
import { takeTurns, type Bench, type Workload } from '../workload.js';

export const spawnSingle: Workload = {
  name: 'spawn-single',
  description: `one job a call by 1, 10 and 100 concurrent callers of a process with ${POOL_SIZE} connections: alone, and in a TypeORM transaction with one INSERT of the application`,
  defaultRepeat: 2,
  async run(bench) {
    const stages = await openStages(bench, { workers: 0, only: ({ tuned }) => !tuned });
    for (const { sender } of stages) await sender.player.open({ shape: PLAIN, ordered: false, work: null });
    const inTransaction = stages.filter(({ entry }) => entry.does.includes('transactional spawn'));
    for (const callers of [1, 10, 100]) {
      const label = `${callers} caller${callers === 1 ? '' : 's'}`;
      await call(bench, stages, callers, label, ({ player }, terms) => player.callRepeatedly(terms));
      await call(
        bench,
        inTransaction,
        callers,
        `${label}, business row and job in a transaction`,
        ({ player }, terms) => player.callInTransactions(terms),
      );
    }
    await endStages(stages);
  },
};

function call(
  bench: Bench,
  stages: readonly Stage[],
  callers: number,
  name: string,
  callOf: (sender: PlayerProcess, terms: CallTerms) => Promise<Called>,
): Promise<void> {
  const { settings } = bench;
  return takeTurns(
    bench,
    stages.map((stage) => ({
      system: stage.entry.name,
      name,
      run: (measured) => {
        const seconds = measured ? (settings.seconds ?? 3) : 0.5;
        return spawnOnce(stage, () => callOf(stage.sender, { callers, seconds, maxCalls: settings.jobs ?? Infinity }));
      },
    })),
  );
}

/** Nobody works meanwhile; afterwards every job that was sent is there. */
export async function spawnOnce(stage: Stage, work: () => Promise<Called>): Promise<Sample> {
  await stage.sender.player.clear();
  await stage.settle();
  const stop = await stage.startMeter();
  const { calls: jobs, seconds, durations } = await work();
  const usage = await stop();
  const there = await stage.sender.player.countUnfinished();
  if (there !== jobs) throw new Error(`${stage.entry.label}: ${jobs} jobs were sent, ${there} are there.`);
  return {
    jobs,
    perSecond: jobs / seconds,
    latency: durations.length === 0 ? null : percentilesOf(durations),
    usage,
    deadTuples: await stage.deadTuples(),
    faults: { lost: 0, doubled: 0 },
  };
}
