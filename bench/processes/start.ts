import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { System } from '../report.js';
import type { Order } from './sender.js';

/** A process of its own that sends jobs. */
export interface SenderProcess {
  tell(order: Order): void;
  /** Gives an order and waits for its answer. */
  ask<Answer>(order: Order): Promise<Answer>;
  close(): Promise<void>;
}

export async function startSenderProcess(system: System, url: string): Promise<SenderProcess> {
  const child = fork(fileURLToPath(new URL('./sender.ts', import.meta.url)), {
    env: { ...process.env, BENCH_URL: url, BENCH_SYSTEM: system },
    serialization: 'advanced',
  });
  const ended = once(child, 'exit');
  const message = async (): Promise<unknown> => {
    const [answer] = await Promise.race([
      once(child, 'message'),
      ended.then(([code]) => {
        throw new Error(`The process that sends ended with ${String(code)}.`);
      }),
    ]);
    return answer;
  };
  await message();
  return {
    tell: (order) => void child.send(order),
    ask: <Answer>(order: Order) => {
      const answer = message();
      child.send(order);
      return answer as Promise<Answer>;
    },
    close: async () => {
      child.send({ kind: 'close' } satisfies Order);
      await ended;
    },
  };
}
