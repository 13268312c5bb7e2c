// The bench itself; `start.mjs` starts it.
import path from 'node:path';
import { describeEnvironment, type Environment } from './report/environment.js';
import { PlayerPool } from './processes/pool.js';
import { writeDocument } from './report/document.js';
import { saveRows } from './report/results.js';
import type { Row } from './report/rows.js';
import { migrateQueue, startServer, type BenchServer } from './servers/postgres.js';
import { findRedis, startRedis, type RedisServer } from './servers/redis.js';
import { parseSettings, USAGE, type Settings } from './settings.js';
import { SYSTEMS, type SystemEntry } from './systems/index.js';
import type { Workload } from './workload.js';
import { WORKLOADS } from './workloads/index.js';

/** Whoever asked for the bench has gone: so does it, and all that it started follows. */
const orphaned = (): never => process.exit(1);
process.on('disconnect', orphaned);
await main();
process.off('disconnect', orphaned);
process.disconnect?.();

async function main(): Promise<void> {
  const settings = readSettings();
  if (settings === null) return;
  try {
    await measure(settings);
    await writeDocument(path.resolve(settings.out));
  } catch (error) {
    console.error(error);
    process.exit(1); // connections are still open, and would complain; watchdogs end the servers
  }
}

function readSettings(): Settings | null {
  try {
    return parseSettings(process.argv.slice(2), {
      workloads: WORKLOADS.map(({ name }) => name),
      systems: SYSTEMS.map(({ name }) => name),
    });
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    console.error(USAGE);
    for (const { name, description } of WORKLOADS) console.error(`  ${name.padEnd(16)} ${description}`);
    console.error(`Systems: ${SYSTEMS.map(({ name }) => name).join(', ')}`);
    process.exitCode = 2;
    return null;
  }
}

async function measure(settings: Settings): Promise<void> {
  if (settings.workloads.length === 0) return;
  const wanted = SYSTEMS.filter(({ name }) => settings.systems.includes(name));
  const found = wanted.some(({ server }) => server === 'redis') ? await findRedis({ install: settings.install }) : null;
  const redis = found !== null && 'program' in found ? await startRedis(found.program) : null;
  const server = await startServer();
  const players = new PlayerPool();
  const systems = wanted.filter(({ server: needed }) => needed === 'postgres' || redis !== null);
  const leftOut: Environment =
    found !== null && 'missing' in found ? { 'BullMQ on Redis': `left out: ${found.missing}` } : {};
  const environment = { ...describeEnvironment(server, redis, systems), ...leftOut };
  for (const [name, value] of Object.entries(environment)) console.log(`${name}: ${value}`);
  for (const workload of WORKLOADS.filter(({ name }) => settings.workloads.includes(name)))
    await runWorkload(workload, { settings, server, redis, systems, environment, players });
  await players.end();
  await redis?.stop();
  await server.stop();
}

interface Surroundings {
  readonly settings: Settings;
  readonly server: BenchServer;
  readonly redis: RedisServer | null;
  readonly systems: readonly SystemEntry[];
  readonly environment: Environment;
  readonly players: PlayerPool;
}

/** Its rows are saved when it has ended: a workload that fails later takes nothing with it. */
async function runWorkload(workload: Workload, surroundings: Surroundings): Promise<void> {
  const { settings, server, redis, systems, environment, players } = surroundings;
  console.log(`\n${workload.name}: ${workload.description}`);
  const rows: Row[] = [];
  const startedAt = performance.now();
  await workload.run({
    workload: workload.name,
    settings,
    repeat: settings.repeat ?? workload.defaultRepeat ?? 3,
    systems,
    server,
    redis,
    players,
    createDatabase: (suffix, options) => server.createDatabase(databaseName(workload.name, suffix), options),
    createQueueDatabase: async (options) => {
      const database = await server.createDatabase(databaseName(workload.name), options);
      await migrateQueue(database);
      return database;
    },
    report: (row) => rows.push(row),
  });
  const asked = (['jobs', 'seconds', 'repeat'] as const).flatMap((name) =>
    settings[name] === null ? [] : [`--${name} ${settings[name]}`],
  );
  saveRows(path.resolve(settings.out), workload, rows, { environment, asked, append: settings.append });
  console.log(`  ${Math.round((performance.now() - startedAt) / 1_000)} s`);
}

function databaseName(...parts: string[]): string {
  return ['bench', ...parts].join('_').replaceAll('-', '_');
}
