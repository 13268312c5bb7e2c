import { describe, expect, it } from '@jest/globals';
import { InvalidOptionsError } from './job/errors.js';
import { DEFAULTS, resolveOptions, type QueueOptions } from './queue.options.js';

describe('resolveOptions', () => {
  it('has a default for everything', () => {
    expect(resolveOptions()).toEqual({
      schema: 'nestmq',
      runner: true,
      runnerId: null,
      releaseOwn: false,
      channels: null,
      concurrency: { min: 16, max: 32 },
      prefetchMs: 5,
      pollMs: 2_000,
      leaseMs: 10_000,
      blockedLimitMs: 300_000,
      abortGraceMs: 5_000,
      stuckAfterMs: 3_600_000,
      shutdownGraceMs: 15_000,
      maxPayloadBytes: 65_536,
      idempotencyWaitMs: 5_000,
      openNames: false,
      defaults: {},
      listenUrl: null,
      namedStatements: true,
      finishedRetentionMs: 604_800_000,
      pruneEveryMs: 60_000,
      onError: null,
    });
  });

  it('takes an option given as undefined for one that was left out', () => {
    const given = Object.fromEntries(Object.keys(DEFAULTS).map((option) => [option, undefined])) as QueueOptions;
    expect(resolveOptions(given)).toEqual(resolveOptions());
  });

  it.each<[QueueOptions['concurrency'], { min: number; max: number }]>([
    [4, { min: 4, max: 4 }],
    [{ max: 8 }, { min: 8, max: 8 }],
    [{ max: 100 }, { min: 16, max: 100 }],
    [{ min: 64 }, { min: 64, max: 64 }],
    [
      { min: 1, max: 2 },
      { min: 1, max: 2 },
    ],
    [{}, { min: 16, max: 32 }],
  ])('reads the concurrency %p as %p', (concurrency, resolved) => {
    expect(resolveOptions({ concurrency }).concurrency).toEqual(resolved);
  });

  it.each<[string, unknown, RegExp]>([
    ['schema', 'Nestmq', /lower-case identifier of at most 40/],
    ['schema', 'x; DROP SCHEMA public', /lower-case identifier/],
    ['schema', 'x'.repeat(41), /at most 40/],
    ['schema', '', /lower-case identifier/],
    ['schema', 5, /lower-case identifier/],
    ['runner', 'false', /true or false/],
    ['runnerId', '', /1 to 255 bytes/],
    ['runnerId', 7, /well-formed Unicode/],
    ['onStart', 'fail-own', /"release-own"/],
    ['onStart', 'release-own', /`runnerId` too/],
    ['channels', 'mail', /array of channel names/],
    ['channels', ['mail', ''], /1 to 255 bytes/],
    ['channels', ['a\0'], /without NUL/],
    ['concurrency', 0, /from 1 to 10000/],
    ['concurrency', 1.5, /from 1 to 10000/],
    ['concurrency', { min: 9, max: 8 }, /at most `concurrency.max`, 8/],
    ['concurrency', { max: 10_001 }, /from 1 to 10000/],
    ['concurrency', { max: '8' }, /from 1 to 10000/],
    ['concurrency', { maximum: 8 }, /no such option/],
    ['concurrency', 'many', /"min" and "max"/],
    ['concurrency', null, /"min" and "max"/],
    ['prefetchMs', -1, /from 0 to 1000/],
    ['prefetchMs', 1_001, /from 0 to 1000/],
    ['pollMs', 99, /from 100 to 60000/],
    ['pollMs', 60_001, /from 100 to 60000/],
    ['pollMs', Number.NaN, /from 100 to 60000/],
    ['leaseMs', 999, /from 1000 to 600000/],
    ['leaseMs', 600_001, /from 1000 to 600000/],
    ['blockedLimitMs', 99, /from 100 to 86400000/],
    ['abortGraceMs', -1, /from 0 to 86400000/],
    ['stuckAfter', 0, /from 1 ms/],
    ['stuckAfter', 'soon', /duration such as "30s"/],
    ['shutdown', { graceMs: -1 }, /from 0 to 86400000/],
    ['shutdown', { grace: 5 }, /no such option/],
    ['shutdown', 5, /graceMs/],
    ['shutdown', null, /graceMs/],
    ['maxPayloadBytes', 0, /from 1 to 67108864/],
    ['maxPayloadBytes', 67_108_865, /from 1 to 67108864/],
    ['openNames', 1, /true or false/],
    ['defaults', 5, /object|function/],
    ['listenUrl', 'localhost:5432', /begins with postgres:\/\//],
    ['preparedStatements', 'no', /true or false/],
    ['pruneEvery', '10ms', /from 100 ms to 86400000 ms/],
    ['polling', 5, /no such option. Known: .*pollMs/],
  ])('refuses a wrong %s (%p) with an error that names it and its cure', (option, value, cure) => {
    const resolve = (): unknown => resolveOptions({ [option]: value });
    expect(resolve).toThrow(InvalidOptionsError);
    expect(resolve).toThrow(cure);
    expect(resolve).toThrow(new RegExp(`Option "${option}`));
  });

  it('does not repeat a connection string, which may hold a password', () => {
    expect(() => resolveOptions({ listenUrl: 'mysql://root:secret@db/x' })).not.toThrow('secret');
    expect(() => resolveOptions({ listenUrl: 'mysql://root:secret@db/x' })).toThrow(InvalidOptionsError);
  });
});
