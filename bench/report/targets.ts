import { SYSTEMS, type SystemEntry } from '../systems/index.js';
import { precise, tableOf, whole } from './markdown.js';
import type { Results } from './results.js';
import { summaryOf, type Summary } from './rows.js';

/** One line of what this package has set out to reach. */
interface Target {
  readonly what: string;
  readonly against: string;
  /** `'≥'`: the ratio is to be at least so great. */
  readonly sign: '≥' | '≤';
  readonly wanted: number;
  /** `null`: not measured yet. */
  readonly reached: (figures: Figures) => Reached | null;
}

interface Reached {
  readonly ours: number;
  readonly theirs: number;
  readonly their: string;
  readonly ratio: number;
}

type Pick = (summary: Summary) => number | null | undefined;
type Which = (entry: SystemEntry) => boolean;

const rate: Pick = ({ perSecond }) => perSecond?.median;
const p50: Pick = ({ latency }) => latency?.p50;
const p99: Pick = ({ latency }) => latency?.p99;
const figure = (start: string): Pick => ({ figures }) =>
  Object.entries(figures).find(([name]) => name.startsWith(start))?.[1]; // prettier-ignore

const peers: Which = ({ group }) => group === 'peer';
const postgresPeers: Which = (entry) => peers(entry) && entry.server === 'postgres';
const redisPeers: Which = (entry) => peers(entry) && entry.server === 'redis';
const defaults: Which = (entry) => peers(entry) && !entry.tuned;
const raw: Which = ({ group }) => group === 'raw';

const FASTEST = 'the fastest Postgres peer in its fastest settings';

