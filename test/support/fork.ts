import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { compiledSources } from './compiled.js';
import { until } from './until.js';

export interface Child {
  readonly pid: number;
  /** Everything it has sent by `process.send`. */
  readonly messages: unknown[];
  readonly process: ChildProcess;
  /** Whether it has not ended. */
  alive(): boolean;
  send(message: unknown): void;
  /** Waits for a message and answers it. */
  message<T = unknown>(matches: (message: T) => boolean, what: string, timeoutMs?: number): Promise<T>;
  /** Ends it and waits until it has ended, and for what it has said before. */
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Waits for its end, and for what it has said before; answers the exit code, or the signal that ended it. */
  exit(): Promise<number | NodeJS.Signals>;
}

/**
 * Starts a second process: a TypeScript file of `test/processes`, which has been compiled for it. Whoever starts it ends
 * it.
 */
export function forkProcess(file: string, env: Record<string, string>): Child {
  const child = fork(path.join(compiledSources(), 'test/processes', file.replace(/\.ts$/, '.js')), {
    execArgv: [],
    env: { ...process.env, NODE_OPTIONS: '', ...env },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const messages: unknown[] = [];
  child.on('message', (message) => messages.push(message));
  const alive = (): boolean => child.exitCode === null && child.signalCode === null;
  const closed = once(child, 'close'); // behind its last message, which 'exit' is not
  return {
    pid: child.pid!,
    messages,
    process: child,
    alive,
    send: (message) => child.send(message as object),
    message: (matches, what, timeoutMs = 60_000) =>
      until(() => messages.find((message) => matches(message as never)) as never, { what, timeoutMs }),
    kill: async (signal = 'SIGKILL') => {
      if (alive()) child.kill(signal);
      await closed;
    },
    exit: async () => {
      await closed;
      return child.exitCode ?? child.signalCode!;
    },
  };
}
