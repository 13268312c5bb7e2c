import { afterEach } from '@jest/globals';
import { forkProcess, type Child } from './fork.js';

export type { Child } from './fork.js';

const running = new Set<Child>();

afterEach(async () => {
  const left = [...running];
  running.clear();
  await Promise.all(left.map((child) => child.kill()));
});

/** Starts a second process as `forkProcess` does, and ends it after the test. */
export function startChild(file: string, env: Record<string, string>): Child {
  const child = forkProcess(file, env);
  running.add(child);
  return child;
}
