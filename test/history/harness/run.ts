// Entry of `npm run history`.
import { writeFileSync } from 'node:fs';
import { queueMigrations } from 'nestmq/migrations';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { startPostgres } from '../../../scripts/postgres.mjs';
import { excerpt } from '../check.js';
import type { Event } from '../event.js';
import { describeRound, type Round } from './report.js';
import { playRound } from './round.js';
import { parseSettings, USAGE, type Settings } from './settings.js';

/** Violations that are printed of a round, with all that is known of their jobs. */
const SHOWN = 5;

await main();

async function main(): Promise<void> {
  const settings = readSettings();
  if (settings === null) return;
  const server = await startPostgres({ settings: { fsync: 'off', max_connections: 200, shared_buffers: '256MB' } });
  let found = 0;
  try {
    for (let round = 0; round < settings.rounds; round++)
      found += await play(server.url, { ...settings, seed: settings.seed + round });
  } catch (error) {
    console.error(error);
    found += 1;
  }
  await server.stop();
  process.exit(found > 0 ? 1 : 0);
}

async function play(server: string, settings: Settings): Promise<number> {
  const url = await createDatabase(server, `history_${settings.seed}`);
  const round = await playRound(url, settings);
  console.log(describeRound(round));
  for (const violation of round.violations.slice(0, SHOWN)) {
    console.log(`\n${violation.rule}: ${violation.what}`);
    for (const event of excerpt(round.events, violation)) console.log(`  ${JSON.stringify(event)}`);
  }
  write(round, settings);
  return round.violations.length;
}

function write({ seed, violations, events }: Round & { events: readonly Event[] }, { log }: Settings): void {
  if (log === null && violations.length === 0) return;
  const file = log ?? `history-${seed}.jsonl`;
  writeFileSync(file, events.map((event) => `${JSON.stringify(event)}\n`).join(''));
  console.log(`The log is in ${file}.`);
}

function readSettings(): Settings | null {
  try {
    return parseSettings(process.argv.slice(2));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    console.error(USAGE);
    process.exitCode = 2;
    return null;
  }
}

async function createDatabase(server: string, name: string): Promise<string> {
  const admin = new pg.Client({ connectionString: server });
  await admin.connect();
  await admin.query(`CREATE DATABASE ${name}`);
  await admin.end();
  const url = new URL(server);
  url.pathname = `/${name}`;
  const dataSource = new DataSource({ type: 'postgres', url: url.href, migrations: [...queueMigrations] });
  await dataSource.initialize();
  await dataSource.runMigrations();
  await dataSource.destroy();
  return url.href;
}
