import { rowOf, type Row, type Sample, type System } from './report.js';
import type { BenchDatabase } from './server.js';
import type { Settings } from './settings.js';

export interface Workload {
  readonly name: string;
  /** One line: what is timed. */
  readonly description: string;
  /** It reads pg_stat_statements, which is off otherwise. */
  readonly countStatements?: boolean;
  /** How often it is measured where the command line does not say: 3, unless a run takes minutes. */
  readonly defaultRepeat?: number;
  run(bench: Bench): Promise<void>;
}

/** What a workload is given. */
export interface Bench {
  readonly workload: string;
  readonly settings: Settings;
  readonly repeat: number;
  readonly database: BenchDatabase;
  report(row: Row): void;
}

/** One system in one case. `amount` is jobs or seconds, whatever the workload counts in. */
export interface Contender {
  readonly system: System;
  readonly name: string;
  run(amount: number): Promise<Sample>;
}

/**
 * Warms every contender up, then lets them run in turn, so that a slow minute of the machine hits all of them. Reports
 * one row each.
 */
export async function compare(
  bench: Bench,
  { amount, warmUp }: { amount: number; warmUp: number },
  contenders: readonly Contender[],
): Promise<void> {
  const samples = new Map(contenders.map((contender): [Contender, Sample[]] => [contender, []]));
  for (const contender of contenders) await contender.run(Math.min(amount, warmUp));
  for (let turn = 0; turn < bench.repeat; turn++) {
    for (const contender of contenders) samples.get(contender)!.push(await contender.run(amount));
  }
  for (const [{ system, name }, runs] of samples) bench.report(rowOf({ workload: bench.workload, name, system }, runs));
}
