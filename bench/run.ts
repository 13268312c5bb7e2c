// Entry of `npm run bench`.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { markdownTable, type Row } from './report.js';
import { SERVER_SETTINGS, startServer, type BenchServer } from './server.js';
import { parseSettings, USAGE, type Settings } from './settings.js';
import type { Workload } from './workload.js';
import { backlog } from './workloads/backlog.js';
import { blockedLanes } from './workloads/blocked-lanes.js';
import { drain } from './workloads/drain.js';
import { idle } from './workloads/idle.js';
import { laneSpawn } from './workloads/lane-spawn.js';
import { latency } from './workloads/latency.js';
import { ordered } from './workloads/ordered.js';
import { pinned } from './workloads/pinned.js';
import { spawnBulk } from './workloads/spawn-bulk.js';
import { spawnIdempotent } from './workloads/spawn-idempotent.js';
import { spawnSingle } from './workloads/spawn-single.js';
import { stats } from './workloads/stats.js';
import { sustained } from './workloads/sustained.js';
import { transactional } from './workloads/transactional.js';

const WORKLOADS: readonly Workload[] = [
  drain,
  spawnBulk,
  spawnSingle,
  spawnIdempotent,
  latency,
  sustained,
  transactional,
  ordered,
  blockedLanes,
  laneSpawn,
  pinned,
  backlog,
  stats,
  idle,
];

await main();

async function main(): Promise<void> {
  const settings = readSettings();
  if (settings === null) return;
  const server = await startServer();
  try {
    const environment = describeEnvironment(server.version);
    for (const [name, value] of Object.entries(environment)) console.log(`${name}: ${value}`);
    const rows: Row[] = [];
    for (const workload of WORKLOADS.filter(({ name }) => settings.workloads.includes(name)))
      rows.push(...(await runWorkload(workload, server, settings)));
    console.log(`\n${markdownTable(rows)}`);
    if (settings.json !== null)
      writeFileSync(settings.json, `${JSON.stringify({ environment, settings, rows }, null, 2)}\n`);
  } catch (error) {
    console.error(error);
    process.exit(1); // connections are still open, and would complain; the launcher's watchdog ends the server
  }
  await server.stop();
}

function readSettings(): Settings | null {
  try {
    return parseSettings(
      process.argv.slice(2),
      WORKLOADS.map(({ name }) => name),
    );
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    console.error(USAGE);
    for (const { name, description } of WORKLOADS) console.error(`  ${name.padEnd(16)} ${description}`);
    process.exitCode = 2;
    return null;
  }
}

async function runWorkload(workload: Workload, server: BenchServer, settings: Settings): Promise<Row[]> {
  console.log(`\n${workload.name}: ${workload.description}`);
  const database = await server.createDatabase(`bench_${workload.name.replaceAll('-', '_')}`, {
    countStatements: workload.countStatements ?? false,
  });
  const rows: Row[] = [];
  const report = (row: Row): void => {
    rows.push(row);
    console.log(summaryOf(row));
  };
  const repeat = settings.repeat ?? workload.defaultRepeat ?? 3;
  await workload.run({ workload: workload.name, settings, repeat, database, report });
  await database.drop();
  return rows;
}

/** What one wants to see while the rest is still running. */
function summaryOf({ system, name, perSecond, latency: times }: Row): string {
  const rate = perSecond === null ? [] : [`${Math.round(perSecond.median)} jobs/s`];
  const p50 = times === null ? [] : [`p50 ${times.p50.toFixed(2)} ms`];
  return `  ${system.padEnd(8)} ${name}: ${[...rate, ...p50].join(', ')}`;
}

function describeEnvironment(postgres: string): Record<string, string> {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  const [cpu] = os.cpus();
  return {
    date: new Date().toISOString(),
    machine: `${os.availableParallelism()} × ${cpu?.model.trim() ?? 'unknown processor'}, ${Math.round(os.totalmem() / 2 ** 30)} GB, ${os.type()} ${os.release()}`,
    node: process.version,
    postgres,
    settings: Object.entries(SERVER_SETTINGS)
      .map(([name, value]) => `${name}=${value}`)
      .join(' '),
    nestmq: `${version}, commit ${commit()}, ${import.meta.resolve('nestmq').includes('/dist/') ? 'the built package' : 'its sources'}`,
  };
}

function commit(): string {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], { encoding: 'utf8', stdio: 'pipe' }).trim();
  } catch {
    return 'unknown';
  }
}
