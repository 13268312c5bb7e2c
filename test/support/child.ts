import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterEach } from '@jest/globals';
import { until } from './until.js';

export interface Child {
  readonly pid: number;
  /** Everything it has sent by `process.send`. */
  readonly messages: unknown[];
  readonly process: ChildProcess;
  send(message: unknown): void;
  /** Waits for a message and answers it. */
  message<T = unknown>(matches: (message: T) => boolean, what: string): Promise<T>;
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Waits for its end; answers the exit code, or the signal that ended it. */
  exit(): Promise<number | NodeJS.Signals>;
}

const running = new Set<Child>();

afterEach(async () => {
  await Promise.all([...running].map((child) => child.kill()));
});

/**
 * Starts a second process: a TypeScript file of `test/processes`, run by tsx, which leaves constructor types out, so
 * dependencies are injected there by `@Inject(Token)`.
 */
export function startChild(file: string, env: Record<string, string>): Child {
  const path = fileURLToPath(new URL(`../processes/${file}`, import.meta.url));
  const child = fork(path, {
    execArgv: ['--import', 'tsx'],
    env: { ...process.env, NODE_OPTIONS: '', ...env },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const messages: unknown[] = [];
  child.on('message', (message) => messages.push(message));
  const started: Child = {
    pid: child.pid!,
    messages,
    process: child,
    send: (message) => child.send(message as object),
    message: (matches, what) =>
      until(() => messages.find((message) => matches(message as never)) as never, { what, timeoutMs: 25_000 }),
    kill: async (signal = 'SIGKILL') => {
      if (child.exitCode === null && child.signalCode === null) {
        const ended = once(child, 'exit');
        child.kill(signal);
        await ended;
      }
      running.delete(started);
    },
    exit: async () => {
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
      running.delete(started);
      return child.exitCode ?? child.signalCode!;
    },
  };
  running.add(started);
  return started;
}
