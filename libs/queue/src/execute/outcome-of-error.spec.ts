import { describe, expect, it, jest } from '@jest/globals';
import { DEFAULT_BACKOFF, type Backoff, type BackoffFunction } from '../job/backoff.js';
import type { RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import type { Outcome } from '../job/outcome.js';
import { JobCancelledError } from '../job/control-errors.js';
import { PayloadVersionError } from '../job/version-errors.js';
import { RejectJob, RetryAfter, SnoozeJob } from '../job/steering.js';
import { outcomeOfError } from './outcome-of-error.js';

interface Given {
  error: unknown;
  attempt?: number;
  maxAttempts?: number | null;
  jobBackoff?: Backoff;
  policyBackoff?: Backoff | null;
  backoffFunction?: BackoffFunction;
  isRetryable?: () => boolean;
  shuttingDown?: boolean;
  cancelled?: JobCancelledError;
}

const fixed = (baseMs: number): Backoff => ({ type: 'fixed', baseMs, factor: 1, maxMs: baseMs, jitter: 0 });

const outcomeOf = (given: Given): Outcome =>
  outcomeOfError({
    job: {
      attempt: given.attempt ?? 1,
      backoff: given.jobBackoff ?? null,
    } as ClaimedJob,
    handler: { backoffFunction: given.backoffFunction ?? null } as RegisteredHandler,
    policy: {
      retries: 4,
      backoff: given.policyBackoff === undefined ? fixed(100) : given.policyBackoff,
      timeoutMs: null,
      retentionMs: 0,
      deadRetentionMs: null,
      keepAlive: true,
      payloadVersion: 1,
      ordered: false,
      onDead: 'skip',
    },
    maxAttempts: given.maxAttempts === undefined ? 5 : given.maxAttempts,
    isRetryable: given.isRetryable ?? (() => true),
    error: given.error,
    cancelled: given.cancelled ?? null,
    shuttingDown: given.shuttingDown ?? false,
  });

const error = new Error('flaky');

describe('outcomeOfError', () => {
  it('retries while attempts are left', () => {
    expect(outcomeOf({ error, attempt: 4 })).toEqual({ kind: 'retry', delayMs: 100, error });
  });

  it.each([error, new RejectJob('no'), new SnoozeJob(5), new RetryAfter(5)])(
    'is cancelled when that was asked for, whatever was thrown: %s',
    (thrown) => {
      const cancelled = new JobCancelledError('7', 'not wanted');
      const outcome = { kind: 'cancelled', reason: 'not wanted', error: thrown };
      expect(outcomeOf({ error: thrown, cancelled, attempt: 5 })).toEqual(outcome);
      expect(outcomeOf({ error: thrown, cancelled, shuttingDown: true })).toEqual(outcome);
    },
  );

  it('is dead, exhausted, on the last attempt and beyond', () => {
    expect(outcomeOf({ error, attempt: 5 })).toEqual({ kind: 'dead', reason: 'exhausted', error });
    expect(outcomeOf({ error, attempt: 9 })).toMatchObject({ kind: 'dead', reason: 'exhausted' });
  });

  it('leaves a job of a newer release to others, without counting, on the last attempt too', () => {
    const newer = new PayloadVersionError('work', 3, 2);
    expect(outcomeOf({ error: newer, attempt: 5 })).toEqual({ kind: 'snoozed', delayMs: 5_000, error: newer });
  });

  it('retries for ever without a limit', () => {
    expect(outcomeOf({ error, attempt: 2_000_000, maxAttempts: null })).toMatchObject({ kind: 'retry' });
  });

  it('is dead at once, rejected, by RejectJob, whatever attempts are left, and during a shutdown too', () => {
    const rejected = new RejectJob('no such user');
    const dead = { kind: 'dead', reason: 'rejected', error: rejected };
    expect(outcomeOf({ error: rejected })).toEqual(dead);
    expect(outcomeOf({ error: rejected, maxAttempts: null, shuttingDown: true })).toEqual(dead);
  });

  it('waits as long as RetryAfter says, which counts as a run', () => {
    expect(outcomeOf({ error: new RetryAfter('90s') })).toMatchObject({ kind: 'retry', delayMs: 90_000 });
    expect(outcomeOf({ error: new RetryAfter('90s'), attempt: 5 })).toMatchObject({
      kind: 'dead',
      reason: 'exhausted',
    });
  });

  it('snoozes by SnoozeJob, on the last attempt too', () => {
    expect(outcomeOf({ error: new SnoozeJob('10m'), attempt: 5 })).toEqual({ kind: 'snoozed', delayMs: 600_000 });
  });

  it('releases what a shutdown has aborted, on the last attempt too', () => {
    expect(outcomeOf({ error, attempt: 5, shuttingDown: true })).toEqual({ kind: 'released' });
  });

  it('is dead at once, rejected, by an error that the handler calls not retryable', () => {
    expect(outcomeOf({ error, isRetryable: () => false })).toEqual({ kind: 'dead', reason: 'rejected', error });
    expect(outcomeOf({ error, isRetryable: () => false, maxAttempts: null })).toMatchObject({ reason: 'rejected' });
  });

  it('does not ask whether what steers is retryable, nor what a shutdown has aborted', () => {
    const isRetryable = jest.fn(() => false);
    expect(outcomeOf({ error: new RetryAfter('90s'), isRetryable })).toMatchObject({ kind: 'retry' });
    expect(outcomeOf({ error: new SnoozeJob('10m'), isRetryable })).toMatchObject({ kind: 'snoozed' });
    expect(outcomeOf({ error: new RejectJob('no'), isRetryable })).toMatchObject({ kind: 'dead' });
    expect(outcomeOf({ error, isRetryable, shuttingDown: true })).toEqual({ kind: 'released' });
    expect(isRetryable).not.toHaveBeenCalled();
  });

  it('takes the spawn call’s backoff before the policy’s', () => {
    expect(outcomeOf({ error, jobBackoff: fixed(7) })).toMatchObject({ delayMs: 7 });
  });

  it('takes the spawn call’s backoff before the handler’s function', () => {
    const backoffFunction = jest.fn(() => 9);
    expect(outcomeOf({ error, jobBackoff: fixed(7), policyBackoff: null, backoffFunction })).toMatchObject({
      delayMs: 7,
    });
    expect(backoffFunction).not.toHaveBeenCalled();
  });

  it('asks the handler’s function with the attempt and the error', () => {
    const backoffFunction = jest.fn((attempt: number, _error: unknown) => attempt * 10.4);
    expect(outcomeOf({ error, attempt: 3, policyBackoff: null, backoffFunction })).toMatchObject({ delayMs: 31 });
    expect(backoffFunction).toHaveBeenCalledWith(3, error);
  });

  it.each<[string, BackoffFunction]>([
    [
      'throws',
      () => {
        throw new Error('worse');
      },
    ],
    ['answers NaN', () => Number.NaN],
    ['answers a negative number', () => -1],
    ['answers Infinity', () => Infinity],
    ['answers nothing', (() => undefined) as unknown as BackoffFunction],
    ['answers a promise', (() => Promise.resolve(5)) as unknown as BackoffFunction],
  ])('falls back to the default when the function %s: a job is not lost to it', (_, backoffFunction) => {
    const outcome = outcomeOf({ error, policyBackoff: null, backoffFunction }) as Extract<Outcome, { kind: 'retry' }>;
    expect(outcome.kind).toBe('retry');
    expect(outcome.delayMs).toBeGreaterThanOrEqual(DEFAULT_BACKOFF.baseMs);
    expect(outcome.delayMs).toBeLessThanOrEqual(DEFAULT_BACKOFF.baseMs * 1.1);
  });

  it('uses the default where the function belongs to another release', () => {
    expect(outcomeOf({ error, policyBackoff: null })).toMatchObject({ kind: 'retry' });
  });

  it.each<[unknown]>([['text'], [undefined], [null], [{ name: 'RejectJob' }]])(
    'retries on whatever else is thrown: %p',
    (thrown) => {
      expect(outcomeOf({ error: thrown })).toEqual({ kind: 'retry', delayMs: 100, error: thrown });
    },
  );
});
