import { backoffMs, DEFAULT_BACKOFF, type BackoffFunction } from '../job/backoff.js';
import type { JobCancelledError } from '../job/control-errors.js';
import { MAX_DURATION_MS } from '../job/duration.js';
import type { HandlerPolicy, RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import { RELEASED, type Outcome } from '../job/outcome.js';
import { PayloadVersionError } from '../job/version-errors.js';
import { RejectJob, RetryAfter, SnoozeJob } from '../job/steering.js';

type FinalOutcome = Exclude<Outcome, { kind: 'unless-completed' }>;

/** For how long a job of a newer release is left to others. */
const NEWER_RELEASE_MS = 5_000;

export interface FailedRun {
  readonly job: ClaimedJob;
  readonly handler: RegisteredHandler;
  readonly policy: HandlerPolicy;
  readonly error: unknown;
  /** `null`: no limit. As the database has it: a checkpoint may have moved it. */
  readonly maxAttempts: number | null;
  /** Asks the handler whether another run may help. */
  readonly isRetryable: () => boolean;
  /** The run was aborted because the process is shutting down: what it threw says nothing about the job. */
  readonly shuttingDown: boolean;
  /** The run was told to stop because its job is cancelled: it is not run again, whatever was thrown. */
  readonly cancelled: JobCancelledError | null;
}

/** What a handler threw → how the run ended. All endings but the good one meet here. */
export function outcomeOfError(run: FailedRun): FinalOutcome {
  const { error, job, maxAttempts } = run;
  if (run.cancelled !== null) return { kind: 'cancelled', reason: run.cancelled.reason, error };
  if (error instanceof RejectJob) return { kind: 'dead', reason: 'rejected', error };
  if (error instanceof SnoozeJob) return { kind: 'snoozed', delayMs: error.delayMs };
  if (run.shuttingDown) return RELEASED;
  if (error instanceof PayloadVersionError) return { kind: 'snoozed', delayMs: NEWER_RELEASE_MS, error };
  if (!(error instanceof RetryAfter) && !run.isRetryable()) return { kind: 'dead', reason: 'rejected', error };
  if (maxAttempts !== null && job.attempt >= maxAttempts) return { kind: 'dead', reason: 'exhausted', error };
  return { kind: 'retry', delayMs: error instanceof RetryAfter ? error.delayMs : delayMs(run), error };
}

/** The spawn call's backoff, else the stored one, else the function that only this process has. */
function delayMs({ job, handler, policy, error }: FailedRun): number {
  const backoff = job.backoff ?? policy.backoff;
  if (backoff !== null || handler.backoffFunction === null) return backoffMs(backoff ?? DEFAULT_BACKOFF, job.attempt);
  return ownDelayMs(handler.backoffFunction, job, error) ?? backoffMs(DEFAULT_BACKOFF, job.attempt);
}

/** `undefined` when the function throws or answers no sensible number: a job must not be lost to it. */
function ownDelayMs(backoff: BackoffFunction, job: ClaimedJob, error: unknown): number | undefined {
  try {
    const answer: unknown = backoff(job.attempt, error);
    // An `async` function answers no number; if it fails too, nobody else would take notice.
    if (answer instanceof Promise) answer.catch(() => undefined);
    const ms = Number(answer);
    return ms >= 0 && ms <= MAX_DURATION_MS ? Math.round(ms) : undefined;
  } catch {
    return undefined;
  }
}
