import type { Usage } from '../measure/meter.js';
import { spreadOf, type Percentiles, type Spread } from '../measure/statistics.js';

/** One measured run. */
export interface Sample {
  /** Jobs that were done, for the cost of one. */
  readonly jobs: number;
  readonly perSecond: number | null;
  /** Milliseconds. */
  readonly latency: Percentiles | null;
  readonly usage: Usage | null;
  /** Dead row versions in the database when the run was over. */
  readonly deadTuples?: number | null;
  /** Counted over all processes; a run with any is the end of the bench. */
  readonly faults?: { readonly lost: number; readonly doubled: number };
  /** Figures of the workload's own, by name: medians of them stand in the last column. */
  readonly figures?: Readonly<Record<string, number>>;
  /** Jobs a second in each second of the run, for a plot. */
  readonly series?: readonly number[];
}

/** All runs of one case of a workload by one system: one line of the table. */
export interface Row {
  readonly workload: string;
  readonly name: string;
  /** Name of the system. */
  readonly system: string;
  readonly samples: readonly Sample[];
}

/** What the table says of a row. */
export interface Summary {
  readonly perSecond: Spread | null;
  readonly latency: Percentiles | null;
  readonly nodeMicrosPerJob: number | null;
  readonly serverMicrosPerJob: number | null;
  readonly walBytesPerJob: number | null;
  readonly deadTuples: number | null;
  readonly lost: number | null;
  readonly doubled: number | null;
  /** Share of the machine that others used meanwhile: above a few percent the rates say little. */
  readonly othersPercent: number | null;
  readonly figures: Readonly<Record<string, number>>;
  readonly runs: number;
}

export function summaryOf({ samples }: Pick<Row, 'samples'>): Summary {
  const median = (pick: (sample: Sample) => number | null | undefined): number | null => {
    const values = samples.flatMap((sample) => pick(sample) ?? []);
    return values.length === 0 ? null : spreadOf(values).median;
  };
  const most = (pick: (sample: Sample) => number | undefined): number | null => {
    const values = samples.flatMap((sample) => pick(sample) ?? []);
    return values.length === 0 ? null : Math.max(...values);
  };
  const rates = samples.flatMap(({ perSecond }) => perSecond ?? []);
  const names = Object.keys(samples[0]?.figures ?? {});
  const p50 = median(({ latency }) => latency?.p50);
  const perJob = (pick: (usage: Usage) => number | null): number | null =>
    median(({ usage, jobs }) => {
      const used = usage === null ? null : pick(usage);
      return used === null || jobs === 0 ? null : used / jobs;
    });
  return {
    perSecond: rates.length === 0 ? null : spreadOf(rates),
    latency:
      p50 === null
        ? null
        : { p50, p95: median(({ latency }) => latency?.p95)!, p99: median(({ latency }) => latency?.p99)! },
    nodeMicrosPerJob: perJob(({ nodeMicros }) => nodeMicros),
    serverMicrosPerJob: perJob(({ serverMicros }) => serverMicros),
    walBytesPerJob: perJob(({ walBytes }) => walBytes),
    deadTuples: median(({ deadTuples }) => deadTuples),
    lost: most(({ faults }) => faults?.lost),
    doubled: most(({ faults }) => faults?.doubled),
    othersPercent: median(
      ({ usage }) => usage?.machine && Math.max(0, (usage.machine.otherMicros / usage.machine.totalMicros) * 100),
    ),
    figures: Object.fromEntries(names.map((name) => [name, median(({ figures }) => figures?.[name])!])),
    runs: samples.length,
  };
}
