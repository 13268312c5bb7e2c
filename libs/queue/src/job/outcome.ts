/** How a run ended: what the executor says and the settler writes. */
export type Outcome =
  /** `result` is JSON text, `null` where it is not kept. `committed`: it is written already, in the run's own transaction. */
  | { readonly kind: 'completed'; readonly result: string | null; readonly committed?: true }
  | { readonly kind: 'retry'; readonly delayMs: number; readonly error: unknown }
  | { readonly kind: 'dead'; readonly reason: DeadReason; readonly error: unknown }
  /** Runs again later, without having counted; `error` is why, where nobody has asked for it. */
  | { readonly kind: 'snoozed'; readonly delayMs: number; readonly error?: unknown }
  /**
   * Ended without success after it was told to stop: never run again. The database has the last word: what was asked to be
   * cancelled ends so, whatever this process knew of it.
   */
  | { readonly kind: 'cancelled'; readonly reason: string | null; readonly error: unknown }
  /** Outlived its lease: the rescuer puts the job back, or gives it up, and nothing is written of the run. */
  | { readonly kind: 'expired' }
  /** Not started, or ended by a shutdown: waits again at its old place, the attempt given back. */
  | { readonly kind: 'released' }
  /**
   * The handler has called `job.complete()`. Whether its transaction has committed only the database knows; if it has
   * not, the run ends as `otherwise`. `threw`: the handler did not return.
   */
  | {
      readonly kind: 'unless-completed';
      readonly otherwise: Exclude<Outcome, { kind: 'unless-completed' }>;
      readonly threw: boolean;
    };

/** How the run ends if its handler's transaction has not completed the job. */
export function endingOf(outcome: Outcome): Exclude<Outcome, { kind: 'unless-completed' }> {
  return outcome.kind === 'unless-completed' ? outcome.otherwise : outcome;
}

/** The same, had it ended in another way. */
export function withEnding(outcome: Outcome, ending: Exclude<Outcome, { kind: 'unless-completed' }>): Outcome {
  return outcome.kind === 'unless-completed' ? { ...outcome, otherwise: ending } : ending;
}

/** Whether the run's own transaction has completed the job, so that there is nothing left to write. */
export function isCommitted(outcome: Outcome): boolean {
  return outcome.kind === 'completed' && outcome.committed === true;
}

/** Why a job will not run again by itself. */
export type DeadReason = 'exhausted' | 'rejected' | 'lease expired';

/** Of which no result is kept. */
export const COMPLETED = { kind: 'completed', result: null } as const satisfies Outcome;

export const EXPIRED = { kind: 'expired' } as const satisfies Outcome;

export const RELEASED = { kind: 'released' } as const satisfies Outcome;
