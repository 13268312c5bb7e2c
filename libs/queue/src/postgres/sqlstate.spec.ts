import { describe, expect, it } from '@jest/globals';
import { DatabaseUnavailableError, TransactionAbortedError, TransactionConflictError } from '../job/errors.js';
import { asQueueError, isRetryable } from './sqlstate.js';

const failed = (code: string, message = 'no'): Error => Object.assign(new Error(message), { code });

describe('asQueueError', () => {
  it.each([
    ['40001', TransactionConflictError],
    ['40P01', TransactionConflictError],
    ['55P03', TransactionConflictError],
    ['25P02', TransactionAbortedError],
    ['08006', DatabaseUnavailableError],
    ['57P01', DatabaseUnavailableError],
    ['53300', DatabaseUnavailableError],
    ['ECONNREFUSED', DatabaseUnavailableError],
  ])('makes %s an error of ours, the original its cause', (code, Kind) => {
    const error = failed(code);
    expect(asQueueError(error)).toBeInstanceOf(Kind);
    expect(asQueueError(error)).toHaveProperty('cause', error);
  });

  it('reads the code that TypeORM wraps', () => {
    const wrapped = Object.assign(new Error('no'), { driverError: { code: '40001' } });
    expect(asQueueError(wrapped)).toBeInstanceOf(TransactionConflictError);
  });

  it('knows a connection that ended without a code', () => {
    expect(asQueueError(new Error('Connection terminated unexpectedly'))).toBeInstanceOf(DatabaseUnavailableError);
  });

  it('leaves what it does not know, and what is ours already, as it is', () => {
    const unique = failed('23505');
    expect(asQueueError(unique)).toBe(unique);
    const ours = new TransactionAbortedError('spawn');
    expect(asQueueError(ours)).toBe(ours);
  });
});

describe('isRetryable', () => {
  it.each(['40001', '40P01', '55P03', '57014', '25006', '08006', 'ECONNRESET'])('is so for %s', (code) => {
    expect(isRetryable(failed(code))).toBe(true);
    expect(isRetryable(asQueueError(failed(code)))).toBe(true);
  });

  it.each(['23505', '22P02', '42P01', '25P02'])('is not so for %s', (code) => {
    expect(isRetryable(failed(code))).toBe(false);
    expect(isRetryable(asQueueError(failed(code)))).toBe(false);
  });
});
