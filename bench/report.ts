import type { Usage } from './meter.js';
import { spreadOf, type Percentiles, type Spread } from './statistics.js';

export type System = 'nestmq' | 'raw SQL';

/** One measured run. */
export interface Sample {
  /** Jobs that were done, for the cost of one. */
  readonly jobs: number;
  readonly perSecond: number | null;
  /** Milliseconds. */
  readonly latency: Percentiles | null;
  readonly usage: Usage | null;
  /** Figures of the workload's own, by name: medians of them stand in the last column. */
  readonly figures?: Readonly<Record<string, number>>;
}

/** All runs of one case of a workload by one system: one line of the table. */
export interface Row {
  readonly workload: string;
  readonly name: string;
  readonly system: System;
  readonly perSecond: Spread | null;
  readonly latency: Percentiles | null;
  readonly nodeMicrosPerJob: number | null;
  readonly serverMicrosPerJob: number | null;
  readonly walBytesPerJob: number | null;
  /** Share of the machine that others used meanwhile: above a few percent the rates say little. */
  readonly othersPercent: number | null;
  readonly figures: Readonly<Record<string, number>>;
  readonly runs: number;
}

export function rowOf(facts: Pick<Row, 'workload' | 'name' | 'system'>, samples: readonly Sample[]): Row {
  const median = (pick: (sample: Sample) => number | null | undefined): number | null => {
    const values = samples.flatMap((sample) => pick(sample) ?? []);
    return values.length === 0 ? null : spreadOf(values).median;
  };
  const rates = samples.flatMap(({ perSecond }) => perSecond ?? []);
  const names = Object.keys(samples[0]?.figures ?? {});
  const p50 = median(({ latency }) => latency?.p50);
  return {
    ...facts,
    perSecond: rates.length === 0 ? null : spreadOf(rates),
    latency:
      p50 === null
        ? null
        : { p50, p95: median(({ latency }) => latency?.p95)!, p99: median(({ latency }) => latency?.p99)! },
    nodeMicrosPerJob: median(({ usage, jobs }) => usage && usage.nodeMicros / jobs),
    serverMicrosPerJob: median(({ usage, jobs }) => usage?.serverMicros && usage.serverMicros / jobs),
    walBytesPerJob: median(({ usage, jobs }) => usage && usage.walBytes / jobs),
    othersPercent: median(
      ({ usage }) => usage?.machine && Math.max(0, (usage.machine.otherMicros / usage.machine.totalMicros) * 100),
    ),
    figures: Object.fromEntries(names.map((name) => [name, median(({ figures }) => figures?.[name])!])),
    runs: samples.length,
  };
}

const COLUMNS: readonly (readonly [title: string, cell: (row: Row) => string])[] = [
  ['workload', (row) => row.workload],
  ['case', (row) => row.name],
  ['system', (row) => row.system],
  ['jobs/s median', ({ perSecond }) => whole(perSecond?.median)],
  ['min – max', ({ perSecond }) => (perSecond ? `${whole(perSecond.min)} – ${whole(perSecond.max)}` : '')],
  ['p50 ms', ({ latency }) => precise(latency?.p50)],
  ['p95', ({ latency }) => precise(latency?.p95)],
  ['p99', ({ latency }) => precise(latency?.p99)],
  ['Node µs/job', (row) => precise(row.nodeMicrosPerJob)],
  ['server µs/job', (row) => precise(row.serverMicrosPerJob)],
  ['WAL B/job', (row) => whole(row.walBytesPerJob)],
  ['others’ CPU %', (row) => whole(row.othersPercent)],
  [
    'more',
    ({ figures }) =>
      Object.entries(figures)
        .map(([name, value]) => `${name} ${precise(value)}`)
        .join(', '),
  ],
];

/** The rows as a table of Markdown. */
export function markdownTable(rows: readonly Row[]): string {
  const titles = COLUMNS.map(([title]) => title);
  const lines = rows.map((row) => COLUMNS.map(([, cell]) => cell(row)));
  const numeric = (column: number): boolean => column >= 3 && column < COLUMNS.length - 1;
  const widths = titles.map((title, column) => Math.max(3, title.length, ...lines.map((line) => line[column]!.length)));
  const format = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => (numeric(column) ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!))).join(' | ')} |`;
  const rule = widths.map((width, column) => (numeric(column) ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  return [format(titles), format(rule), ...lines.map(format)].join('\n');
}

function whole(value: number | null | undefined): string {
  return value === null || value === undefined ? '' : Math.round(value).toLocaleString('en-US').replaceAll(',', ' ');
}

function precise(value: number | null | undefined): string {
  if (value === null || value === undefined) return '';
  return Math.abs(value) >= 1_000 ? whole(value) : String(Number(value.toPrecision(3)));
}
