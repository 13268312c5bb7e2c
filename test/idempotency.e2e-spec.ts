import { beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { IdempotencyConflictError, JobHandler, type Job, type SpawnOptions } from 'nestmq';
import type { TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { recordSql } from './support/sql-log.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { withApp } from './support/with-app.js';
import { gate, workWith } from './support/work.js';

@Injectable()
class Mailer {
  @JobHandler('mail')
  welcome(_job: Job): void {}

  @JobHandler('mail')
  goodbye(_job: Job): void {}
}

const database = useDatabase();
const tables = useTables(database);
const jobs = (): Promise<number> => tables.number('SELECT count(*) FROM nestmq.job');
const keys = (): Promise<number> => tables.number('SELECT count(*) FROM nestmq.idempotency_key');
const withSender = (work: (app: TestApp) => Promise<void>): Promise<void> =>
  withApp({ url: database.url, providers: [Mailer], queue: { runner: false } }, work);

/** Each way to spawn, with a manager and without. */
const ways = ['by itself', 'in a transaction'] as const;
const spawnBy = (
  { jobs: spawner, dataSource }: TestApp,
  way: (typeof ways)[number],
  payload: unknown,
  options: SpawnOptions,
) =>
  way === 'by itself'
    ? spawner.spawn('Mailer.welcome', payload, options)
    : dataSource.transaction((manager) => spawner.spawn('Mailer.welcome', payload, { ...options, manager }));

beforeEach(() => tables.clear());

// acceptance: enqueue_idempotent_on_same_key, idempotency_dedup
describe.each(ways)('a spawn with an idempotency key, %s', (way) => {
  it('makes one job: the second answers the id of the first, which is not new', () =>
    withSender(async (app) => {
      const first = await spawnBy(app, way, 1, { idempotencyKey: 'order 1' });
      const second = await spawnBy(app, way, 1, { idempotencyKey: 'order 1' });
      expect([first, second]).toEqual([
        { id: first.id, isNew: true },
        { id: first.id, isNew: false },
      ]);
      expect(await jobs()).toBe(1);
      expect(await app.queue.get(first.id)).toMatchObject({ state: 'waiting', attempts: 0, payload: 1 });
    }));

  it('makes two where there is no key, where the keys differ, and where the channels do', () =>
    withSender(async (app) => {
      await spawnBy(app, way, 1, {});
      await spawnBy(app, way, 1, {});
      await spawnBy(app, way, 1, { idempotencyKey: 'a' });
      await spawnBy(app, way, 1, { idempotencyKey: 'b' });
      expect(await spawnBy(app, way, 1, { idempotencyKey: 'a', channel: 'other' })).toMatchObject({ isNew: true });
      expect(await jobs()).toBe(5);
    }));

  it.each(['active', 'ttl', 'forever'] as const)('finds a job of scope %s, whatever its own scope', (scope) =>
    withSender(async (app) => {
      const lasts = { active: {}, ttl: { idempotencyTtl: '1h' as const }, forever: {} };
      const first = await spawnBy(app, way, 1, { idempotencyKey: 'k', scope, ...lasts[scope] });
      for (const other of ['active', 'ttl', 'forever'] as const) {
        const options = { idempotencyKey: 'k', scope: other, ...lasts[other] };
        expect(await spawnBy(app, way, 1, options)).toEqual({ id: first.id, isNew: false });
      }
      expect(await jobs()).toBe(1);
      expect(await keys()).toBe(scope === 'active' ? 0 : 1);
    }),
  );

  it('takes any text for a key, compared to the byte', () =>
    withSender(async (app) => {
      const texts = ['ä', 'a\u0308', 'A', 'a', ' a', '"quoted" \\ \n', '📮', "it's", 'x'.repeat(255), '\u0001'];
      for (const isNew of [true, false]) {
        for (const idempotencyKey of texts)
          expect(await spawnBy(app, way, 1, { idempotencyKey, scope: 'forever' })).toMatchObject({ isNew });
      }
      expect(await jobs()).toBe(texts.length);
    }));

  it('with strict refuses another payload, other bytes and another name, and nothing else', () =>
    withSender(async (app) => {
      const key = { idempotencyKey: 'k', strict: true };
      const { id } = await spawnBy(app, way, { a: 1, b: [{ c: 2, d: 3 }] }, key);
      const conflict = { code: 'idempotency_conflict', idempotencyKey: 'k', channel: 'mail', jobId: id };
      await expect(spawnBy(app, way, { a: 1 }, key)).rejects.toThrow(IdempotencyConflictError);
      await expect(spawnBy(app, way, { a: 1 }, key)).rejects.toMatchObject(conflict);
      const same = { a: 1, b: [{ c: 2, d: 3 }] };
      await expect(spawnBy(app, way, same, { ...key, bytes: Buffer.from('x') })).rejects.toMatchObject(conflict);
      await expect(app.jobs.spawn('Mailer.goodbye', same, key)).rejects.toMatchObject(conflict);
      expect(await spawnBy(app, way, same, { ...key, metadata: { trace: 'another' }, delay: '1h' })).toEqual({
        id,
        isNew: false,
      });
      expect(await spawnBy(app, way, 'another', { idempotencyKey: 'k' })).toEqual({ id, isNew: false });
      expect(await jobs()).toBe(1);
    }));

  it('with strict compares with a finished job too, where the key outlives it', () =>
    withSender(async (app) => {
      const key = { idempotencyKey: 'k', strict: true, scope: 'forever' as const };
      const { id } = await spawnBy(app, way, 1, key);
      await tables.sql('DELETE FROM nestmq.job');
      await expect(spawnBy(app, way, 2, key)).rejects.toMatchObject({ jobId: id });
      expect(await spawnBy(app, way, 1, key)).toEqual({ id, isNew: false });
      expect(await jobs()).toBe(0);
    }));

  it.each<[string, unknown, Buffer | undefined]>([
    ['nothing', undefined, undefined],
    ['no payload and no bytes', undefined, Buffer.alloc(0)],
    ['numbers to the last digit, and text', { n: 1e21, text: 'ä 📮 "quoted" \\ \u0001 \u2028' }, undefined],
    ['a payload and bytes', ['x'], Buffer.from([0, 255, 92, 120])],
  ])('with strict compares with one that was sent without: %s', (_, payload, bytes) =>
    withSender(async (app) => {
      const { id } = await spawnBy(app, way, payload, { idempotencyKey: 'k', bytes });
      const strict = { idempotencyKey: 'k', strict: true, bytes };
      expect(await spawnBy(app, way, payload, strict)).toEqual({ id, isNew: false });
      await expect(spawnBy(app, way, 'another', strict)).rejects.toMatchObject({ jobId: id });
      await expect(spawnBy(app, way, payload, { ...strict, bytes: Buffer.from('y') })).rejects.toMatchObject({
        jobId: id,
      });
      await expect(app.jobs.spawn('Mailer.goodbye', payload, strict)).rejects.toMatchObject({ jobId: id });
    }),
  );

  it.each([
    ['a payload', { payload: 2 }],
    ['bytes', { bytes: Buffer.from('2') }],
  ])('with strict compares with what was spawned, not with what checkpoints made of it: %s', async (_, changes) => {
    const [written, end] = [gate(), gate()];
    const Work = workWith({}, async (job) => {
      await job.checkpoint(changes);
      await job.checkpoint(changes);
      written.open();
      await end.opened;
    });
    await withApp({ url: database.url, providers: [Work] }, async (app) => {
      const spawn = (payload: unknown, options: SpawnOptions) =>
        way === 'by itself'
          ? app.jobs.spawn('work', payload, options)
          : app.dataSource.transaction((manager) => app.jobs.spawn('work', payload, { ...options, manager }));
      const { id } = await spawn(1, { idempotencyKey: 'k' });
      await written.opened;
      const strict = { idempotencyKey: 'k', strict: true };
      expect(await spawn(1, strict)).toEqual({ id, isNew: false });
      await expect(spawn(2, strict)).rejects.toMatchObject({ jobId: id });
      end.open();
      await untilDone(tables);
    });
  });

  it('with a key whose time is over makes a new job, which then has the key', () =>
    withSender(async (app) => {
      const ttl = { idempotencyKey: 'k', scope: 'ttl', idempotencyTtl: '1h' } as const;
      const first = await spawnBy(app, way, 1, ttl);
      await tables.sql('DELETE FROM nestmq.job');
      expect(await spawnBy(app, way, 1, ttl)).toEqual({ id: first.id, isNew: false });
      await tables.sql(`UPDATE nestmq.idempotency_key SET expires_at = now() - interval '1 second'`);
      const second = await spawnBy(app, way, 2, ttl);
      expect(second).toMatchObject({ isNew: true });
      await tables.sql('DELETE FROM nestmq.job');
      expect(await spawnBy(app, way, 2, { ...ttl, strict: true })).toEqual({ id: second.id, isNew: false });
      const left = `SELECT count(*) FROM nestmq.idempotency_key WHERE expires_at BETWEEN now() + interval '59 min' AND now() + interval '1 h'`;
      expect(await tables.number(left)).toBe(1);
    }));

  it('with a key whose time is over, while its job still lives, answers that job', () =>
    withSender(async (app) => {
      const ttl = { idempotencyKey: 'k', scope: 'ttl', idempotencyTtl: 1 } as const;
      const { id } = await spawnBy(app, way, 1, ttl);
      await tables.sql(`UPDATE nestmq.idempotency_key SET expires_at = now() - interval '1 second'`);
      expect(await spawnBy(app, way, 1, ttl)).toEqual({ id, isNew: false });
    }));

  it('with hold answers a reservation of the first job, and a hold that ended has freed its key', () =>
    withSender(async (app) => {
      const spawn = () =>
        way === 'by itself'
          ? app.jobs.spawn('Mailer.welcome', 1, { hold: '1h', idempotencyKey: 'k', scope: 'forever' })
          : app.dataSource.transaction((manager) =>
              app.jobs.spawn('Mailer.welcome', 1, { hold: '1h', idempotencyKey: 'k', scope: 'forever', manager }),
            );
      const first = await spawn();
      const second = await spawn();
      expect([first.isNew, second.isNew, second.id]).toEqual([true, false, first.id]);
      expect(await second.release()).toBe(true);
      expect(await keys()).toBe(0);
      const third = await spawn();
      expect(third.isNew).toBe(true);
      await third.commit();
      expect(await app.queue.get(third.id)).toMatchObject({ state: 'waiting' });
      expect((await spawn()).isNew).toBe(false);
    }));
});

describe('the key of a job that has ended', () => {
  it('of scope active is free: the same key makes a new job; lasting keys are not', async () => {
    const Worker = workWith();
    await withApp({ url: database.url, providers: [Worker] }, async (app) => {
      const { jobs: spawner } = app;
      const spawn = (scope: 'active' | 'forever') => spawner.spawn('work', scope, { idempotencyKey: scope, scope });
      const first = { active: await spawn('active'), forever: await spawn('forever') };
      await untilDone(tables);
      expect(await spawn('forever')).toEqual({ id: first.forever.id, isNew: false });
      const again = await spawn('active');
      expect(again.isNew).toBe(true);
      expect(again.id).not.toBe(first.active.id);
      await untilDone(tables);
      const payloads = app.get(Worker).runs.map(({ payload }) => payload);
      expect([payloads.length, new Set(payloads)]).toEqual([3, new Set(['active', 'forever'])]);
    });
  });

  it('is taken while it runs, and between its runs', async () => {
    const { opened, open } = gate();
    let runs = 0;
    const Worker = workWith({ backoff: '1h' }, async () => {
      runs += 1;
      await opened;
      throw new Error('once more');
    });
    await withApp({ url: database.url, providers: [Worker] }, async ({ jobs: spawner, queue, events }) => {
      const { id } = await spawner.spawn('work', 1, { idempotencyKey: 'k' });
      await until(() => runs === 1, { what: 'it runs' });
      expect(await spawner.spawn('work', 1, { idempotencyKey: 'k' })).toEqual({ id, isNew: false });
      open();
      await until(() => events.some(({ type }) => type === 'retrying'), { what: 'it waits for its next run' });
      expect(await spawner.spawn('work', 1, { idempotencyKey: 'k' })).toEqual({ id, isNew: false });
      expect(await queue.get(id)).toMatchObject({ state: 'waiting', attempts: 1 });
    });
  });

  it('is free when the job is dead, which keeps it for a person to see', async () => {
    const Worker = workWith({ retries: 0 }, () => Promise.reject(new Error('no')));
    await withApp({ url: database.url, providers: [Worker] }, async ({ jobs: spawner, events }) => {
      const { id } = await spawner.spawn('work', 1, { idempotencyKey: 'k' });
      await until(() => events.some(({ type }) => type === 'dead'), { what: 'it is dead' });
      const [dead] = await tables.sql('SELECT id, idempotency_key FROM nestmq.finished_job');
      expect(dead).toEqual({ id, idempotency_key: 'k' });
      expect(await spawner.spawn('work', 1, { idempotencyKey: 'k', delay: '1h' })).toMatchObject({ isNew: true });
    });
  });

  it('is deleted by the pruner once its time is over, and not before', async () => {
    await withApp(
      { url: database.url, providers: [workWith()], queue: { pruneEvery: 100 } },
      async ({ jobs: spawner }) => {
        await tables.sql(
          `INSERT INTO nestmq.idempotency_key (job_id, payload_hash, expires_at, channel, key)
           SELECT i, '', now() - interval '1 second', 'work', 'old ' || i FROM generate_series(1, 2500) AS i`,
        );
        await spawner.spawn('work', 1, { idempotencyKey: 'a', scope: 'ttl', idempotencyTtl: '1h' });
        await spawner.spawn('work', 1, { idempotencyKey: 'b', scope: 'forever' });
        await until(async () => (await keys()) === 2, { what: 'the old ones are gone' });
        expect(await tables.sql('SELECT key FROM nestmq.idempotency_key ORDER BY key')).toEqual([
          { key: 'a' },
          { key: 'b' },
        ]);
      },
    );
  });
});

describe('spawnMany with idempotency keys', () => {
  it.each(ways)('answers each item, in their order, %s', (way) =>
    withSender(async ({ jobs: spawner, dataSource }) => {
      const { id: known } = await spawner.spawn(Mailer, 'welcome', 0, { idempotencyKey: 'known' });
      const { id: lasting } = await spawner.spawn(Mailer, 'welcome', 0, { idempotencyKey: 'z', scope: 'forever' });
      const items = [
        { payload: 1, idempotencyKey: 'zz' },
        { payload: 2 },
        { payload: 3, idempotencyKey: 'known' },
        { payload: 4, idempotencyKey: 'a', scope: 'ttl', idempotencyTtl: '1h' },
        { payload: 5, idempotencyKey: 'zz' },
        { payload: 6 },
        { payload: 7, idempotencyKey: 'z' },
        { payload: 8, idempotencyKey: 'zz', channel: 'other' },
      ] as const;
      const spawn = (manager?: typeof dataSource.manager) => spawner.spawnMany(Mailer, 'welcome', items, { manager });
      const answers = way === 'by itself' ? await spawn() : await dataSource.transaction(spawn);
      expect(answers.map(({ isNew }) => isNew)).toEqual([true, true, false, true, false, true, false, true]);
      const ids = answers.map(({ id }) => id);
      expect([ids[2], ids[4], ids[6]]).toEqual([known, ids[0], lasting]);
      const made = answers.filter(({ isNew }) => isNew).map(({ id }) => Number(id));
      expect(made).toEqual(made.toSorted((a, b) => a - b));
      expect(await tables.sql('SELECT payload FROM nestmq.job WHERE id > $1 ORDER BY id', [lasting])).toEqual(
        [1, 2, 4, 6, 8].map((payload) => ({ payload })),
      );
      expect(await spawner.spawnMany(Mailer, 'welcome', items.slice(0, 1))).toEqual([{ id: ids[0], isNew: false }]);
    }),
  );

  it.each(ways)('is all or none: a strict conflict writes nothing of the call, %s', (way) =>
    withSender(async ({ jobs: spawner, dataSource }) => {
      await spawner.spawn(Mailer, 'welcome', 0, { idempotencyKey: 'm' });
      const items = ['a', 'm', 'z'].map((idempotencyKey) => ({ payload: 1, idempotencyKey, strict: true, scope: 'forever' as const })); // prettier-ignore
      const refused = await dataSource.transaction(async (transaction) => {
        const manager = way === 'by itself' ? undefined : transaction;
        const error: unknown = await spawner.spawnMany(Mailer, 'welcome', items, { manager }).catch((reason) => reason);
        await spawner.spawn(Mailer, 'welcome', 'still usable', { manager: transaction });
        return error;
      });
      expect(refused).toBeInstanceOf(IdempotencyConflictError);
      expect(await jobs()).toBe(2);
      expect(await keys()).toBe(0);
    }),
  );

  it('compares a strict item with one before it that is not, before any SQL', () =>
    withSender(async ({ jobs: spawner }) => {
      const [first, ...others] = [1, 1, 2].map((payload) => ({ payload, idempotencyKey: 'k', strict: true }));
      const items = [{ ...first!, strict: false }, ...others];
      const sent = recordSql();
      await expect(spawner.spawnMany(Mailer, 'welcome', items)).rejects.toMatchObject({ jobId: null });
      expect(sent).toEqual([]);
      const [made, found] = await spawner.spawnMany(Mailer, 'welcome', items.slice(0, 2));
      expect(found).toEqual({ id: made!.id, isNew: false });
    }));

  it('refuses two strict items with one key and different payloads before any SQL', () =>
    withSender(async ({ jobs: spawner }) => {
      const items = [1, 2].map((payload) => ({ payload, idempotencyKey: 'k', strict: true }));
      const sent = recordSql();
      await expect(spawner.spawnMany(Mailer, 'welcome', items)).rejects.toMatchObject({ jobId: null });
      expect(sent).toEqual([]);
    }));

  it('takes 12 000 keys in one call, ids in the order of the items, and finds them all again', () =>
    withSender(async ({ jobs: spawner, dataSource }) => {
      const items = Array.from({ length: 12_000 }, (_, n) => ({
        payload: n,
        idempotencyKey: `${(n * 7919) % 12_000}`,
      }));
      const first = await spawner.spawnMany(Mailer, 'welcome', items);
      const ids = first.map(({ id }) => Number(id));
      expect(first.every(({ isNew }) => isNew)).toBe(true);
      expect(ids).toEqual(ids.toSorted((a, b) => a - b));
      const again = await dataSource.transaction((manager) =>
        spawner.spawnMany(Mailer, 'welcome', items.toReversed(), { manager }),
      );
      expect(again).toEqual(first.toReversed().map(({ id }) => ({ id, isNew: false })));
      const payloads = await tables.number('SELECT count(*) FROM nestmq.job WHERE payload::text::int * 7919 % 12000 = idempotency_key::int'); // prettier-ignore
      expect(payloads).toBe(12_000);
    }));

  it('keeps ordered jobs in the order of the call, whatever their keys', () =>
    withSender(async ({ jobs: spawner }) => {
      const items = ['c', 'a', 'b'].map((idempotencyKey, payload) => ({ payload, idempotencyKey, ordered: true }));
      await spawner.spawnMany(Mailer, 'welcome', items);
      expect(await tables.sql('SELECT payload FROM nestmq.job ORDER BY position')).toEqual(
        [0, 1, 2].map((payload) => ({ payload })),
      );
    }));
});

describe('a spawn without a key', () => {
  it.each(ways)('sends what it always sent, and knows of no keys, %s', (way) =>
    withSender(async (app) => {
      const sent = recordSql();
      await spawnBy(app, way, 1, {});
      const inserts = sent.filter((text) => /INSERT INTO nestmq\.job/.test(text));
      expect(inserts).toHaveLength(1);
      expect(sent.filter((text) => /idempotency/.test(text))).toEqual([]);
    }),
  );

  it('has no entry in the index of keys', () =>
    withSender(async ({ jobs: spawner }) => {
      await spawner.spawnMany(
        Mailer,
        'welcome',
        Array.from({ length: 3_000 }, () => ({ payload: 1 })),
      );
      expect(await tables.number(`SELECT pg_relation_size('nestmq.job_idempotency')`)).toBe(8_192);
    }));
});
