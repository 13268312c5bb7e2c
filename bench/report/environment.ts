import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import os from 'node:os';
import { SERVER_SETTINGS, type BenchServer } from '../servers/postgres.js';
import { REDIS_SETTINGS, type RedisServer } from '../servers/redis.js';
import type { SystemEntry } from '../systems/index.js';

/** What was measured on what, by name. */
export type Environment = Readonly<Record<string, string>>;

export function describeEnvironment(
  server: BenchServer,
  redis: RedisServer | null,
  systems: readonly SystemEntry[],
): Environment {
  const [cpu] = os.cpus();
  return {
    date: new Date().toISOString().slice(0, 16).replace('T', ' '),
    machine: `${os.availableParallelism()} × ${cpu?.model.trim() ?? 'unknown processor'}, ${Math.round(os.totalmem() / 2 ** 30)} GB, ${os.type()} ${os.release()}`,
    node: process.version,
    postgres: `${server.version.split(' ', 2).join(' ')}, ${settingsText(SERVER_SETTINGS)}${place()}`,
    ...(redis && { redis: `${redis.version}, ${settingsText(REDIS_SETTINGS)}` }),
    nestmq: `commit ${commit()}, ${import.meta.resolve('nestmq').includes('/dist/') ? 'the built package' : 'its sources'}`,
    ...Object.fromEntries(
      systems.map((entry) => [
        entry.label === 'nestmq' ? 'nestmq options' : entry.label,
        [versionOf(entry), entry.settings].filter(Boolean).join(', '),
      ]),
    ),
  };
}

/** Where the data stands, if not on the system's disk: in memory nothing waits for it. */
const place = (): string => (process.env['PG_TMP'] ? `, in ${process.env['PG_TMP']}` : '');

function versionOf({ package: name }: SystemEntry): string {
  if (name === null) return '';
  const manifest = new URL(`../node_modules/${name}/package.json`, import.meta.url);
  return (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version;
}

const settingsText = (settings: Readonly<Record<string, unknown>>): string =>
  Object.entries(settings)
    .map(([name, value]) => `${name}=${String(value) || "''"}`)
    .join(' ');

function commit(): string {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], { encoding: 'utf8', stdio: 'pipe' }).trim();
  } catch {
    return 'unknown';
  }
}
