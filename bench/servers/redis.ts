import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { freePort } from '../../scripts/postgres.mjs';
import { findProgram, type FoundProgram } from './program.js';

/** What its documentation calls the durable choice that is still fast: at most a second of commits is lost in a crash. */
export const REDIS_SETTINGS = { appendonly: 'yes', appendfsync: 'everysec', save: '' } as const;

const DATABASES = 64;

export interface RedisServer {
  readonly version: string;
  readonly pid: number;
  /** An empty database of it: one that was not used before, or was the longest ago. */
  createDatabase(): Promise<string>;
  stop(): Promise<void>;
}

export function findRedis({ install }: { install: boolean }): Promise<FoundProgram> {
  return findProgram({
    program: 'redis-server',
    package: 'redis-server',
    purpose: 'the column of BullMQ',
    install,
  });
}

export async function startRedis(program: string): Promise<RedisServer> {
  const dir = await mkdtemp(path.join(tmpdir(), 'nestmq-redis-'));
  const port = await freePort();
  const flags = { port, bind: '127.0.0.1', dir, databases: DATABASES, ...REDIS_SETTINGS };
  const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const keeper = fork(fileURLToPath(new URL('./redis-keeper.mjs', import.meta.url)), [program, ...args]);
  const ended = once(keeper, 'exit');
  const [pid] = (await once(keeper, 'message')) as [number];
  const client = new Redis(port, '127.0.0.1', { maxRetriesPerRequest: null });
  client.on('error', () => undefined); // until it listens
  await client.ping();
  const info = await client.info('server');
  let last = -1;
  return {
    version: `Redis ${/redis_version:(\S+)/.exec(info)?.[1] ?? ''}`,
    pid,
    createDatabase: async () => {
      last = (last + 1) % DATABASES;
      await client.select(last);
      await client.flushdb();
      return `redis://127.0.0.1:${port}/${last}`;
    },
    stop: async () => {
      client.disconnect();
      keeper.disconnect();
      await ended;
      await rm(dir, { recursive: true, force: true });
    },
  };
}
