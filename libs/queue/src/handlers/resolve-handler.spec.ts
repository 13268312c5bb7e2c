import { describe, expect, it } from '@jest/globals';
import { z } from 'zod';
import { InvalidOptionsError } from '../job/errors.js';
import type { HandlerOptions, HandlerPreset, RegisteredHandler } from '../job/handler.js';
import { policyIdOf } from '../job/policy-id.js';
import { resolveHandler } from './resolve-handler.js';

const resolve = (options: HandlerOptions = {}, defaults: HandlerPreset = {}, channel = 'mail'): RegisteredHandler =>
  resolveHandler({ label: 'Mailer.welcome', metadata: { channel, options }, invoke: () => undefined }, defaults);

describe('resolveHandler', () => {
  it('has a default for everything', () => {
    expect(resolve()).toMatchObject({
      name: 'Mailer.welcome',
      formerNames: [],
      channel: 'mail',
      priority: 0,
      concurrency: null,
      schema: null,
      backoffFunction: null,
      completion: 'auto',
      onError: null,
      isRetryable: null,
      policy: {
        retries: 4,
        backoff: { type: 'exponential', baseMs: 1_000, factor: 2, maxMs: 900_000, jitter: 0.1 },
        timeoutMs: null,
        retentionMs: 0,
        deadRetentionMs: null,
        keepAlive: true,
        payloadVersion: 1,
      },
    });
  });

  it('lets the module win over the library, the preset over the module, the decorator over the preset', () => {
    const preset = { retries: 2, timeout: '2s', priority: 2 } as const;
    const defaults = { retries: 1, timeout: '1s', priority: 1, retention: '1m' } as const;
    const handler = resolve({ preset, retries: 3 }, defaults);
    expect(handler.policy).toMatchObject({ retries: 3, timeoutMs: 2_000, retentionMs: 60_000, deadRetentionMs: null });
    expect(handler.priority).toBe(2);
  });

  it('gives preset functions the name of the method', () => {
    const preset = (label: string): { retries: number } => ({ retries: label === 'Mailer.welcome' ? 7 : 0 });
    expect(resolve({ preset }).policy.retries).toBe(7);
    expect(resolve({}, preset).policy.retries).toBe(7);
  });

  it('does not let an undefined option hide the one below it', () => {
    expect(resolve({ retries: undefined }, { retries: 9 }).policy.retries).toBe(9);
  });

  it('stores endless retries as null, and leaves a backoff function out of the policy', () => {
    const own = (): number => 5;
    expect(resolve({ retries: Infinity, backoff: own })).toMatchObject({
      policy: { retries: null, backoff: null },
      backoffFunction: own,
    });
  });

  it('takes any Standard Schema', () => {
    const schema = z.object({ userId: z.string() });
    expect(resolve({ schema }).schema).toBe(schema);
  });

  it.each<[string, unknown]>([
    ['name', ''],
    ['name', 'x'.repeat(256)],
    ['formerNames', ['']],
    ['formerNames', 'Mailer.hello'],
    ['retries', -1],
    ['retries', 'many'],
    ['backoff', 'soon'],
    ['backoff', { type: 'linear' }],
    ['timeout', 0],
    ['timeout', '25d'],
    ['schema', { type: 'object' }],
    ['schema', null],
    ['retention', -1],
    ['deadRetention', 'never'],
    ['concurrency', 0],
    ['concurrency', 1.5],
    ['priority', 40_000],
    ['preset', 'fast'],
    ['completion', 'later'],
    ['keepAlive', 'no'],
    ['onError', 'log'],
    ['isRetryable', true],
    ['version', 0],
    ['upgrade', () => ({})],
    ['order', true],
    ['batch', 0],
    ['batch', 501],
    ['batch', 2.5],
    ['partitions', 0],
    ['partitions', 1_025],
  ])('refuses a wrong %s (%p), naming the handler and the option', (option, value) => {
    const wrong = (): unknown => resolve({ [option]: value });
    expect(wrong).toThrow(InvalidOptionsError);
    expect(wrong).toThrow(`Option "Mailer.welcome: ${option}`);
  });

  it('refuses leases that end by themselves for a batch', () => {
    expect(() => resolve({ batch: 5, keepAlive: false })).toThrow('Option "Mailer.welcome: keepAlive"');
  });

  it('refuses an option that a preset or the module brings, just as its own', () => {
    expect(() => resolve({ preset: { retries: -1 } })).toThrow(InvalidOptionsError);
    expect(() => resolve({}, { timeout: 0 })).toThrow(InvalidOptionsError);
    expect(() => resolve({}, { retires: 3 } as HandlerPreset)).toThrow('There is no such option');
    expect(() => resolve({ preset: { batch: 5 } as HandlerPreset })).toThrow('Give it with @JobHandler');
  });

  it.each([[''], ['x'.repeat(256)], ['a\0b']])('refuses the channel %p', (channel) => {
    expect(() => resolve({}, {}, channel)).toThrow('Option "Mailer.welcome: channel"');
  });
});

describe('policyIdOf', () => {
  const { policy } = resolve();

  it('is the same in every process, and fits a bigint', () => {
    expect(policyIdOf('Mailer.welcome', policy)).toBe(resolve().policyId);
    const id = BigInt(resolve().policyId);
    expect(id >= -(2n ** 63n) && id < 2n ** 63n).toBe(true);
  });

  it('is another one as soon as anything of the policy is', () => {
    const versions = [
      policy,
      { ...policy, retries: 5 },
      { ...policy, retries: null },
      { ...policy, backoff: null },
      { ...policy, backoff: { ...policy.backoff!, jitter: 0.2 } },
      { ...policy, timeoutMs: 1 },
      { ...policy, retentionMs: 1 },
      { ...policy, deadRetentionMs: 0 },
      { ...policy, keepAlive: false },
      { ...policy, payloadVersion: 2 },
    ];
    const ids = [...versions.map((version) => policyIdOf('Mailer.welcome', version)), policyIdOf('Mailer.bye', policy)];
    expect(new Set(ids).size).toBe(ids.length);
  });
});
