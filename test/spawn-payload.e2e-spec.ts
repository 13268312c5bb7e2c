import { beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { JobHandler, type Job } from 'nestmq';
import { z } from 'zod';
import { POLLING_OFF, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { withApp } from './support/with-app.js';

interface Seen {
  payload: unknown;
  bytes: Buffer | null;
  metadata: object;
  key: string;
  channel: string;
}

@Injectable()
class Mirror {
  readonly seen: Seen[] = [];

  @JobHandler('mirror')
  look({ payload, bytes, metadata, key, channel }: Job): void {
    this.seen.push({ payload, bytes, metadata, key, channel });
  }

  @JobHandler('mirror', { schema: z.object({ at: z.coerce.date(), times: z.number().default(1) }) })
  parsed(job: Job): void {
    this.seen.push({ ...job, payload: job.payload });
  }
}

const database = useDatabase();
const tables = useTables(database);
beforeEach(() => tables.sql('DELETE FROM nestmq.job'));

const withMirror = (work: (app: TestApp, mirror: Mirror) => Promise<void>): Promise<void> =>
  withApp({ url: database.url, providers: [Mirror], queue: POLLING_OFF }, (app) => work(app, app.get(Mirror)));

/** Sends, outside of a transaction and in one, and answers what the handler saw. */
async function mirrored(payload: unknown, options: object = {}): Promise<[plain: Seen, joined: Seen]> {
  let seen: Seen[] = [];
  await withMirror(async ({ jobs, dataSource }, mirror) => {
    await jobs.spawn(Mirror, 'look', payload, options);
    await until(() => mirror.seen.length === 1, { what: 'the first job was seen' });
    await dataSource.transaction((manager) => jobs.spawn(Mirror, 'look', payload, { ...options, manager }));
    await until(() => mirror.seen.length === 2, { what: 'both jobs were seen' });
    seen = mirror.seen;
  });
  return [seen[0]!, seen[1]!];
}

describe('a payload comes back as it was sent', () => {
  it.each<[string, unknown]>([
    ['null', null],
    ['false', false],
    ['zero', 0],
    ['an empty string', ''],
    ['an empty array', []],
    ['an empty object', {}],
    ['nested', { a: [{ b: [[]] }, null, 'x'] }],
    ['quotes, backslashes and line ends', `"'\\\n\r\t\b\f/</script>`],
    ['Unicode', 'größe Ω 日本語 📮 👩‍👩‍👧 \u202e'],
    ['characters that end a line only in JavaScript', '\u2028\u2029'],
    ['NUL inside strings', { text: 'a\u0000b', 'key\u0000': ['\u0000'] }],
    ['a lone surrogate', [String.fromCharCode(0xd83d), `x${String.fromCharCode(0xdc00)}`]],
    ['the names that objects have', JSON.parse('{"__proto__": {"a": 1}, "constructor": 2, "toString": 3}')],
    ['keys in their order', JSON.parse('{"z": 1, "a": 2, "m": 3}')],
    ['something that looks like our own fields', { c: 'x', n: 'y', k: 'z', j: 1, x: 'AA==', m: {} }],
    ['something that looks like SQL', `'); DROP TABLE nestmq.job; --`],
    ['numbers to the last digit', [0.1, 0.30000000000000004, 1e21, 5e-324, Number.MAX_VALUE, -Number.EPSILON]],
    ['whole numbers to the last digit', [Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, 123456789012345680000]],
  ])('%s', async (_, payload) => {
    const [plain, joined] = await mirrored(payload);
    expect(JSON.stringify(plain.payload)).toBe(JSON.stringify(payload));
    expect(plain.payload).toEqual(payload);
    expect(joined.payload).toEqual(payload);
  });

  it('undefined, which is no payload and not null', async () => {
    const [plain, joined] = await mirrored(undefined);
    expect(plain.payload).toBeUndefined();
    expect(joined.payload).toBeUndefined();
  });

  it('as JSON makes it: dates are text, fields that are undefined are left out, toJSON is asked', async () => {
    const at = new Date('2026-11-22T10:00:00.123Z');
    const [plain] = await mirrored({ at, nothing: undefined, nan: Number.NaN, own: { toJSON: () => 'own' } });
    expect(plain.payload).toEqual({ at: '2026-11-22T10:00:00.123Z', nan: null, own: 'own' });
  });

  it('deeply nested', async () => {
    const depth = 2_000;
    const [plain] = await mirrored(JSON.parse(`${'['.repeat(depth)}${']'.repeat(depth)}`));
    expect(JSON.stringify(plain.payload)).toBe(`${'['.repeat(depth)}${']'.repeat(depth)}`);
  });

  it('beside the other jobs of one call', () =>
    withMirror(async ({ jobs }, mirror) => {
      const payloads = ['a\u0000b', null, undefined, [1], '📮', { x: 'AA==' }];
      await jobs.spawnMany(
        Mirror,
        'look',
        payloads.map((payload) => ({ payload })),
      );
      await until(() => mirror.seen.length === payloads.length, { what: 'all jobs were seen' });
      expect(mirror.seen.map(({ payload }) => payload)).toEqual(payloads);
    }));

  it('through queue.get, while it waits', () =>
    withApp({ url: database.url, providers: [Mirror], queue: { runner: false } }, async ({ jobs, queue }) => {
      const payload = { text: 'a\u0000b 📮', n: 0.1 };
      const { id } = await jobs.spawn(Mirror, 'look', payload, { bytes: Buffer.from('x'), metadata: { t: 'ü' } });
      expect(await queue.get(id)).toMatchObject({ payload, bytes: Buffer.from('x'), metadata: { t: 'ü' } });
    }));
});

describe('bytes', () => {
  const every = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));

  it.each<[string, Uint8Array, Buffer]>([
    ['every byte there is', every, every],
    ['none', Buffer.alloc(0), Buffer.alloc(0)],
    ['a plain Uint8Array', new Uint8Array([1, 2, 255]), Buffer.from([1, 2, 255])],
    ['a part of a larger buffer', new Uint8Array(every.buffer, every.byteOffset + 10, 3), Buffer.from([10, 11, 12])],
  ])('come back as they were sent: %s', async (_, bytes, expected) => {
    const [plain, joined] = await mirrored(undefined, { bytes });
    expect(plain.bytes).toEqual(expected);
    expect(joined.bytes).toEqual(expected);
  });

  it('stand beside a JSON payload', async () => {
    const [plain] = await mirrored({ name: 'x.png' }, { bytes: Buffer.from('png') });
    expect(plain).toMatchObject({ payload: { name: 'x.png' }, bytes: Buffer.from('png') });
  });

  it('are null when none were given', async () => {
    const [plain] = await mirrored(1);
    expect(plain.bytes).toBeNull();
  });
});

