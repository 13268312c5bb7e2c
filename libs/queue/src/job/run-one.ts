import type { JobFacts } from './events.js';
import type { DeadReason } from './outcome.js';

/** Options of `queue.runOne`. */
export interface RunOneOptions {
  /** Channels to look in. Default: those that the module serves. */
  channels?: readonly string[];
}

/** What became of the run, and which job it was of. */
export interface RunOneResult extends JobFacts {
  /**
   * `retrying`: it waits for its next run · `dead`: it will not run again by itself · `snoozed`: the handler threw
   * `SnoozeJob` · `released`: aborted by a shutdown · `cancelled`: it was told to stop, and did not succeed · `lease-lost`: another runner may have it.
   */
  readonly outcome: 'completed' | 'retrying' | 'dead' | 'snoozed' | 'released' | 'cancelled' | 'lease-lost';
  /** What the handler threw, of `retrying` and `dead`. */
  readonly error?: unknown;
  /** Why it is `dead`; what was given to `queue.cancel`. */
  readonly reason?: DeadReason | (string & {}) | null;
  /** Until it is due again, of `retrying` and `snoozed`. */
  readonly delayMs?: number;
}
