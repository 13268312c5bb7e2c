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
  /** Ends it and waits until it has ended. */
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Waits for its end; answers the exit code, or the signal that ended it. */
  exit(): Promise<number | NodeJS.Signals>;
}

/**
 * Starts a second process: a TypeScript file of `test/processes`, which has been compiled for it. Whoever starts it ends
 * it.
 */
export function forkProcess(file: string, env: Record<string, string>): Child {
  const child = fork(path.join(compiledSources(), 'test/processes', file.replace(/\.ts$/, '.js')), {
    execArgv: ['--enable-source-maps'],
    env: { ...process.env, NODE_OPTIONS: '', ...env },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const messages: unknown[] = [];
  child.on('message', (message) => messages.push(message));
  const alive = (): boolean => child.exitCode === null && child.signalCode === null;
  const ended = async (): Promise<void> => {
    if (alive()) await once(child, 'exit');
  };
  return {
    pid: child.pid!,
    messages,
    process: child,
    alive,
    send: (message) => child.send(message as object),
    message: (matches, what, timeoutMs = 60_000) =>
      until(() => messages.find((message) => matches(message as never)) as never, { what, timeoutMs }),
    kill: async (signal = 'SIGKILL') => {
      const end = ended();
      if (alive()) child.kill(signal);
      await end;
    },
    exit: async () => {
      await ended();
      return child.exitCode ?? child.signalCode!;
    },
  };
}
