import { durationMs, type Duration } from './duration.js';

/**
 * Thrown by a handler: the job can never succeed. It becomes `dead` at once with reason `rejected`, whatever attempts
 * are left.
 *
 * @example throw new RejectJob('no such user');
 */
export class RejectJob extends Error {
  constructor(reason: string, options?: ErrorOptions) {
    super(reason, options);
    this.name = 'RejectJob';
  }
}

/**
 * Thrown by a handler: try again after this time, instead of the handler's backoff. Counts as a run, so a job without
 * attempts left becomes `dead`. Modelled on the `Retry-After` of HTTP.
 *
 * @example throw new RetryAfter('90s', 'rate limited');
 */
export class RetryAfter extends Error {
  /** The wait until the next run. */
  readonly delayMs: number;

  /** @param delay milliseconds or a duration such as `'90s'`; 0 to 10 years */
  constructor(delay: Duration, reason = 'retry asked for by the handler', options?: ErrorOptions) {
    super(reason, options);
    this.name = 'RetryAfter';
    this.delayMs = durationMs(delay, 'RetryAfter.delay');
  }
}

/**
 * Thrown by a handler: not now; run again after this time. Does not count as a run.
 *
 * @example throw new SnoozeJob('10m');
 */
export class SnoozeJob extends Error {
  /** The wait until the next run. */
  readonly delayMs: number;

  /** @param delay milliseconds or a duration such as `'10m'`; 0 to 10 years */
  constructor(delay: Duration, reason = 'snoozed by the handler') {
    super(reason);
    this.name = 'SnoozeJob';
    this.delayMs = durationMs(delay, 'SnoozeJob.delay');
  }
}