const TARGETS: readonly Target[] = [
  { what: 'drain', against: FASTEST, sign: '≥', wanted: 3, reached: (all) => all.best('drain', 'jobs', rate, postgresPeers) }, // prettier-ignore
  { what: 'drain, defaults', against: 'the best peer in its defaults', sign: '≥', wanted: 10, reached: (all) => all.best('drain', 'jobs', rate, defaults) }, // prettier-ignore
  { what: 'sustained spawn and work, defaults', against: 'the best peer in its defaults', sign: '≥', wanted: 3, reached: (all) => all.best('sustained', 'jobs', rate, defaults) }, // prettier-ignore
  { what: 'its p99', against: 'the p99 of that one', sign: '≤', wanted: 0.2, reached: (all) => all.ofBest('sustained', 'jobs', p99, rate, defaults) }, // prettier-ignore
  { what: 'sustained spawn and work', against: FASTEST, sign: '≥', wanted: 3, reached: (all) => all.best('sustained', 'jobs', rate, postgresPeers) }, // prettier-ignore
  { what: 'its p99', against: 'the p99 of that one', sign: '≤', wanted: 0.2, reached: (all) => all.ofBest('sustained', 'jobs', p99, rate, postgresPeers) }, // prettier-ignore
  { what: 'plain spawn, 100 callers', against: 'the best Postgres peer', sign: '≥', wanted: 10, reached: (all) => all.best('spawn-single', '100 callers', rate, postgresPeers) }, // prettier-ignore
  { what: 'plain spawn, 100 callers', against: 'BullMQ on Redis', sign: '≥', wanted: 1, reached: (all) => all.best('spawn-single', '100 callers', rate, redisPeers) }, // prettier-ignore
  { what: 'bulk spawn', against: 'the best peer', sign: '≥', wanted: 5, reached: (all) => all.best('spawn-bulk', 'calls of 1000', rate, peers) }, // prettier-ignore
  { what: 'idle latency spawn → start, p50', against: 'every peer, Redis included', sign: '≤', wanted: 1, reached: (all) => all.least('latency', 'in one process', p50, peers) }, // prettier-ignore
  { what: 'idle latency spawn → start, p99', against: 'every peer, Redis included', sign: '≤', wanted: 1, reached: (all) => all.least('latency', 'in one process', p99, peers) }, // prettier-ignore
  { what: 'between processes, p50', against: 'every peer, Redis included', sign: '≤', wanted: 1, reached: (all) => all.least('latency', 'from one process to another', p50, peers) }, // prettier-ignore
  { what: 'pinned horizon, last 10 s of 120 s', against: 'its first 10 s', sign: '≥', wanted: 0.9, reached: (all) => all.within('pinned', ['snapshot', figure('last 10 s')], ['snapshot', figure('first 10 s')]) }, // prettier-ignore
  { what: 'backlog of 10 000 000, claim p99', against: 'an empty table', sign: '≤', wanted: 1.5, reached: (all) => all.within('backlog', ['over 10 000 000 due', figure('claim p99')], ['over nothing', figure('claim p99')]) }, // prettier-ignore
  { what: 'ordered, 1 000 keys × 20', against: 'the fastest peer that keeps order', sign: '≥', wanted: 5, reached: (all) => all.best('ordered', '1 000 keys', rate, peers) }, // prettier-ignore
  { what: 'ordered, 20 keys × 100', against: 'the fastest peer that keeps order', sign: '≥', wanted: 5, reached: (all) => all.best('ordered', '20 keys', rate, peers) }, // prettier-ignore
  { what: 'drain', against: 'raw SQL doing the same durable work', sign: '≥', wanted: 0.6, reached: (all) => all.best('drain', 'jobs', rate, raw) }, // prettier-ignore
  { what: 'in order, 1 000 keys × 20', against: 'the same jobs unordered', sign: '≥', wanted: 0.8, reached: (all) => all.inOrder('20000 jobs of 1000 keys') }, // prettier-ignore
  { what: 'in order, 100 000 keys × 1', against: 'the same jobs unordered', sign: '≥', wanted: 0.5, reached: (all) => all.inOrder('100000 jobs of 100000 keys') }, // prettier-ignore
  { what: 'in order, 1 key × 100 000', against: 'the same jobs unordered', sign: '≥', wanted: 0.5, reached: (all) => all.inOrder('100000 jobs of 1 key') }, // prettier-ignore
  { what: 'spawns of 32 connections into one lane', against: 'into 32 lanes, within noise', sign: '≥', wanted: 0.95, reached: (all) => all.within('lane-spawn', ['into one lane', rate], ['into 32 lanes', rate]) }, // prettier-ignore
  { what: 'transactional handlers, one INSERT each', against: 'the same two statements by pgbench', sign: '≥', wanted: 0.6, reached: (all) => all.beside('transactions', 'one INSERT', rate, 'pgbench, simple') }, // prettier-ignore
  { what: 'the same', against: 'by pgbench with prepared statements', sign: '≥', wanted: 0.6, reached: (all) => all.beside('transactions', 'one INSERT', rate, 'pgbench, prepared') }, // prettier-ignore
  { what: 'transactional batches of 100', against: 'one job a transaction', sign: '≥', wanted: 10, reached: (all) => all.within('handlers', ['the same in batches', rate], ['a row written', rate]) }, // prettier-ignore
  { what: 'spawn with an idempotency key, 1 caller', against: 'without', sign: '≥', wanted: 0.7, reached: (all) => all.keyed('spawn, 1 caller') }, // prettier-ignore
  { what: 'the same, 100 callers', against: 'without', sign: '≥', wanted: 0.7, reached: (all) => all.keyed('spawn, 100 callers') }, // prettier-ignore
  { what: 'the same, spawnMany of 1 000', against: 'without', sign: '≥', wanted: 0.7, reached: (all) => all.keyed('spawnMany of 1000') }, // prettier-ignore
  { what: 'stats with 1 000 000 jobs, p50', against: '50 ms', sign: '≤', wanted: 1, reached: (all) => all.inMillis('stats', '10 channels, of every state, vacuumed', p50, 50) }, // prettier-ignore
];

/** Looks figures up in the results; names of cases by their beginning. */
class Figures {
  constructor(private readonly results: readonly Results[]) {}

