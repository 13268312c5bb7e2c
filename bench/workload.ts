import type { PlayerPool } from './processes/pool.js';
import { summaryOf, type Row, type Sample } from './report/rows.js';
import type { BenchDatabase, BenchServer, DatabaseOptions } from './servers/postgres.js';
import type { RedisServer } from './servers/redis.js';
import type { Settings } from './settings.js';
import type { SystemEntry } from './systems/index.js';

export interface Workload {
  readonly name: string;
  /** One line: what is timed. */
  readonly description: string;
  /** Turns where the command line does not say: 3, but 2 or 1 where a turn takes minutes. */
  readonly defaultRepeat?: number;
  run(bench: Bench): Promise<void>;
}

/** What a workload is given. */
export interface Bench {
  readonly workload: string;
  readonly settings: Settings;
  readonly repeat: number;
  /** Those the command line asks for, of which this machine has the server. */
  readonly systems: readonly SystemEntry[];
  readonly server: BenchServer;
  readonly redis: RedisServer | null;
  readonly players: PlayerPool;
  createDatabase(suffix: string, options?: DatabaseOptions): Promise<BenchDatabase>;
  /** For workloads of nestmq's own: its tables are there. */
  createQueueDatabase(options?: DatabaseOptions): Promise<BenchDatabase>;
  report(row: Row): void;
}

/** One system in one case. */
export interface Contender {
  readonly system: string;
  readonly name: string;
  /** @param measured `false`: a shorter run, to warm up */
  run(measured: boolean): Promise<Sample>;
}

/**
 * Warms every contender up, then lets them run in turn, so that a slow minute of the machine hits all of them. Reports
 * one row each.
 */
export async function takeTurns(bench: Bench, contenders: readonly Contender[]): Promise<void> {
  const samples = new Map(contenders.map((contender): [Contender, Sample[]] => [contender, []]));
  if (bench.settings.warmUp) for (const contender of contenders) await contender.run(false);
  for (let turn = 0; turn < bench.repeat; turn++) {
    for (const contender of contenders) {
      const sample = await contender.run(true);
      samples.get(contender)!.push(sample);
      console.log(`  ${turn + 1}: ${lineOf(contender, sample)}`);
    }
  }
  for (const [{ system, name }, runs] of samples)
    bench.report({ workload: bench.workload, name, system, samples: runs });
}

function lineOf({ system, name }: Contender, sample: Sample): string {
  const { perSecond, latency: times } = summaryOf({ samples: [sample] });
  const rate = perSecond === null ? [] : [`${Math.round(perSecond.median)} jobs/s`];
  const millis = times === null ? [] : [`p50 ${times.p50.toFixed(2)} ms, p99 ${times.p99.toFixed(2)} ms`];
  return `${system.padEnd(20)} ${name}: ${[...rate, ...millis].join(', ')}`;
}

/** For workloads of nestmq's own, which count in jobs or seconds. */
export function compare(
  bench: Bench,
  { amount, warmUp }: { amount: number; warmUp: number },
  contenders: readonly { system: string; name: string; run(amount: number): Promise<Sample> }[],
): Promise<void> {
  return takeTurns(
    bench,
    contenders.map((contender) => ({
      system: contender.system,
      name: contender.name,
      run: (measured) => contender.run(measured ? amount : Math.min(amount, warmUp)),
    })),
  );
}
