import { setTimeout as sleep } from 'node:timers/promises';
import { inspect } from 'node:util';

const POLL_MS = 5;

export interface UntilOptions {
  /** Long, since nobody waits for it but where something is wrong: a slow machine is not. */
  timeoutMs?: number;
  /** what is waited for, as the failure is to name it: "the job is completed" */
  what: string;
}

/**
 * Polls until the predicate answers something truthy, and returns that. The only place where a test waits by the clock.
 * An error of the predicate fails the test at once.
 */
export async function until<T>(
  predicate: () => T | Promise<T>,
  { timeoutMs = 60_000, what }: UntilOptions,
): Promise<NonNullable<Awaited<T>>> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await predicate();
    if (value) return value;
    if (Date.now() >= deadline)
      throw new Error(`Waited ${timeoutMs} ms in vain until ${what}. Last value: ${inspect(value)}`);
    await sleep(POLL_MS);
  }
}