  /** Against the greatest figure of these systems. */
  best(workload: string, name: string, pick: Pick, which: Which): Reached | null {
    return this.against(workload, name, pick, this.sorted(workload, name, pick, which).at(-1)?.entry);
  }

  /** Against the least figure of these systems. */
  least(workload: string, name: string, pick: Pick, which: Which): Reached | null {
    return this.against(workload, name, pick, this.sorted(workload, name, pick, which)[0]?.entry);
  }

  /** One figure, against the system that is best by another one. */
  ofBest(workload: string, name: string, pick: Pick, by: Pick, which: Which): Reached | null {
    return this.against(workload, name, pick, this.sorted(workload, name, by, which).at(-1)?.entry);
  }

  /** Against something that is no queue. */
  beside(workload: string, name: string, pick: Pick, other: string): Reached | null {
    const ours = this.figure(workload, name, 'nestmq', pick);
    const theirs = this.figure(workload, name, other, pick);
    return ours === null || theirs === null ? null : { ours, theirs, their: other, ratio: ours / theirs };
  }

  /** Two figures of our own. */
  within(workload: string, [name, pick]: [string, Pick], [other, pickOther]: [string, Pick]): Reached | null {
    const ours = this.figure(workload, name, 'nestmq', pick);
    const theirs = this.figure(workload, other, 'nestmq', pickOther);
    return ours === null || theirs === null ? null : { ours, theirs, their: 'nestmq', ratio: ours / theirs };
  }

  /** Jobs in order against the same ones unordered. */
  inOrder(jobs: string): Reached | null {
    return this.within('order-cost', [`${jobs}, in order`, rate], [`${jobs}, unordered`, rate]);
  }

  /** Spawns with a key against those without. */
  keyed(how: string): Reached | null {
    return this.within('spawn-idempotent', [`${how}, with a key`, rate], [`${how}, without a key`, rate]);
  }

  /** A time against a limit. */
  inMillis(workload: string, name: string, pick: Pick, limit: number): Reached | null {
    const ours = this.figure(workload, name, 'nestmq', pick);
    return ours === null ? null : { ours, theirs: limit, their: 'nestmq', ratio: ours / limit };
  }

  private against(workload: string, name: string, pick: Pick, entry: SystemEntry | undefined): Reached | null {
    const ours = this.figure(workload, name, 'nestmq', pick);
    const theirs = entry === undefined ? null : this.figure(workload, name, entry.name, pick);
    return ours === null || theirs === null ? null : { ours, theirs, their: entry!.label, ratio: ours / theirs };
  }

  private sorted(workload: string, name: string, pick: Pick, which: Which): { entry: SystemEntry; value: number }[] {
    return SYSTEMS.filter(which)
      .flatMap((entry) => {
        const value = this.figure(workload, name, entry.name, pick);
        return value === null ? [] : [{ entry, value }];
      })
      .toSorted((a, b) => a.value - b.value);
  }

  private figure(workload: string, name: string, system: string, pick: Pick): number | null {
    const rows = this.results.find((result) => result.workload === workload)?.rows ?? [];
    const row = rows.find((of) => of.system === system && of.name.startsWith(name));
    return (row && pick(summaryOf(row))) ?? null;
  }
}

export function targetsTable(results: readonly Results[]): string {
  const figures = new Figures(results);
  const lines = TARGETS.map(({ what, against, sign, wanted, reached }) => {
    const found = reached(figures);
    if (found === null) return [what, against, `${sign} ${wanted}`, '', '', 'not measured'];
    const isReached = sign === '≥' ? found.ratio >= wanted : found.ratio <= wanted;
    const number = (value: number): string => (value >= 1_000 ? whole(value) : precise(value));
    return [
      what,
      against,
      `${sign} ${wanted}`,
      precise(found.ratio),
      `${number(found.ours)} : ${number(found.theirs)}${found.their === 'nestmq' ? '' : `, ${found.their}`}`,
      isReached ? 'yes' : '**no**',
    ];
  });
  return tableOf(['workload', 'against', 'wanted', 'ratio', 'figures', 'reached'], lines, (title) => title === 'ratio');
}
