// A process that only sends: what the one that measures asks for, in messages.
import { Letters, startApplication } from '../application.js';
import { clockMs } from '../clock.js';
import { payloadOf } from '../payload.js';

const app = await startApplication(process.env.BENCH_URL!, { runner: false });

process.on('message', (message: { spawn: number } | 'close') => {
  void (message === 'close' ? close() : spawnOne(message.spawn));
});
process.send!('ready');

async function spawnOne(n: number): Promise<void> {
  const calledAt = clockMs();
  await app.jobs.spawn(Letters, 'send', payloadOf(n));
  process.send!({ calledAt });
}

async function close(): Promise<void> {
  await app.close();
  process.disconnect();
}
