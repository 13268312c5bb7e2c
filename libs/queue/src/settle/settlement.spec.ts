import { describe, expect, it } from '@jest/globals';
import type { HandlerPolicy } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import { RELEASED, type Outcome } from '../job/outcome.js';
import { settlementOf, type Settlement } from './settlement.js';

const FENCE = { id: '7', run: 3, lease: 11 };

const POLICY: HandlerPolicy = {
  ...{ retries: 4, backoff: null, timeoutMs: null, retentionMs: 0, deadRetentionMs: null },
  ...{ ordered: false, onDead: 'skip', keepAlive: true, payloadVersion: 1 },
};

function settle(outcome: Outcome, policy: Partial<HandlerPolicy> = {}): Settlement {
  return settlementOf({
    job: { ...FENCE, attempt: 2 } as ClaimedJob,
    outcome,
    policy: { ...POLICY, ...policy },
    durationMs: 1,
  });
}

describe('settlementOf', () => {
  it('deletes a completed job that nobody wants to keep', () => {
    expect(settle({ kind: 'completed', result: null })).toMatchObject({ write: 'complete', entry: FENCE });
  });

  it('keeps a completed job and its result for the retention', () => {
    expect(settle({ kind: 'completed', result: '{"n":1}' }, { retentionMs: 60_000 })).toMatchObject({
      write: 'finish',
      entry: { ...FENCE, state: 'completed', attempt: 2, result: '{"n":1}', keepMs: 60_000, error: null, reason: null },
    });
  });

  it('counts the attempt of a run that is retried, and keeps its error', () => {
    expect(settle({ kind: 'retry', delayMs: 500, error: 'flaky' })).toMatchObject({
      write: 'requeue',
      entry: { ...FENCE, attempt: 2, delayMs: 500, error: 'flaky' },
    });
  });

  it('does not count a snoozed run', () => {
    expect(settle({ kind: 'snoozed', delayMs: 500 })).toMatchObject({
      write: 'requeue',
      entry: { ...FENCE, attempt: 1, delayMs: 500, error: null },
    });
  });

  it('gives the attempt of a released run back, and leaves the job at its old place', () => {
    expect(settle(RELEASED)).toMatchObject({
      write: 'requeue',
      entry: { ...FENCE, attempt: 1, delayMs: null, error: null },
    });
  });

  it('keeps a dead job for ever unless its handler says how long', () => {
    const outcome: Outcome = { kind: 'dead', reason: 'rejected', error: 'no such user' };
    expect(settle(outcome)).toMatchObject({
      write: 'finish',
      entry: { ...FENCE, state: 'dead', attempt: 2, reason: 'rejected', error: 'no such user', keepMs: null },
    });
    expect(settle(outcome, { deadRetentionMs: 5 })).toMatchObject({ entry: { keepMs: 5 } });
  });

  it('asks the database first when the handler has completed the job itself, and is unsure of what it writes else', () => {
    const otherwise = { kind: 'retry', delayMs: 0, error: 'not committed' } as const;
    expect(settle({ kind: 'unless-completed', otherwise, threw: false })).toMatchObject({
      write: 'confirm',
      entry: FENCE,
      otherwise: { write: 'requeue', unsure: true, entry: { attempt: 2, error: 'not committed' } },
    });
  });
});
