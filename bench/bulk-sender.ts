import { Letters, startApplication, type BenchApplication } from './application.js';
import { payloadsFrom } from './payload.js';
import { RawSender } from './raw/raw-queue.js';
import type { System } from './report.js';

/** Sends numbered jobs through one of the systems. */
export interface BulkSender {
  readonly sendMany: (first: number, count: number) => Promise<unknown>;
  close(): Promise<void>;
}

/** In a process that only sends. */
export async function startSender(system: System, url: string): Promise<BulkSender> {
  if (system === 'raw SQL') return rawSender(url);
  const app = await startApplication(url, { runner: false });
  return { ...queueSender(app), close: () => app.close() };
}

export function queueSender({ jobs }: Pick<BenchApplication, 'jobs'>): Pick<BulkSender, 'sendMany'> {
  return {
    sendMany: (first, count) =>
      jobs.spawnMany(
        Letters,
        'send',
        payloadsFrom(first, count).map((payload) => ({ payload })),
      ),
  };
}

/** A connection of its own for each caller that may send at a time. */
const CONNECTIONS = 4;

export async function rawSender(url: string): Promise<BulkSender> {
  const all = await Promise.all(Array.from({ length: CONNECTIONS }, () => RawSender.open(url)));
  const free = [...all];
  return {
    sendMany: async (first, count) => {
      const sender = free.pop();
      if (sender === undefined) throw new Error(`More than ${CONNECTIONS} callers.`);
      await sender.sendMany(payloadsFrom(first, count), { notify: true });
      free.push(sender);
    },
    close: async () => void (await Promise.all(all.map((sender) => sender.close()))),
  };
}
