import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import {
  InvalidManagerError,
  InvalidOptionsError,
  JobHandler,
  PayloadInvalidError,
  PayloadTooLargeError,
  UnknownJobError,
  type Job,
  type QueueError,
} from 'nestmq';
import { DataSource, type EntityManager } from 'typeorm';
import { z } from 'zod';
import { type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { recordSql } from './support/sql-log.js';
import { useTables } from './support/tables.js';
import { withApp } from './support/with-app.js';

@Injectable()
class Mailer {
  @JobHandler('mail')
  welcome(_job: Job): void {}

  @JobHandler('mail', { schema: z.object({ user: z.object({ id: z.string() }), at: z.coerce.date().optional() }) })
  checked(_job: Job): void {}

  noHandler(_job: Job): void {}
}

const MAX_BYTES = 1_000;
const TEN_YEARS_MS = 10 * 365 * 86_400_000;
const loneSurrogate = String.fromCharCode(0xdc00);
const circular: Record<string, unknown> = {};
circular['self'] = circular;

const database = useDatabase();
const tables = useTables(database);
let app: TestApp;

/** A test with an application that only sends. */
const sending =
  <Args extends unknown[]>(test: (...args: Args) => Promise<void>) =>
  (...args: Args): Promise<void> =>
    withApp(
      { url: database.url, providers: [Mailer], queue: { runner: false, maxPayloadBytes: MAX_BYTES } },
      (started) => {
        app = started;
        return test(...args);
      },
    );

/** Spawns with arguments that the types refuse, as JavaScript can. */
const spawn = (...call: unknown[]): Promise<unknown> =>
  (app.jobs.spawn as (...given: unknown[]) => Promise<unknown>).apply(app.jobs, call);

/** What a spawn is refused with, and the SQL it has sent. */
async function refusalOf(...call: unknown[]): Promise<{ error: unknown; sent: string[] }> {
  const sent = recordSql();
  const error = await spawn(...call).then(
    () => 'nothing: it was not refused',
    (reason: unknown) => reason,
  );
  return { error, sent: [...sent] };
}

type Refusal = readonly [what: string, call: unknown[], error: new (...facts: never[]) => QueueError, message: RegExp];

const option = (what: string, options: object, message: RegExp): Refusal => [
  what,
  [Mailer, 'welcome', {}, options],
  InvalidOptionsError,
  message,
];
const payload = (what: string, value: unknown, message: RegExp): Refusal => [
  `a payload that is ${what}`,
  [Mailer, 'welcome', value],
  PayloadInvalidError,
  message,
];

const refusals: readonly Refusal[] = [
  ['an unknown name', ['Mailer.welcom'], UnknownJobError, /Registered: "Mailer.welcome", "Mailer.checked"/],
  ['an empty name', [''], UnknownJobError, /No handler for job ""/],
  ['a method without @JobHandler', [Mailer, 'noHandler', {}], UnknownJobError, /"Mailer.noHandler"/],
  ['a method that is not there', [Mailer, 'welcom', {}], UnknownJobError, /"Mailer.welcom"/],
  ['a class without handlers', [Date, 'getTime', {}], UnknownJobError, /"Date.getTime"/],
  ['an instance for the class', [new Mailer(), 'welcome', {}], InvalidOptionsError, /class and the method/],
  ['a class without a method', [Mailer], InvalidOptionsError, /class and the method/],
  ['nothing', [], InvalidOptionsError, /class and the method/],
  ['options that are no object', [Mailer, 'welcome', {}, 'now'], InvalidOptionsError, /Option "options" is "now"/],
  ['options that are null', [Mailer, 'welcome', {}, null], InvalidOptionsError, /Option "options" is null/],
  option('an unknown option', { dealy: 5 }, /Option "dealy" is 5\. There is no such option\. Known: key, .*delay/),
  option('an option of a later release', { batch: 5 }, /no such option/),

  payload('circular', circular, /circular/),
  payload('a BigInt', { n: 1n }, /BigInt/),
  payload('a function', () => 5, /payload is a function, which is not JSON/),
  payload('a symbol', Symbol('x'), /payload is a symbol/),
  payload('something whose toJSON throws', { toJSON: () => JSON.parse('{') }, /not JSON/),
  [
    'metadata that is circular',
    [Mailer, 'welcome', {}, { metadata: circular }],
    PayloadInvalidError,
    /metadata is not JSON/,
  ],
  ['metadata with a BigInt', [Mailer, 'welcome', {}, { metadata: { n: 1n } }], PayloadInvalidError, /metadata/],
  option('metadata that is no object', { metadata: 'trace' }, /metadata/),
  option('metadata that is an array', { metadata: [1] }, /metadata/),
  option('metadata that is null', { metadata: null }, /metadata/),
  option('bytes that are text', { bytes: 'abc' }, /Buffer or a Uint8Array/),
  option('bytes that are an array', { bytes: [1, 2] }, /Buffer or a Uint8Array/),

  [
    'a payload that the schema refuses',
    [Mailer, 'checked', { user: { id: 5 } }],
    PayloadInvalidError,
    /Payload of job "Mailer.checked" is not valid: user\.id: .*string/,
  ],
  ['no payload where the schema wants one', [Mailer, 'checked'], PayloadInvalidError, /Mailer.checked/],

  option('a key with NUL', { key: 'a\0b' }, /without NUL/),
  option('a key with a lone surrogate', { key: `a${loneSurrogate}` }, /well-formed Unicode/),
  option('a key over 1 KiB', { key: 'k'.repeat(1_025) }, /0 to 1024 bytes of UTF-8, this has 1025/),
  option('a key over 1 KiB in UTF-8', { key: 'ü'.repeat(513) }, /this has 1026/),
  option('a key of 8 KB', { key: 'k'.repeat(8_192) }, /this has 8192/),
  option('a key that is a number', { key: 5 }, /Option "key" is 5/),
  option('a key that is null', { key: null }, /Option "key" is null/),
  option('an empty channel', { channel: '' }, /1 to 255 bytes/),
  option('a channel over 255 bytes', { channel: 'c'.repeat(256) }, /1 to 255 bytes/),
  option('a channel with NUL', { channel: '\0' }, /without NUL/),

  option('an empty idempotency key', { idempotencyKey: '' }, /Option "idempotencyKey" is ""\. Give 1 to 255 bytes/),
  option(
    'an idempotency key over 255 bytes',
    { idempotencyKey: 'ü'.repeat(128) },
    /1 to 255 bytes of UTF-8, this has 256/,
  ),
  option('an idempotency key with NUL', { idempotencyKey: 'a\0' }, /without NUL/),
  option('an idempotency key with a lone surrogate', { idempotencyKey: loneSurrogate }, /well-formed Unicode/),
  option('an idempotency key that is a number', { idempotencyKey: 5 }, /Option "idempotencyKey" is 5/),
  option('an idempotency key that is null', { idempotencyKey: null }, /Option "idempotencyKey" is null/),
  option('an unknown scope', { idempotencyKey: 'k', scope: 'always' }, /Give 'active', 'ttl' or 'forever'/),
  option('a scope without a key', { scope: 'forever' }, /Option "scope" is "forever"\. It needs `idempotencyKey`/),
  option('strict without a key', { strict: true }, /Option "strict" is true\. It needs `idempotencyKey`/),
  option('strict that is text', { idempotencyKey: 'k', strict: 'yes' }, /Give true or false/),
  option('a scope of ttl without one', { idempotencyKey: 'k', scope: 'ttl' }, /Option "idempotencyTtl" is undefined/),
  option('a ttl of 0', { idempotencyKey: 'k', scope: 'ttl', idempotencyTtl: 0 }, /from 1 ms to/),
  option('a ttl over ten years', { idempotencyKey: 'k', scope: 'ttl', idempotencyTtl: '3651d' }, /from 1 ms to/),
  option(
    'a ttl with another scope',
    { idempotencyKey: 'k', idempotencyTtl: '1h' },
    /It needs `scope: 'ttl'` beside it/,
  ),
  option('a ttl without a key', { idempotencyTtl: '1h' }, /It needs `idempotencyKey` beside it/),

  option('a negative delay', { delay: -1 }, /Option "delay" is -1/),
  option('a delay of NaN', { delay: Number.NaN }, /Option "delay" is NaN/),
  option('an endless delay', { delay: Infinity }, /Option "delay" is Infinity/),
  option('a delay over ten years', { delay: TEN_YEARS_MS + 1 }, /from 0 ms to 315360000000 ms/),
  option('a delay without a unit', { delay: '5' }, /units ms, s, m, h, d/),
  option('a delay with an unknown unit', { delay: '5w' }, /units ms, s, m, h, d/),
  option('a delay that is an object', { delay: {} }, /Option "delay"/),
  option('an invalid runAt', { runAt: new Date(Number.NaN) }, /Option "runAt" is an invalid Date/),
  option('a runAt that is text', { runAt: '2030-01-01' }, /Give a valid Date/),
  option('a runAt that is a number', { runAt: 5 }, /Give a valid Date/),
  option('a runAt over ten years ahead', { runAt: new Date('2100-01-01') }, /at most ten years ahead/),
  option('a runAt at the end of time', { runAt: new Date(8.64e15) }, /at most ten years ahead/),

  option('a backoff function', { backoff: () => 5 }, /cannot be stored with a job: give it with @JobHandler/),
  option(
    'an unknown type of backoff',
    { backoff: { type: 'linear' } },
    /exponential, fixed, full-jitter, decorrelated/,
  ),
  option('a backoff without a unit', { backoff: '5' }, /backoff\.base/),
  option('a backoff of null', { backoff: null }, /Option "backoff" is null/),
  option('negative retries', { retries: -1 }, /0 to 1000000, or Infinity/),
  option('half a retry', { retries: 0.5 }, /0 to 1000000, or Infinity/),
  option('retries as text', { retries: '3' }, /0 to 1000000, or Infinity/),
  option('a priority beyond smallint', { priority: 32_768 }, /-32768 to 32767/),
  option('a priority with a fraction', { priority: 1.5 }, /-32768 to 32767/),
  option('a priority of NaN', { priority: Number.NaN }, /-32768 to 32767/),
];

// acceptance: every refusal of spec section 4, before any SQL
describe('spawn refuses', () => {
  it.each(refusals)(
    '%s, before any SQL',
    sending(async (_, call, expected, message) => {
      const { error, sent } = await refusalOf(...call);
      expect(error).toBeInstanceOf(expected);
      expect((error as Error).message).toMatch(message);
      expect(sent).toEqual([]);
    }),
  );

  it(
    'all of this inside a transaction too, which stays usable and commits',
    sending(async () => {
      await app.dataSource.transaction(async (manager) => {
        for (const [, [target, ...rest], error] of refusals) {
          const byName = typeof target === 'string';
          const [method, value, options] = byName ? [undefined, rest[0], rest[1]] : rest;
          if (options === null || typeof options === 'string') continue;
          const joined = { ...options, manager };
          const call = byName ? [target, value, joined] : [target, method, value, joined];
          await expect(spawn(...call)).rejects.toThrow(error);
        }
        await spawn(Mailer, 'welcome', 'still usable', { manager });
      });
      expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(1);
    }),
  );
});

describe('the size of a payload', () => {
  it.each<[string, unknown, object]>([
    ['JSON text', 'x'.repeat(998), {}],
    ['UTF-8', 'ü'.repeat(499), {}],
    ['bytes', undefined, { bytes: Buffer.alloc(1_000) }],
    ['metadata', undefined, { metadata: { m: 'x'.repeat(992) } }],
    ['all together', 'x'.repeat(98), { bytes: Buffer.alloc(800), metadata: { m: 'x'.repeat(92) } }],
  ])(
    'may just reach the limit: %s',
    sending(async (_, value, options) => {
      await expect(spawn(Mailer, 'welcome', value, options)).resolves.toMatchObject({ isNew: true });
    }),
  );

  it.each<[string, unknown, object, number]>([
    ['JSON text', 'x'.repeat(999), {}, 1_001],
    ['UTF-8, not characters', 'ü'.repeat(500), {}, 1_002],
    ['UTF-8 of characters beyond 16 bits', '📮'.repeat(250), {}, 1_002],
    ['bytes', undefined, { bytes: Buffer.alloc(1_001) }, 1_001],
    ['metadata', undefined, { metadata: { m: 'x'.repeat(993) } }, 1_001],
    ['all together', 'x'.repeat(98), { bytes: Buffer.alloc(801), metadata: { m: 'x'.repeat(92) } }, 1_001],
  ])(
    'may not exceed it by one, before any SQL: %s',
    sending(async (_, value, options, sizeBytes) => {
      const { error, sent } = await refusalOf(Mailer, 'welcome', value, options);
      expect(error).toBeInstanceOf(PayloadTooLargeError);
      expect(error).toMatchObject({ sizeBytes, maxBytes: MAX_BYTES, code: 'payload_too_large' });
      expect(sent).toEqual([]);
    }),
  );

  it(
    'is 64 KiB by default',
    sending(async () => {
      const options = { url: database.url, providers: [Mailer], queue: { runner: false } };
      await withApp(options, async ({ jobs }) => {
        await jobs.spawn(Mailer, 'welcome', 'x'.repeat(65_534));
        await expect(jobs.spawn(Mailer, 'welcome', 'x'.repeat(65_535))).rejects.toMatchObject({
          sizeBytes: 65_537,
          maxBytes: 65_536,
        });
      });
    }),
  );
});

describe('the manager', () => {
  let other: DataSource;
  beforeAll(async () => {
    other = await new DataSource({ type: 'postgres', url: database.url }).initialize();
  });
  afterAll(() => other.destroy());

  const refusalWith = (manager: unknown) => refusalOf(Mailer, 'welcome', {}, { manager });
  const invalid = (message: RegExp) => ({
    error: expect.objectContaining({ name: InvalidManagerError.name, message: expect.stringMatching(message) }),
    sent: [],
  });

  it(
    'needs an open transaction',
    sending(async () => {
      expect(await refusalWith(app.dataSource.manager)).toEqual(invalid(/no open transaction/));
    }),
  );

  it(
    'of a query runner needs one too, before it began and after it ended',
    sending(async () => {
      const runner = app.dataSource.createQueryRunner();
      await runner.connect();
      expect(await refusalWith(runner.manager)).toEqual(invalid(/no open transaction/));
      await runner.startTransaction();
      await spawn(Mailer, 'welcome', {}, { manager: runner.manager });
      await runner.commitTransaction();
      expect(await refusalWith(runner.manager)).toEqual(invalid(/no open transaction/));
      await runner.release();
    }),
  );

  it(
    'of another DataSource is refused, even when that has an open transaction on the same database',
    sending(async () => {
      expect(await other.transaction(refusalWith)).toEqual(invalid(/another DataSource/));
    }),
  );

  it.each<[string, unknown]>([
    ['null', null],
    ['an empty object', {}],
    ['text', 'manager'],
    ['the DataSource', () => app.dataSource],
  ])(
    'is refused when it is %s',
    sending(async (_, given) => {
      expect(await refusalWith(typeof given === 'function' ? (given as () => unknown)() : given)).toEqual(
        invalid(/manager/),
      );
    }),
  );

  it(
    'whose transaction has ended while the call was on its way does not write outside of it',
    sending(async () => {
      let kept: EntityManager | undefined;
      await app.dataSource.transaction(async (manager) => {
        kept = manager;
      });
      expect(await refusalWith(kept)).toEqual(invalid(/no open transaction|released/));
    }),
  );
});
