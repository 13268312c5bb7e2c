import type { RunningJob } from './running-job.js';

/** How the method of a batch handler has ended. */
export interface BatchResult {
  /** How many jobs the batch was handed over with. */
  readonly jobs: number;
  /** How many of them were told of before it failed. */
  readonly processed: number;
  /** What it threw, where that was the end of some of its jobs. */
  readonly failure: { readonly error: unknown; readonly released: readonly RunningJob[] } | null;
}
