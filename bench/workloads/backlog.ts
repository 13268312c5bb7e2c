import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { PLAIN, type Shape } from '../load/jobs.js';
import { percentilesOf, type Percentiles } from '../measure/statistics.js';
import type { Part } from '../processes/player.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStage, type Stage } from '../stage.js';
import type { SystemEntry } from '../systems/index.js';
import { takeTurns, type Bench, type Contender, type Workload } from '../workload.js';

/** Jobs that are run in each turn, whatever waits behind them. */
const FRONT = 100_000;

/** How the claims of a system are told in the server's log. */
const CLAIMS: Readonly<Record<string, RegExp>> = {
  nestmq: /into nestmq\.lease/i,
  'graphile-worker-fast': /for update[^]*skip locked/i,
  'pg-boss-fast': /for update[^]*skip locked/i,
  raw: /for update[^]*skip locked/i,
};

const SOON: Shape = PLAIN;
const TOMORROW: Shape = { ...PLAIN, delaySeconds: 86_400 };

export const backlog: Workload = {
  name: 'backlog',
  description: `what claims cost while ${FRONT} jobs are run: over an empty table, with a million due jobs behind them, and with a million jobs of tomorrow, for nestmq also with ten million due ones and five million of tomorrow; of each claim the server's own time, from its log`,
  defaultRepeat: 1,
  async run(bench) {
    const { jobs } = bench.settings;
    const stages: Stage[] = [];
    const contenders: Contender[] = [];
    for (const entry of bench.systems.filter(({ name }) => name in CLAIMS))
      for (const [index, scene] of scenesOf(entry, jobs).entries()) {
        const stage = await openStage(bench, entry, { logStatements: true, suffix: String(index) });
        stages.push(stage);
        contenders.push(await contenderOf(bench, stage, scene));
      }
    await takeTurns(bench, contenders);
    await endStages(stages);
  },
};

interface Scene {
  readonly name: string;
  readonly waiting: number;
  /** Of the jobs that wait. */
  readonly shape: Shape;
}

/** @param jobs how many wait, `null`: the usual numbers */
function scenesOf({ group }: SystemEntry, jobs: number | null): Scene[] {
  const waiting = jobs ?? 1_000_000;
  const usual = [over(0, SOON), over(waiting, SOON), over(waiting, TOMORROW)];
  // The others would take an hour to be given so many.
  return group === 'nestmq' && jobs === null ? [...usual, over(10_000_000, SOON), over(5_000_000, TOMORROW)] : usual;
}

function over(waiting: number, shape: Shape): Scene {
  const count = waiting.toLocaleString('en-US').replaceAll(',', ' ');
  const name = waiting === 0 ? 'over nothing' : `over ${count} ${shape === SOON ? 'due jobs' : 'jobs of tomorrow'}`;
  return { name, waiting, shape };
}

const senderOf = (shape: Shape): Part => ({ shape, ordered: false, work: null });

/** Fills the table, once for all turns. */
async function contenderOf(bench: Bench, stage: Stage, { name, waiting, shape }: Scene): Promise<Contender> {
  const { player } = stage.sender;
  await player.open(senderOf(shape));
  await player.sendAll(0, waiting, 2_000);
  await player.close();
  await player.open(senderOf(SOON));
  const isDue = shape === SOON;
  let there = waiting;
  return {
    system: stage.entry.name,
    name,
    run: async (measured) => {
      const front = Math.min(FRONT, bench.settings.jobs ?? FRONT, measured ? FRONT : 5_000);
      const fresh = isDue && waiting > 0 ? Math.max(0, front - there) : front;
      await player.sendAll(waiting, fresh, 1_000);
      there += fresh;
      const sample = await runFront(bench, stage, { front, sent: waiting + fresh });
      there -= await stage.workers[0]!.player.ran();
      const left = await player.countUnfinished();
      if (left !== there) throw new Error(`${name}: ${there} jobs have not run, ${left} are unfinished.`);
      return sample;
    },
  };
}

async function runFront(bench: Bench, stage: Stage, { front, sent }: { front: number; sent: number }): Promise<Sample> {
  const { player } = stage.workers[0]!;
  await stage.settle();
  await player.expect(sent);
  const logged = statSync(bench.server.logFile).size;
  const begun = player
    .untilFirst()
    .then(async ({ startedAt, cpuMicros }) => ({ startedAt, stop: await stage.startMeter(cpuMicros) }));
  await player.open({ shape: SOON, ordered: false, work: { kind: 'plain', takesMs: 0 } });
  const { startedAt, stop } = await begun;
  const endedAt = await player.untilRun(front);
  const usage = await stop();
  await player.close();
  const claims = claimsOf(bench, stage, logged);
  const faults = await stage.checkRuns(0, sent);
  return {
    jobs: front,
    perSecond: front / ((endedAt - startedAt) / 1_000),
    latency: null,
    usage,
    faults,
    figures: { claims: claims.count, 'claim p50 ms': claims.p50, 'claim p99 ms': claims.p99 },
  };
}

/** Durations of the claims that were logged since. */
function claimsOf({ server }: Bench, { entry }: Stage, since: number): Percentiles & { count: number } {
  const log = readBehind(server.logFile, since);
  const durations = log
    .split(/^(?=\S+ \S+ \S+ \[\d+\] LOG:)/m)
    .filter((line) => CLAIMS[entry.name]!.test(line) && / (execute|statement)/.test(line.slice(0, 200)))
    .map((line) => Number(/duration: ([\d.]+) ms/.exec(line)?.[1]));
  if (durations.length === 0) throw new Error(`No claim of ${entry.label} is in the server's log.`);
  return { count: durations.length, ...percentilesOf(Float64Array.from(durations)) };
}

/** The end of a file: in front of it the jobs were sent, which fills gigabytes. */
function readBehind(file: string, place: number): string {
  const opened = openSync(file, 'r');
  try {
    const bytes = Buffer.alloc(fstatSync(opened).size - place);
    const length = readSync(opened, bytes, 0, bytes.length, place);
    return bytes.toString('utf8', 0, length);
  } finally {
    closeSync(opened);
  }
}
