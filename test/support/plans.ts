import type { Statement } from '../../libs/queue/src/statements/statement.js';
import { begin } from '../../libs/queue/src/statements/transaction.js';
import { openSession } from './engine.js';
import type { Tables } from './tables.js';

/** A node of a plan, as EXPLAIN answers it. */
export interface PlanNode {
  'Node Type': string;
  'Relation Name'?: string;
  'Index Name'?: string;
  'Index Cond'?: string;
  Filter?: string;
  'Actual Rows'?: number;
  'Actual Loops'?: number;
  'Rows Removed by Filter'?: number;
  'Rows Removed by Index Recheck'?: number;
  Plans?: PlanNode[];
}

const flatten = (node: PlanNode): PlanNode[] => [node, ...(node.Plans ?? []).flatMap(flatten)];

/** The plan of a statement as the runner sends it, run or generic; what it wrote is taken back. */
export async function planOf<Params>(
  url: string,
  statement: Statement<Params, unknown>,
  params: Params,
  { generic, start = begin }: { generic: boolean; start?: string },
): Promise<PlanNode[]> {
  const session = await openSession(url);
  const { text, values } = statement.query(session.client, params);
  await session.pg.query(start);
  try {
    const { rows } = generic
      ? await session.pg.query(`EXPLAIN (GENERIC_PLAN, FORMAT JSON) ${text}`)
      : await session.pg.query(`EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) ${text}`, values);
    return flatten((rows[0] as { 'QUERY PLAN': [{ Plan: PlanNode }] })['QUERY PLAN'][0].Plan);
  } finally {
    await session.pg.query('ROLLBACK');
  }
}

/** Every scan of these tables: by what, and how many rows it has read. */
function scansOf(nodes: readonly PlanNode[], tables: readonly string[]): { type: string; rows: number }[] {
  return nodes
    .filter((node) => tables.includes(node['Relation Name'] ?? '') && / Scan$/.test(node['Node Type']))
    .map((node) => ({
      type: node['Node Type'],
      rows:
        ((node['Actual Rows'] ?? 0) +
          (node['Rows Removed by Filter'] ?? 0) +
          (node['Rows Removed by Index Recheck'] ?? 0)) *
        (node['Actual Loops'] ?? 0),
    }));
}

export const rowsRead = (nodes: readonly PlanNode[], tables: readonly string[]): number =>
  scansOf(nodes, tables).reduce((sum, { rows }) => sum + rows, 0);

/** Scans of these tables that go by no index. */
export const notByIndex = (nodes: readonly PlanNode[], tables: readonly string[]): string[] =>
  scansOf(nodes, tables).flatMap(({ type }) => (type.startsWith('Index') || type === 'Tid Scan' ? [] : [type]));

/** Indexes of a table that are walked from end to end. */
export const walkedWhole = (nodes: readonly PlanNode[], table: string): string[] =>
  nodes.flatMap((node) =>
    node['Relation Name'] === table && node['Index Name'] !== undefined && node['Index Cond'] === undefined
      ? [node['Index Name']]
      : [],
  );

export const indexesOf = (nodes: readonly PlanNode[]): (string | undefined)[] =>
  nodes.map((node) => node['Index Name']);

/** Conditions that compare a row with a list one by one. */
export const notHashed = (nodes: readonly PlanNode[]): string[] =>
  nodes.flatMap(({ Filter }) =>
    Filter !== undefined && /(?<!hashed )SubPlan \d+\)\.col/.test(Filter) ? [Filter] : [],
  );

export type Statistics = [name: string, prepare: () => Promise<unknown>];

/** What the planner may know of tables that are full, and of their indexes. */
export function statistics(tables: Tables, names: readonly string[]): Statistics[] {
  return [
    ['never analyzed', async () => undefined],
    ['analyzed', () => tables.sql(`ANALYZE ${names.map((name) => `nestmq.${name}`).join()}`)],
    ['analyzed while empty', () => believeEmpty(tables, names, '0')],
  ];
}

/** The planner takes such a table for one of a single row, however far it has grown since. */
export const deadStatistics = (tables: Tables, names: readonly string[]): Statistics => [
  'analyzed while all rows were dead',
  () => believeEmpty(tables, names, 'pg_relation_size(oid) / 8192'),
];

async function believeEmpty(tables: Tables, names: readonly string[], relpages: string): Promise<void> {
  const oids = names.map((name) => `'nestmq.${name}'::regclass`).join();
  await tables.sql(`DELETE FROM pg_statistic WHERE starelid IN (${oids})`);
  await tables.sql(
    `UPDATE pg_class SET reltuples = 0, relpages = ${relpages}
     WHERE oid IN (${oids}) OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid IN (${oids}))`,
  );
}
