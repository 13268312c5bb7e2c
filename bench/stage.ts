import { startMeter, type Usage } from './measure/meter.js';
import { checkRuns, type Faults } from './measure/run-log.js';
import type { PlayerProcess } from './processes/start.js';
import { cleanUp, countDeadTuples, type BenchDatabase, type DatabaseOptions } from './servers/postgres.js';
import type { Feature, SystemEntry } from './systems/index.js';
import type { Place } from './systems/system.js';
import type { Bench } from './workload.js';

/** What one system is measured on: a database of its own and its processes, kept through all runs of a workload. */
export interface Stage {
  readonly entry: SystemEntry;
  /** `null` where the system keeps its jobs elsewhere. */
  readonly database: BenchDatabase | null;
  /** Sends; it has been told to install the system, and is not open. */
  readonly sender: PlayerProcess;
  /** Work. */
  readonly workers: readonly PlayerProcess[];
  /** What earlier runs have left is cleaned up. */
  settle(): Promise<void>;
  /**
   * Counts what the server and all of the stage's processes use.
   *
   * @param workerMicros what the first worker had used when the run began, where it knows that better
   */
  startMeter(workerMicros?: number): Promise<() => Promise<Usage>>;
  deadTuples(): Promise<number | null>;
  /** Waits until each worker that is open has run a job of no account: an application that has started may not listen yet. */
  warmUp(): Promise<void>;
  /** @throws {Error} unless each of so many jobs ran once; others that were sent may have */
  checkRuns(jobs: number, sent?: number): Promise<Faults>;
  end(): Promise<void>;
}

export interface StageOptions extends DatabaseOptions {
  /** Tells its database from that of another stage of the system. */
  readonly suffix?: string;
  readonly workers?: number;
}

export const BUSINESS_TABLE = 'CREATE TABLE business (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n bigint)';

/** Stages of the systems that can do all of this; `only` leaves more of them out. */
export async function openStages(
  bench: Bench,
  { needs = [], only = () => true, ...options }: StageOptions & { needs?: Feature[]; only?: (entry: SystemEntry) => boolean } = {}, // prettier-ignore
): Promise<Stage[]> {
  const stages: Stage[] = [];
  for (const entry of bench.systems.filter(({ does }) => needs.every((feature) => does.includes(feature))))
    if (only(entry)) stages.push(await openStage(bench, entry, options));
  return stages;
}

export async function openStage(
  bench: Bench,
  entry: SystemEntry,
  { workers: count = 1, suffix = '', ...options }: StageOptions,
): Promise<Stage> {
  const { redis } = bench;
  const onRedis = entry.server === 'redis';
  const database = onRedis ? null : await bench.createDatabase(`${entry.name}${suffix}`, options);
  const place: Place = { postgres: database?.url ?? '', redis: onRedis ? await redis!.createDatabase() : null };
  const metered = database ?? { admin: null, serverPid: redis!.pid };
  const startProcess = async (): Promise<PlayerProcess> => {
    const process = await bench.players.take(entry);
    await process.player.moveTo(place);
    return process;
  };
  const sender = await startProcess();
  const workers = await Promise.all(Array.from({ length: count }, startProcess));
  await sender.player.install();
  await database?.admin.query(BUSINESS_TABLE);
  const all = [sender, ...workers];
  return {
    entry,
    database,
    sender,
    workers,
    settle: async () => {
      if (database !== null) await cleanUp(database);
    },
    startMeter: (workerMicros) => {
      const used = async (): Promise<number[]> => Promise.all(all.map(({ player }) => player.cpuMicros()));
      const atStart = async (): Promise<number> => sum((await used()).with(1, workerMicros!));
      return startMeter(metered, async () => sum(await used()), workerMicros === undefined ? undefined : atStart);
    },
    deadTuples: async () => database && (await countDeadTuples(database)),
    warmUp: async () => {
      do await sender.player.ping(workers.length);
      while ((await Promise.all(workers.map(({ player }) => player.pings()))).includes(0));
      await sender.player.untilFinished();
    },
    checkRuns: async (jobs, sent) =>
      checkRuns(await Promise.all(workers.map(({ player }) => player.runs())), jobs, sent),
    end: async () => {
      await Promise.all(all.map((process) => bench.players.giveBack(entry, process)));
      await database?.drop();
    },
  };
}

export async function endStages(stages: readonly Stage[]): Promise<void> {
  for (const stage of stages) await stage.end();
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
