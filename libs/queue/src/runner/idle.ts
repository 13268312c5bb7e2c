import { endsWithin } from '../job/time-limit.js';

export interface Working {
  /** Handlers that run. */
  readonly running: number;
  /** Resolves when nothing runs for a moment, or after so many milliseconds. */
  idle(withinMs: number | null): Promise<unknown>;
}

/**
 * Waits until nothing runs and all that has ended is written; `false` when that takes longer. The slot that a run leaves
 * may be filled in the same moment: then it goes on waiting.
 *
 * @param timeoutMs `null`: as long as it takes
 */
export async function idleWithin(
  timeoutMs: number | null,
  runs: Working,
  written: () => Promise<void>,
): Promise<boolean> {
  const deadline = timeoutMs === null ? null : performance.now() + timeoutMs;
  for (;;) {
    const leftMs = deadline === null ? null : Math.max(0, deadline - performance.now());
    if (runs.running === 0) {
      if (!(await endsWithin(leftMs, written()))) return false;
      if (runs.running === 0) return true;
    }
    if (leftMs === 0) return false;
    await runs.idle(leftMs);
  }
}
