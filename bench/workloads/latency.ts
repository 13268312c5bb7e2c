import { setTimeout as sleep } from 'node:timers/promises';
import { Letters, startApplication, type BenchApplication } from '../application.js';
import { clockMs } from '../clock.js';
import { payloadOf } from '../payload.js';
import type { SentOne } from '../processes/sender.js';
import { startSenderProcess, type SenderProcess } from '../processes/start.js';
import { createRawTables, RawRunner, RawSender } from '../raw/raw-queue.js';
import type { Sample } from '../report.js';
import { percentilesOf } from '../statistics.js';
import { compare, type Workload } from '../workload.js';

export const latency: Workload = {
  name: 'latency',
  description: 'idle runner, one job at a time: from the call of spawn to the first line of the handler',
  async run(bench) {
    const { database, settings } = bench;
    await createRawTables(database.admin);
    const app = await startApplication(database.url);
    const senderThere = await startSenderProcess('nestmq', database.url);
    const sender = await RawSender.open(database.url);
    const runner = await RawRunner.open(database.url);
    await compare(bench, { amount: settings.jobs ?? 500, warmUp: 50 }, [
      {
        system: 'nestmq',
        name: 'spawn → handler, one process',
        run: (samples) => sampleOneByOne(samples, app.letters, (n) => spawnHere(app, n)),
      },
      {
        system: 'nestmq',
        name: 'spawn → handler, two processes',
        run: (samples) => sampleOneByOne(samples, app.letters, (n) => spawnThere(senderThere, n)),
      },
      {
        system: 'raw SQL',
        name: 'INSERT, NOTIFY → handler',
        run: (samples) =>
          sampleOneByOne(samples, runner, async (n) => {
            const calledAt = clockMs();
            await sender.sendOne(payloadOf(n), { notify: true });
            return calledAt;
          }),
      },
    ]);
    await Promise.all([app.close(), senderThere.close(), sender.close(), runner.close()]);
  },
};

export async function spawnHere(app: BenchApplication, n: number): Promise<number> {
  const calledAt = clockMs();
  await app.jobs.spawn(Letters, 'send', payloadOf(n));
  return calledAt;
}

async function spawnThere(sender: SenderProcess, n: number): Promise<number> {
  const { calledAt } = await sender.ask<SentOne>({ kind: 'one', n });
  return calledAt;
}

/** @param send sends job n to an idle receiver and answers when it was called */
export async function sampleOneByOne(
  samples: number,
  receiver: { onStart: (n: number) => void },
  send: (n: number) => Promise<number>,
): Promise<Sample> {
  const latencies = new Float64Array(samples);
  for (let n = 0; n < samples; n++) {
    const started = new Promise<number>((resolve) => {
      receiver.onStart = (got) => got === n && resolve(clockMs());
    });
    const calledAt = await send(n);
    latencies[n] = (await started) - calledAt;
    // The settlement is over by then, and no rhythm can fall into step with a timer.
    await sleep(2 + Math.random() * 4);
  }
  return { jobs: samples, perSecond: null, latency: percentilesOf(latencies), usage: null };
}
