import { SYSTEMS } from '../systems/index.js';
import { barPlot, linePlot, rangePlot, type Group, type Mark } from './plot.js';
import type { Results } from './results.js';
import { summaryOf, type Row, type Summary } from './rows.js';

const entries = new Map(SYSTEMS.map((entry) => [entry.name, entry]));

/** The plot of a workload's results, `null` where there is nothing to see beside each other. */
export function plotOf({ workload, rows }: Results): string | null {
  const compared = rows.filter(({ system }) => entries.has(system));
  if (new Set(compared.map(({ system }) => system)).size < 2) return null;
  if (workload === 'pinned') return linePlot(`${workload}: jobs started in each second`, compared.map(lineOf));
  const rates = groupsOf(compared, ({ perSecond }) => perSecond && [perSecond.min, perSecond.median, perSecond.max]);
  if (rates.length > 0) return barPlot(`${workload}: jobs a second, median with the least and the greatest run`, rates);
  const times = groupsOf(compared, ({ latency }) => latency && [latency.p50, latency.p95, latency.p99]);
  if (times.length > 0) return rangePlot(`${workload}: milliseconds, p50 to p99, logarithmic`, times);
  return null;
}

function lineOf({ system, samples }: Row): { label: string; tone: Mark['tone']; values: readonly number[] } {
  const { label, group } = entries.get(system)!;
  return { label, tone: group, values: samples[0]?.series ?? [] };
}

function groupsOf(rows: readonly Row[], pick: (summary: Summary) => Mark['values'] | null): Group[] {
  const groups = new Map<string, Mark[]>();
  for (const row of rows) {
    const values = pick(summaryOf(row));
    if (values === null) continue;
    const { label, group: tone } = entries.get(row.system)!;
    groups.set(row.name, [...(groups.get(row.name) ?? []), { label, tone, values }]);
  }
  return [...groups].map(([name, marks]) => ({ name, marks }));
}
