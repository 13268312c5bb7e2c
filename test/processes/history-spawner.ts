// A process of the history harness that sends jobs: many transactions at once, of which some roll back.
import 'reflect-metadata';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { TypeOrmModule } from '@nestjs/typeorm';
import { JobSpawner, QueueModule } from 'nestmq';
import { DataSource, type EntityManager } from 'typeorm';
import { EventLog } from '../history/harness/log.js';
import { Random } from '../history/harness/random.js';
import { randomTask, type Task, type TaskShares } from '../history/harness/task.js';
import { pause } from '../support/pace.js';

const env = process.env;
const SPAWNERS_AT_ONCE = 8;
const LIVE_JOBS = Number(env.LIVE_JOBS);
const LANES = Number(env.LANES);
const SHARES: TaskShares = { deadly: Number(env.DEADLY), smooth: env.SMOOTH === '1' };
const log = new EventLog(env.URL!);
const rolledBack = new Error('told to roll back');

@Module({
  imports: [
    TypeOrmModule.forRoot({ type: 'postgres', url: env.URL!, retryAttempts: 0, extra: { max: SPAWNERS_AT_ONCE + 4 } }),
    QueueModule.forRoot({ runner: false, openNames: true }),
  ],
})
class SpawnerModule {}

const app = await NestFactory.createApplicationContext(SpawnerModule, { logger: ['error', 'warn'] });
const jobs = app.get(JobSpawner);
const dataSource = app.get(DataSource);
let stopping = false;
let calls = 0;
let transactions = 0;

/** Many jobs wait for their turn, not ever more of them. */
let live = 0;
async function watch(): Promise<void> {
  while (!stopping) {
    const [row] = await dataSource.query<{ count: string }[]>('SELECT count(*) FROM nestmq.job');
    live = Number(row!.count);
    await pause(50);
  }
}

async function spawner(random: Random): Promise<void> {
  while (!stopping) {
    if (live > LIVE_JOBS) await pause(20);
    else await transaction(random);
  }
}

async function transaction(random: Random): Promise<void> {
  const name = `${process.pid}-${++transactions}`;
  const ids: string[] = [];
  const joins = random.chance(0.7);
  const rollsBack = joins && random.chance(0.2);
  try {
    if (joins) {
      await dataSource.transaction(async (manager) => {
        for (let left = random.between(1, 3); left > 0; left--) {
          ids.push(...(await call(random, name, manager)));
          if (random.chance(0.3)) await pause(random.between(0, 40));
        }
        if (rollsBack) throw rolledBack;
      });
    } else ids.push(...(await call(random, name)));
  } catch (error) {
    if (error !== rolledBack) throw error;
  }
  await log.add('transaction', { transaction: name, outcome: rollsBack ? 'rolled back' : 'committed', ids });
}

async function call(random: Random, transactionName: string, manager?: EntityManager): Promise<string[]> {
  const name = `${process.pid}.${++calls}`;
  const count = random.pick({ '1': 60, '3': 30, '12': 10 });
  const items = Array.from({ length: Number(count) }, (_, index) =>
    item(random, randomTask(random, name, index, SHARES)),
  );
  await log.add('call', { call: name, transaction: transactionName });
  const options = manager ? { manager } : {};
  if (items.length > 1) return (await jobs.spawnMany(items, options)).map(({ id }) => id);
  const { name: handler, payload, ...rest } = items[0]!;
  return [(await jobs.spawn(handler, payload, { ...rest, ...options })).id];
}

function item(random: Random, payload: Task) {
  // The others end a run of a lane: a last attempt begins one, and who is not due holds it up.
  const often = SHARES.smooth ? 100 : 1;
  const retries = Number(random.pick({ '2': 60 * often, '4': 30 * often, '0': 10 }));
  const delayMs = Number(random.pick({ '0': 94 * often, '100': 5, '2000': 1 })) * random.next();
  const delay = delayMs >= 1 ? { delay: Math.round(delayMs) } : {};
  const common = { channel: 'history', payload, retries, ...delay };
  if (LANES > 0 && random.chance(0.75))
    return { ...common, name: 'ordered', ordered: true, key: `lane ${random.between(1, LANES)}` };
  return { ...common, name: 'plain', ...(random.chance(0.5) && { key: `user ${random.between(1, 20)}` }) };
}

process.on('message', () => (stopping = true));
process.send?.('ready');
const seeds = new Random(Number(env.SEED));
const random = Array.from({ length: SPAWNERS_AT_ONCE }, () => new Random(seeds.between(0, 2 ** 31)));
await Promise.all([watch(), ...random.map(spawner)]);
await app.close();
await log.end();
process.disconnect();
