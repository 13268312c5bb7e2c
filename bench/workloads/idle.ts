import { setTimeout as sleep } from 'node:timers/promises';
import { Letters, startApplication } from '../application.js';
import { startMeter } from '../meter.js';
import { payloadOf } from '../payload.js';
import { rowOf, type Sample } from '../report.js';
import type { BenchDatabase } from '../server.js';
import { mostFrequent, readCounts, resetCounts } from '../statements-counted.js';
import { emptied } from '../tables.js';
import type { Workload } from '../workload.js';

export const idle: Workload = {
  name: 'idle',
  description: 'what a runner with nothing to do asks of the server',
  countStatements: true,
  defaultRepeat: 1,
  async run(bench) {
    const { database, settings, repeat } = bench;
    const seconds = settings.seconds ?? 30;
    const app = await startApplication(database.url);
    await app.jobs.spawn(Letters, 'send', payloadOf(0)); // it has met a job, and has nothing left of it
    await emptied(database, 'nestmq');
    await sleep(Math.min(5, seconds) * 1_000);
    const samples: Sample[] = [];
    for (let turn = 0; turn < repeat; turn++) samples.push(await watch(database, seconds));
    bench.report(rowOf({ workload: bench.workload, name: 'per second', system: 'nestmq' }, samples));
    for (const { calls, query } of await mostFrequent(database)) console.log(`    ${calls} × ${query}`);
    await app.close();
  },
};

async function watch(database: BenchDatabase, seconds: number): Promise<Sample> {
  await resetCounts(database);
  const stopMeter = await startMeter(database);
  await sleep(seconds * 1_000);
  const usage = await stopMeter();
  const { working, framing, transactions } = await readCounts(database);
  return {
    jobs: 0,
    perSecond: null,
    latency: null,
    usage: null,
    figures: {
      statements: working / seconds,
      transactions: transactions / seconds,
      'BEGIN, SET, COMMIT': framing / seconds,
      'Node CPU ms': usage.nodeMicros / 1_000 / seconds,
      ...(usage.serverMicros !== null && { 'server CPU ms': usage.serverMicros / 1_000 / seconds }),
      'WAL bytes': usage.walBytes / seconds,
    },
  };
}
