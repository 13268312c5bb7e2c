import { summaryOf, type Row, type Summary } from './rows.js';

type Cell = (summary: Summary) => string;

const COLUMNS: readonly (readonly [title: string, cell: Cell])[] = [
  ['jobs/s, median', ({ perSecond }) => whole(perSecond?.median)],
  ['min – max', ({ perSecond }) => (perSecond ? `${whole(perSecond.min)} – ${whole(perSecond.max)}` : '')],
  ['p50 ms', ({ latency }) => precise(latency?.p50)],
  ['p95 ms', ({ latency }) => precise(latency?.p95)],
  ['p99 ms', ({ latency }) => precise(latency?.p99)],
  ['Node µs/job', ({ nodeMicrosPerJob }) => precise(nodeMicrosPerJob)],
  ['server µs/job', ({ serverMicrosPerJob }) => precise(serverMicrosPerJob)],
  ['WAL B/job', ({ walBytesPerJob }) => whole(walBytesPerJob)],
  ['dead tuples', ({ deadTuples }) => whole(deadTuples)],
  ['lost', ({ lost }) => whole(lost)],
  ['doubled', ({ doubled }) => whole(doubled)],
  ['others’ CPU %', ({ othersPercent }) => whole(othersPercent)],
  ['more', ({ figures }) => Object.entries(figures).map(([name, value]) => `${name} ${precise(value)}`).join(', ')], // prettier-ignore
];

/** Its rows as a table of Markdown, without the columns in which nothing stands. */
export function markdownTable(rows: readonly Row[], labelOf: (system: string) => string): string {
  const summaries = rows.map(summaryOf);
  const columns = COLUMNS.filter(([, cell]) => summaries.some((summary) => cell(summary) !== ''));
  const titles = ['case', 'system', ...columns.map(([title]) => title)];
  const lines = rows.map((row, index) => [
    row.name,
    labelOf(row.system),
    ...columns.map(([, cell]) => cell(summaries[index]!)),
  ]);
  return tableOf(titles, lines, (title) => !['case', 'system', 'more'].includes(title));
}

/** A table of Markdown, as prettier would leave it. */
export function tableOf(
  titles: readonly string[],
  lines: readonly (readonly string[])[],
  isNumeric: (title: string) => boolean,
): string {
  const widths = titles.map((title, column) => Math.max(3, title.length, ...lines.map((line) => line[column]!.length)));
  const numeric = titles.map(isNumeric);
  const format = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => (numeric[column] ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!))).join(' | ')} |`;
  const rule = widths.map((width, column) => (numeric[column] ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  return [format(titles), format(rule), ...lines.map(format)].join('\n');
}

export function whole(value: number | null | undefined): string {
  return value === null || value === undefined ? '' : Math.round(value).toLocaleString('en-US').replaceAll(',', ' ');
}

export function precise(value: number | null | undefined): string {
  if (value === null || value === undefined) return '';
  return Math.abs(value) >= 1_000 ? whole(value) : String(Number(value.toPrecision(3)));
}
