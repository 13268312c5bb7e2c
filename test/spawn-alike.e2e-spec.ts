import { beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { JobHandler, type JobSpawner, type SpawnItem } from 'nestmq';
import type pg from 'pg';
import type { EntityManager } from 'typeorm';
import { BINARY_ARRAYS, TEXT_ARRAYS } from '../libs/queue/src/statements/array-format.js';
import { POLLING_OFF } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { listenToWakeUps } from './support/wake-ups.js';
import { withApp } from './support/with-app.js';

/** A job that is sent alone and one that is sent among others go different ways into the table. */

@Injectable()
class Letters {
  @JobHandler('letters', { retries: 2, priority: 3 })
  send(): void {}

  @JobHandler('orders', { ordered: true })
  ship(): void {}
}

const database = useDatabase();
const tables = useTables(database);
beforeEach(() => tables.clear());

const runAt = new Date(Date.now() + 3_600_000);
const items: readonly (SpawnItem & { name: string; hold?: string })[] = [
  { name: 'Letters.send', payload: undefined },
  { name: 'Letters.send', payload: null },
  { name: 'Letters.send', payload: { text: 'größe \u0000 "quoted" \\ back, {braces}', big: 1e21 }, key: 'a' },
  { name: 'Letters.ship', payload: [1], key: 'a' },
  { name: 'Letters.send', payload: String.fromCharCode(0xd83d), metadata: { trace: 'x\u0000y', n: [null] } },
  { name: 'Letters.send', payload: undefined, bytes: Buffer.from([0, 255, 10, 92]), metadata: {} },
  { name: 'Letters.ship', payload: undefined, key: 'NULL', bytes: Buffer.alloc(0) },
  { name: 'Letters.send', payload: undefined, runAt, retries: 0, priority: -5 },
  { name: 'Letters.send', payload: undefined, delay: '1h', retries: Infinity, backoff: '3s' },
  { name: 'Letters.send', payload: undefined, channel: 'elsewhere', hold: '1m' },
  { name: 'Letters.send', payload: 'the first head again' },
];
const keyed: typeof items = items.map((item, index) => ({
  ...item,
  ...(index % 3 !== 0 &&
    ({ idempotencyKey: `key "${index}"`, scope: index % 2 === 0 ? 'forever' : 'active' } satisfies Partial<SpawnItem>)),
}));

/** What the rows say, in the order of their ids; times as distances from the insert, so many as no slow machine takes. */
const written = (): Promise<Record<string, unknown>[]> =>
  tables.sql(
    `
    SELECT channel, key, name, priority, max_attempts, backoff::text, payload::text, payload_bytes, metadata::text,
      position = id AS ordered, idempotency_key, idempotency_hash,
      due_at = $1 AS at_its_time, CASE WHEN due_at <> $1 THEN round(extract(epoch FROM due_at - created_at) / 60) END AS due,
      round(extract(epoch FROM held_until - created_at) / 60) AS held,
      (SELECT array_agg(key) FROM nestmq.idempotency_key WHERE job_id = job.id AND payload_hash = idempotency_hash) AS kept
    FROM nestmq.job ORDER BY id`,
    [runAt],
  );

type Send = (jobs: JobSpawner, manager?: EntityManager) => Promise<unknown>;

const together =
  (all: typeof items): Send =>
  (jobs, manager) =>
    jobs.spawnMany(all, { manager });

const alone =
  (all: typeof items): Send =>
  async (jobs, manager) => {
    for (const { name, payload, ...options } of all) await jobs.spawn(name, payload, { ...options, manager });
  };

/** A pg client as the native one is, which sends its parameters as text. */
async function likeNative(manager: EntityManager): Promise<void> {
  const runner = manager.queryRunner!;
  const client = (await runner.connect()) as pg.Client;
  runner.connect = () =>
    Promise.resolve({
      query: (query: pg.QueryConfig) => {
        expect((query.values ?? []).filter((value) => Buffer.isBuffer(value))).toEqual([]);
        return client.query(query);
      },
    });
}

/** The rows of a call without a transaction, of one in a transaction, and of one in a transaction of a native client. */
const rowsOf = async (send: Send): Promise<unknown[][]> => {
  const rows: unknown[][] = [];
  await withApp({ url: database.url, providers: [Letters], queue: { ...POLLING_OFF, runner: false } }, async (app) => {
    await send(app.jobs);
    rows.push(await written());
    await tables.clear();
    await app.dataSource.transaction((manager) => send(app.jobs, manager));
    rows.push(await written());
    await tables.clear();
    await app.dataSource.transaction(async (manager) => {
      await likeNative(manager);
      await send(app.jobs, manager);
    });
    rows.push(await written());
    await tables.clear();
  });
  return rows;
};

describe('jobs that differ in everything', () => {
  it.each([
    ['without idempotency keys', items],
    ['some with an idempotency key', keyed],
  ])('are the same rows, sent alone or together, in a transaction or not: %s', async (_, all) => {
    const [single, ...singleJoined] = await rowsOf(alone(all));
    expect(single).toHaveLength(items.length);
    expect(singleJoined).toEqual([single, single]);
    expect(await rowsOf(together(all))).toEqual([single, single, single]);
  });
});

describe('what the runners are told', () => {
  /** What a call wakes them with: the place of its first job; and of each message the priority, the channel, how it is ordered, and the name. */
  const toldOf = async (send: Send): Promise<unknown[]> => {
    const wakeUps = await listenToWakeUps(database.url);
    await withApp({ url: database.url, providers: [Letters], queue: { ...POLLING_OFF, runner: false } }, (app) =>
      send(app.jobs),
    );
    const heard = await wakeUps.heard();
    await wakeUps.close();
    const jobs = await tables.sql(
      `SELECT (extract(epoch FROM due_at) * 1000000)::bigint::float AS due, id FROM nestmq.job ORDER BY due_at, id`,
    );
    expect(heard.map(([due, id]) => ({ due, id }))).toEqual(jobs.slice(0, heard.length));
    await tables.clear();
    return heard.map(([, , ...what]) => what);
  };

  it.each<[string, Partial<SpawnItem> & { name?: string; hold?: '1m' }, unknown[]]>([
    ['without a key', {}, [3, 'letters', 0, 'Letters.send']],
    ['with a key', { key: 'a' }, [3, 'letters', 1, 'Letters.send']],
    ['in order', { name: 'Letters.ship', key: 'a' }, [0, 'orders', 2, 'Letters.ship']],
    ['that is due later', { delay: '1h', priority: -1 }, [-1, 'letters', 0, 'Letters.send']],
    ['that is held', { hold: '1m' }, []],
  ])('is the same of a job alone and of several: %s', async (_, options, message) => {
    for (const idempotencyKey of [undefined, 'k']) {
      const item = { name: 'Letters.send', payload: undefined, ...options, ...(idempotencyKey && { idempotencyKey }) };
      const messages = message.length === 0 ? [] : [message];
      expect(await toldOf(alone([item]))).toEqual(messages);
      expect(await toldOf(together([item, { ...item, ...(idempotencyKey && { idempotencyKey: 'l' }) }]))).toEqual(
        messages,
      );
    }
  });
});

describe('jobs that differ in what is their own', () => {
  const own: readonly Partial<SpawnItem>[] = [
    {},
    { payload: null },
    { payload: { text: 'größe \u0000 "quoted" \\ back, {braces}', big: 1e21 }, key: 'b' },
    { payload: String.fromCharCode(0xd83d), metadata: { trace: 'x\u0000y', n: [null] } },
    { bytes: Buffer.from([0, 255, 10, 92]), metadata: {} },
    { key: 'NULL', bytes: Buffer.alloc(0) },
  ];
  type Shared = Partial<SpawnItem> & { name?: string; hold?: '1m' };
  const withKeys =
    (options: Shared) =>
    (index: number): Shared => ({ ...options, idempotencyKey: `"${index}"` });

  it.each<[string, (index: number) => Shared]>([
    ['nothing but a name', () => ({})],
    [
      'every option',
      () => ({ runAt, retries: Infinity, backoff: '3s', priority: -5, channel: 'elsewhere', hold: '1m' }),
    ],
    ['an order', () => ({ name: 'Letters.ship', key: 'a', delay: '1h' })],
    ['a scope', withKeys({})],
    ['a scope beyond their lives', withKeys({ scope: 'forever', retries: 0 })],
    ['a time to live, and strict', withKeys({ scope: 'ttl', idempotencyTtl: '1h', strict: true })],
  ])('are the same rows, sent alone or together, where all have %s', async (_, options) => {
    const all = own.map(
      (item, index) =>
        ({ name: 'Letters.send', payload: undefined, ...options(index), ...item }) as (typeof items)[number],
    );
    const [single, ...singleJoined] = await rowsOf(alone(all));
    expect(single).toHaveLength(own.length);
    expect(singleJoined).toEqual([single, single]);
    expect(await rowsOf(together(all))).toEqual([single, single, single]);
  });
});

describe.each([
  ['binary', BINARY_ARRAYS],
  ['text', TEXT_ARRAYS],
])('arrays as %s', (_, arrays) => {
  const read = async (type: string, value: unknown): Promise<unknown> =>
    (await tables.sql(`SELECT $1::${type} AS value`, [value]))[0]!['value'];

  it.each([[[]], [['']], [['a', null, 'NULL', '"\\{},', 'größe 📮 日本語']], [[null]]])(
    'of texts: %j',
    async (texts) => {
      expect(await read('text[]', arrays.texts(texts))).toEqual(texts);
    },
  );

  it('of bytes', async () => {
    const values = [Buffer.from([0, 1, 255]), null, Buffer.alloc(0)];
    expect(await read('bytea[]', arrays.bytes(values))).toEqual(values);
    expect(await read('bytea[]', arrays.bytes([]))).toEqual([]);
    for (const value of values) expect(await read('bytea', arrays.alone(value))).toEqual(value);
  });

  it('of integers', async () => {
    expect(await read('integer[]', arrays.integers([1, -5, 2_147_483_647]))).toEqual([1, -5, 2_147_483_647]);
    expect(await read('integer[]', arrays.integers([]))).toEqual([]);
  });
});