describe('metadata', () => {
  it('comes back as it was sent', async () => {
    const metadata = { trace: 'abc', deep: { n: 0.1, list: [null, 'a\u0000'] } };
    const [plain, joined] = await mirrored(1, { metadata });
    expect(plain.metadata).toEqual(metadata);
    expect(joined.metadata).toEqual(metadata);
  });

  it('is {} when none was given', async () => {
    const [plain] = await mirrored(1);
    expect(plain.metadata).toEqual({});
  });
});

// acceptance: section 7, row 7
describe('names and keys', () => {
  const controls = '\u0001';

  it.each<[string, object]>([
    ['an empty key', { key: '' }],
    ['a key of spaces and punctuation', { key: ` '";--\\ ` }],
    ['a key of 1 KiB', { key: 'k'.repeat(1_024) }],
    ['a key of 1 KiB of Unicode', { key: '📮'.repeat(256) }],
    ['a channel of 255 bytes', { channel: 'c'.repeat(255) }],
    ['a channel of 255 bytes of Unicode', { channel: 'ü'.repeat(127) }],
    [
      'the longest channel and key, of characters that JSON escapes',
      { channel: controls.repeat(255), key: controls.repeat(1_024) },
    ],
  ])('carry a job from spawn to handler without polling: %s', async (_, options) => {
    const [plain, joined] = await mirrored(1, options);
    expect(plain).toMatchObject(options);
    expect(joined).toMatchObject(options);
  });

  it('may be as long as they can all be: a job of a handler whose name has 255 bytes', async () => {
    const name = controls.repeat(255);
    class Long {
      ran = 0;

      @JobHandler(controls.repeat(255), { name })
      work(_job: Job): void {
        this.ran += 1;
      }
    }
    await withApp({ url: database.url, providers: [Long], queue: POLLING_OFF }, async ({ jobs, dataSource, app }) => {
      const long = app.get(Long);
      await dataSource.transaction((manager) => jobs.spawn(Long, 'work', 1, { key: controls.repeat(1_024), manager }));
      await until(() => long.ran === 1, { what: 'the job has run' });
    });
  });

  it('are compared byte by byte: keys that look alike are two', () =>
    withApp({ url: database.url, providers: [Mirror], queue: { runner: false } }, async ({ jobs }) => {
      for (const key of ['é', 'e\u0301', 'É', 'E', 'e']) await jobs.spawn(Mirror, 'look', 1, { key });
      const rows = await tables.sql<{ key: string }>('SELECT key FROM nestmq.job GROUP BY key ORDER BY key');
      expect(rows.map(({ key }) => key)).toEqual(['E', 'e', 'e\u0301', 'É', 'é']);
    }));
});

describe('a schema', () => {
  it('refuses at spawn, and its output is what the handler sees', () =>
    withMirror(async ({ jobs }, mirror) => {
      await expect(jobs.spawn(Mirror, 'parsed', { at: 'never' })).rejects.toMatchObject({ code: 'payload_invalid' });
      await jobs.spawn(Mirror, 'parsed', { at: '2026-11-22T10:00:00Z' });
      await until(() => mirror.seen.length === 1, { what: 'the job was seen' });
      expect(mirror.seen[0]?.payload).toEqual({ at: new Date('2026-11-22T10:00:00Z'), times: 1 });
    }));

  it('makes a row that somebody else wrote, with a payload it does not want, a failed run', () =>
    withMirror(async ({ queue, events }, mirror) => {
      const [row] = await tables.sql<{ id: string }>(
        `INSERT INTO nestmq.job (channel, name, payload, max_attempts) VALUES ('mirror', 'Mirror.parsed', '{"at": 5, "times": "x"}', 1) RETURNING id`,
      );
      await tables.sql(`SELECT pg_notify('nestmq_wake_up', '["survey"]')`);
      await until(() => events.some(({ type }) => type === 'dead'), { what: 'the job is dead' });
      expect(await queue.get(row!.id)).toMatchObject({
        state: 'dead',
        reason: 'exhausted',
        lastError: expect.stringContaining('PayloadInvalidError: Payload of job "Mirror.parsed" is not valid: times: '),
      });
      expect(mirror.seen).toEqual([]);
    }));
});
