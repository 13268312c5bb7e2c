// `npx tsx bench/plans.ts [name …]`: EXPLAIN of each hot statement on a table of a million finished and 100 000 live
// jobs, as the runner sends it. Says where the planner would choose otherwise without statistics, or in a generic plan.
import type pg from 'pg';
import { fillTables } from './plans/fill-tables.js';
import { hotStatements, type HotStatement } from './plans/hot-statements.js';
import { migrateQueue, startServer } from './servers/postgres.js';
import { begin } from '../libs/queue/src/statements/transaction.js';

const wanted = process.argv.slice(2);
const server = await startServer();
try {
  const database = await server.createDatabase('bench_plans');
  await migrateQueue(database);
  const { admin } = database;
  const statements = hotStatements(await fillTables(admin)).filter(
    ({ name }) => wanted.length === 0 || wanted.includes(name),
  );
  const unanalyzed = new Map<string, string>();
  for (const statement of statements) unanalyzed.set(statement.name, nodesOf(await explain(admin, statement)));
  await admin.query('VACUUM ANALYZE');
  const table: string[] = [];
  for (const statement of statements) table.push(await show(admin, statement, unanalyzed.get(statement.name)!));
  console.log(['| statement | server ms | plan |', '| --- | ---: | --- |', ...table].join('\n'));
  await database.drop();
} finally {
  await server.stop();
}

/** Prints the plan; answers its line of the table. */
async function show(admin: pg.Client, statement: HotStatement, unanalyzed: string): Promise<string> {
  const plan = await explain(admin, statement);
  console.log(`── ${statement.name}: ${statement.description}\n\n${plan}\n`);
  const remarks = [
    ...(/Seq Scan on (job|lease|finished_job|runner)\b/.exec(plan) ?? []).slice(0, 1),
    ...(nodesOf(plan) === unanalyzed ? [] : ['another one before ANALYZE']),
    ...(nodesOf(plan) === nodesOf(await explainGeneric(admin, statement)) ? [] : ['another one as a generic plan']),
  ];
  const millis = /Execution Time: ([\d.]+)/.exec(plan)?.[1] ?? '';
  return `| ${statement.name} | ${millis} | ${remarks.join(', ') || 'as it should be'} |`;
}

/** Runs it with its parameters, and takes back what it wrote. The second run finds its pages in memory. */
async function explain(admin: pg.Client, { text, values }: HotStatement): Promise<string> {
  let plan = '';
  for (let turn = 0; turn < 2; turn++) {
    await admin.query(begin);
    try {
      plan = lines(await admin.query({ text: `EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) ${text}`, values }));
    } finally {
      await admin.query('ROLLBACK');
    }
  }
  return plan;
}

async function explainGeneric(admin: pg.Client, { text }: HotStatement): Promise<string> {
  await admin.query(begin);
  try {
    return lines(await admin.query(`EXPLAIN (GENERIC_PLAN, COSTS OFF) ${text}`));
  } finally {
    await admin.query('ROLLBACK');
  }
}

function lines({ rows }: pg.QueryResult): string {
  return (rows as { 'QUERY PLAN': string }[]).map((row) => row['QUERY PLAN']).join('\n');
}

/** The plan's nodes alone, in their order: no conditions, no counts. */
function nodesOf(plan: string): string {
  return plan
    .split('\n')
    .filter((line, index) => index === 0 || /^\s*(->|CTE|InitPlan|SubPlan)/.test(line))
    .map((line) => line.replace(/\s*\((actual|never executed).*/, ''))
    .join('\n');
}
