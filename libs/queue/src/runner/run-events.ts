import { messageOf } from '../job/errors.js';
import type { QueueEvent } from '../job/events.js';
import type { ClaimedJob } from '../job/job.js';
import { endingOf } from '../job/outcome.js';
import type { Settled } from '../settle/settler.js';
import { SURVEY_MESSAGE } from '../statements/wake-up.js';

export function factsOf({ id, channel, key, name, attempt }: ClaimedJob) {
  return { id, channel, key, name, attempt };
}

/** What is told of a run once its end is written. */
export function eventOf({ run: { job, outcome, durationMs }, result }: Settled): QueueEvent {
  const facts = factsOf(job);
  if (result === 'lost') return { type: 'lease-lost', ...facts };
  if (result === 'completed-by-handler') return { type: 'completed', durationMs, ...facts };
  const written = endingOf(outcome);
  switch (written.kind) {
    case 'completed':
      return { type: 'completed', durationMs, ...facts };
    case 'retry':
      return { type: 'retrying', delayMs: written.delayMs, error: written.error, durationMs, ...facts };
    case 'dead':
      return { type: 'dead', reason: written.reason, error: written.error, durationMs, ...facts };
    case 'cancelled':
      return { type: 'cancelled', reason: written.reason, ...facts };
    case 'snoozed':
      return { type: 'snoozed', delayMs: written.delayMs, ...facts };
    default:
      return { type: 'released', ...facts };
  }
}

/** What to wake runners with for a job that waits again, `null` where there is none. Of ordered ones their lanes tell. */
export function requeuedMessage({ run: { job, outcome }, ...settled }: Settled): string | null {
  if (settled.result !== 'written' || settled.requeued === undefined || job.seq !== null) return null;
  return job.suspect && endingOf(outcome).kind === 'released' ? SURVEY_MESSAGE : settled.requeued.message;
}

/** What is logged of a handler that has completed its job and threw then; `null` when it did not. */
export function thrownAfterCompletion({ run: { job, outcome }, result }: Settled): string | null {
  if (result !== 'completed-by-handler' || outcome.kind !== 'unless-completed' || !outcome.threw) return null;
  const { otherwise } = outcome;
  const reason = 'error' in otherwise ? messageOf(otherwise.error) : otherwise.kind;
  return `Job ${job.id} (${job.name}) is completed; what its handler threw afterwards changes nothing: ${reason}`;
}
