import { parseArgs } from 'node:util';

/** What a round is like. */
export interface Settings {
  /** How long jobs are sent. */
  readonly seconds: number;
  /** Of the first round; each further one has the next. */
  readonly seed: number;
  readonly rounds: number;
  /** Ordered lanes: 1, 4, 200, or unordered jobs only. */
  readonly lanes: Lanes;
  /** Jobs of a lane that are claimed at once, about: 1 switches taking ahead off. */
  readonly runs: number;
  /** Jobs that a handler gets at once; 1: one by one. */
  readonly batch: number;
  readonly faults: boolean;
  readonly runners: number;
  readonly spawners: number;
  readonly leaseMs: number;
  readonly pollMs: number;
  /** Nothing has moved for so long: what is left is stuck. */
  readonly stallSeconds: number;
  /** How long it may take until every job has ended; then the verdict is about what has happened so far. */
  readonly drainSeconds: number;
  /** Jobs that wait at once, about; `null`: so many that the lanes have something to run on. */
  readonly liveJobs: number | null;
  /** Of so many jobs one kills its process, each time it runs. */
  readonly deadly: number;
  /** Nearly all jobs end well at once, so that lanes are run in long runs, which are extended. */
  readonly smooth: boolean;
  /** Where the log of a round is written, `null`: only after a violation, to a file of its own. */
  readonly log: string | null;
}

const LANES = ['one', 'few', 'many', 'none'] as const;
export type Lanes = (typeof LANES)[number];

export const DEFAULTS: Settings = {
  seconds: 30,
  seed: 1,
  rounds: 1,
  lanes: 'few',
  runs: 1,
  batch: 1,
  faults: true,
  runners: 3,
  spawners: 2,
  leaseMs: 1_000,
  pollMs: 2_000,
  stallSeconds: 30,
  drainSeconds: 600,
  liveJobs: null,
  deadly: 2_000,
  smooth: false,
  log: null,
};

export const USAGE =
  'npm run history -- [--seconds 30] [--seed 1] [--rounds 1] [--lanes one|few|many|none] [--runs 1|20|100] [--batch 1|5] [--no-faults] [--runners 3] [--spawners 2] [--lease-ms 1000] [--poll-ms 2000] [--stall-seconds 30] [--drain-seconds 600] [--live-jobs 300] [--deadly 2000] [--smooth] [--log file]';

/** @throws {Error} naming the wrong argument */
export function parseSettings(args: readonly string[]): Settings {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    args: [...args],
    options: {
      ...{
        seconds: text,
        seed: text,
        rounds: text,
        lanes: text,
        runs: text,
        batch: text,
        runners: text,
        spawners: text,
      },
      ...{
        'lease-ms': text,
        'poll-ms': text,
        'stall-seconds': text,
        'drain-seconds': text,
        'live-jobs': text,
        deadly: text,
        log: text,
        'no-faults': { type: 'boolean' },
        smooth: { type: 'boolean' },
      },
    },
  });
  return {
    seconds: number(values.seconds, 'seconds') ?? DEFAULTS.seconds,
    seed: number(values.seed, 'seed') ?? DEFAULTS.seed,
    rounds: number(values.rounds, 'rounds') ?? DEFAULTS.rounds,
    lanes: lanesOf(values.lanes ?? DEFAULTS.lanes),
    runs: number(values.runs, 'runs') ?? DEFAULTS.runs,
    batch: number(values.batch, 'batch') ?? DEFAULTS.batch,
    faults: !values['no-faults'],
    runners: number(values.runners, 'runners') ?? DEFAULTS.runners,
    spawners: number(values.spawners, 'spawners') ?? DEFAULTS.spawners,
    leaseMs: number(values['lease-ms'], 'lease-ms') ?? DEFAULTS.leaseMs,
    pollMs: number(values['poll-ms'], 'poll-ms') ?? DEFAULTS.pollMs,
    stallSeconds: number(values['stall-seconds'], 'stall-seconds') ?? DEFAULTS.stallSeconds,
    drainSeconds: number(values['drain-seconds'], 'drain-seconds') ?? DEFAULTS.drainSeconds,
    liveJobs: number(values['live-jobs'], 'live-jobs') ?? DEFAULTS.liveJobs,
    deadly: number(values.deadly, 'deadly') ?? DEFAULTS.deadly,
    smooth: values.smooth ?? DEFAULTS.smooth,
    log: values.log ?? null,
  };
}

function number(text: string | undefined, option: string): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new Error(`--${option} got "${text}". Give a whole number above 0.`);
}

function lanesOf(text: string): Lanes {
  const lanes = LANES.find((known) => known === text);
  if (lanes === undefined) throw new Error(`--lanes got "${text}". Known: ${LANES.join(', ')}.`);
  return lanes;
}
