import { beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { JobHandler, TransactionConflictError, type Job, type SpawnOptions, type SpawnResult } from 'nestmq';
import type { EntityManager } from 'typeorm';
import type { TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { withApp } from './support/with-app.js';
import { gate } from './support/work.js';

@Injectable()
class Mailer {
  @JobHandler('mail')
  welcome(_job: Job): void {}
}

const PARALLEL = 50;
const LEVELS = ['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'] as const;
const FOREVER = { idempotencyKey: 'k', scope: 'forever' } as const;
const ACTIVE = { idempotencyKey: 'k' } as const;

const database = useDatabase();
const tables = useTables(database);
const count = (): Promise<number> => tables.number('SELECT count(*) FROM nestmq.job');

const withSender = (work: (app: TestApp) => Promise<void>, queue: object = {}): Promise<void> =>
  withApp(
    { url: database.url, providers: [Mailer], queue: { runner: false, ...queue }, typeorm: { poolSize: PARALLEL } },
    work,
  );

/** A transaction that has spawned and stays open until told how to end. */
async function openSpawn({ jobs, dataSource }: TestApp, options: SpawnOptions) {
  const end = gate();
  const spawned = gate();
  let fails = false;
  let answer!: SpawnResult;
  const ended = dataSource.transaction(async (manager) => {
    answer = await jobs.spawn('Mailer.welcome', 1, { ...options, manager });
    spawned.open();
    await end.opened;
    if (fails) throw new Error('told to roll back');
  });
  await Promise.race([spawned.opened, ended]);
  return {
    answer,
    commit: async () => (end.open(), ended),
    rollback: async () => ((fails = true), end.open(), ended.catch(() => undefined)),
  };
}

/** Somebody waits for another transaction's end. */
const someoneWaits = (): Promise<unknown> =>
  until(
    async () =>
      (await tables.number(
        `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%nestmq.job%'`,
      )) > 0,
    { what: 'a spawn waits for the other transaction' },
  );

/** Runs the whole transaction again when another one was in the way, as the error says. */
async function again<T>(work: () => Promise<T>): Promise<T> {
  for (let tries = 0; ; tries++) {
    try {
      return await work();
    } catch (error) {
      const isConflict = error instanceof TransactionConflictError || (error as { code?: string }).code === '40001';
      if (!isConflict || tries === PARALLEL) throw error;
    }
  }
}

beforeEach(() => tables.clear());

// acceptance: section 7, row 13
describe.each(LEVELS)('50 parallel transactions under %s, of which some roll back', (level) => {
  it.each([
    ['active', ACTIVE],
    ['ttl', { idempotencyKey: 'k', scope: 'ttl', idempotencyTtl: '1h' }],
    ['forever', FOREVER],
  ] as const)('make exactly one job of a key of scope %s', (_, options) =>
    withSender(async ({ jobs, dataSource }) => {
      const inTurn = (index: number) => index % 3 === 0;
      const outcomes = await Promise.all(
        Array.from({ length: PARALLEL }, async (_unused, index) => {
          const transact = (manager: EntityManager) => jobs.spawn('Mailer.welcome', 1, { ...options, manager });
          if (!inTurn(index)) return again(() => dataSource.transaction(level, transact));
          const rolledBack = dataSource.transaction(level, async (manager) => {
            await transact(manager);
            throw new Error('told to roll back');
          });
          await expect(rolledBack).rejects.toThrow(/told to roll back|another transaction/i);
          return null;
        }),
      );
      const answers = outcomes.filter((answer) => answer !== null);
      expect(answers).toHaveLength(33);
      expect(answers.filter(({ isNew }) => isNew)).toHaveLength(1);
      expect(new Set(answers.map(({ id }) => id)).size).toBe(1);
      expect(await tables.sql('SELECT id FROM nestmq.job')).toEqual([{ id: answers[0]!.id }]);
      expect(await tables.number('SELECT count(*) FROM nestmq.idempotency_key')).toBe(options === ACTIVE ? 0 : 1);
    }),
  );
});

describe('50 parallel spawns without a transaction', () => {
  it('make exactly one job', () =>
    withSender(async ({ jobs }) => {
      const answers = await Promise.all(
        Array.from({ length: PARALLEL }, () => jobs.spawn(Mailer, 'welcome', 1, ACTIVE)),
      );
      expect(answers.filter(({ isNew }) => isNew)).toHaveLength(1);
      expect(new Set(answers.map(({ id }) => id)).size).toBe(1);
      expect(await count()).toBe(1);
    }));

  it('of two applications make exactly one job of each of many keys', () =>
    withSender((one) =>
      withSender(async (other) => {
        const keys = Array.from({ length: 200 }, (_, index) => `key ${index}`);
        const spawnAll = ({ jobs }: TestApp, order: readonly string[]) =>
          Promise.all(
            order.map(async (idempotencyKey) => [
              idempotencyKey,
              await jobs.spawn(Mailer, 'welcome', 1, { idempotencyKey, scope: 'forever' }),
            ]),
          );
        const answers = [...(await Promise.all([spawnAll(one, keys), spawnAll(other, keys.toReversed())])).flat()] as [
          string,
          SpawnResult,
        ][];
        for (const key of keys) {
          const ofKey = answers.filter(([name]) => name === key).map(([, answer]) => answer);
          expect(ofKey.filter(({ isNew }) => isNew)).toHaveLength(1);
          expect(ofKey).toHaveLength(2);
          expect(ofKey[0]!.id).toBe(ofKey[1]!.id);
        }
        expect(await count()).toBe(keys.length);
      }),
    ));
});

describe('the second spawner of a key', () => {
  const ways = [
    ['in a transaction', ({ jobs, dataSource }: TestApp, options: SpawnOptions) => dataSource.transaction((manager) => jobs.spawn('Mailer.welcome', 1, { ...options, manager }))], // prettier-ignore
    ['by itself', ({ jobs }: TestApp, options: SpawnOptions) => jobs.spawn('Mailer.welcome', 1, options)],
  ] as const;

  describe.each(ways)('%s', (_, spawn) => {
    it.each([ACTIVE, FOREVER])('waits for the first one’s transaction, and answers its job: %j', (options) =>
      withSender(async (app) => {
        const first = await openSpawn(app, options);
        const second = spawn(app, options);
        await someoneWaits();
        await first.commit();
        expect(await second).toEqual({ id: first.answer.id, isNew: false });
        expect(await count()).toBe(1);
      }),
    );

    it.each([ACTIVE, FOREVER])('is the first one when that rolls back: %j', (options) =>
      withSender(async (app) => {
        const first = await openSpawn(app, options);
        const second = spawn(app, options);
        await someoneWaits();
        await first.rollback();
        const answer = await second;
        expect(answer).toMatchObject({ isNew: true });
        expect(await tables.sql('SELECT id FROM nestmq.job')).toEqual([{ id: answer.id }]);
      }),
    );

    it('with strict is told when the first one, which it had waited for, has another payload', () =>
      withSender(async (app) => {
        const first = await openSpawn(app, { ...ACTIVE, bytes: Buffer.from('other') });
        const second = spawn(app, { ...ACTIVE, strict: true });
        await someoneWaits();
        await first.commit();
        await expect(second).rejects.toMatchObject({ code: 'idempotency_conflict', jobId: first.answer.id });
        expect(await count()).toBe(1);
      }));

    it('of a lasting key answers a job that has ended while it waited', () =>
      withSender(async (app) => {
        const done = gate();
        let id!: string;
        const first = app.dataSource.transaction(async (manager) => {
          ({ id } = await app.jobs.spawn('Mailer.welcome', 1, { ...FOREVER, manager }));
          await manager.query('DELETE FROM nestmq.job'); // as a runner would, right after the commit
          await done.opened;
        });
        await until(() => id, { what: 'the first has spawned' });
        const second = spawn(app, FOREVER);
        await someoneWaits();
        done.open();
        await first;
        expect(await second).toEqual({ id, isNew: false });
        expect(await count()).toBe(0);
        expect(await tables.sql('SELECT job_id FROM nestmq.idempotency_key')).toEqual([{ job_id: id }]);
      }));

    it('is refused with a retryable error when it waits longer than idempotencyWaitMs', () =>
      withSender(
        async (app) => {
          const first = await openSpawn(app, ACTIVE);
          await expect(spawn(app, ACTIVE)).rejects.toMatchObject({ code: 'transaction_conflict' });
          await expect(spawn(app, ACTIVE)).rejects.toThrow(TransactionConflictError);
          // Others are not held up.
          expect(await spawn(app, { idempotencyKey: 'another' })).toMatchObject({ isNew: true });
          expect(await spawn(app, {})).toMatchObject({ isNew: true });
          await first.commit();
          expect(await spawn(app, ACTIVE)).toEqual({ id: first.answer.id, isNew: false });
        },
        { idempotencyWaitMs: 300 },
      ));
  });

  it('in a transaction waits for one that is completing the key’s job, and makes a new one', () =>
    withSender(async ({ jobs, dataSource }) => {
      const { id } = await jobs.spawn(Mailer, 'welcome', 1, ACTIVE);
      const done = gate();
      const deleted = gate();
      const completing = dataSource.transaction(async (manager) => {
        await manager.query('DELETE FROM nestmq.job');
        deleted.open();
        await done.opened;
      });
      await deleted.opened;
      const second = dataSource.transaction((manager) => jobs.spawn(Mailer, 'welcome', 2, { ...ACTIVE, manager }));
      await someoneWaits();
      done.open();
      await completing;
      expect(await second).toMatchObject({ isNew: true });
      expect((await second).id).not.toBe(id);
    }));

  it('gives a transaction its own lock_timeout back, and obeys a shorter one', () =>
    withSender(async (app) => {
      const first = await openSpawn(app, ACTIVE);
      await app.dataSource.transaction(async (manager) => {
        await manager.query(`SET LOCAL lock_timeout = '90s'`);
        await app.jobs.spawn(Mailer, 'welcome', 1, { idempotencyKey: 'other', manager });
        expect(await manager.query('SHOW lock_timeout')).toEqual([{ lock_timeout: '90s' }]);
      });
      const impatient = app.dataSource.transaction(async (manager) => {
        await manager.query(`SET LOCAL lock_timeout = '50ms'`);
        await app.jobs.spawn(Mailer, 'welcome', 1, { ...ACTIVE, manager });
      });
      await expect(impatient).rejects.toMatchObject({ code: 'transaction_conflict', cause: { code: '55P03' } });
      await first.commit();
    }));
});

describe('transactions that take several keys', () => {
  it('in opposite orders, call by call, end in a retryable error for one of them', () =>
    withSender(async ({ jobs, dataSource }) => {
      const both = [gate(), gate()];
      const take = (order: readonly string[], mine: number) =>
        dataSource.transaction(async (manager) => {
          for (const [step, idempotencyKey] of order.entries()) {
            await jobs.spawn(Mailer, 'welcome', 1, { idempotencyKey, manager });
            if (step === 0) {
              both[mine]!.open();
              await both[1 - mine]!.opened;
            }
          }
        });
      const ended = await Promise.allSettled([take(['a', 'b'], 0), take(['b', 'a'], 1)]);
      const refused = ended.filter(({ status }) => status === 'rejected');
      expect(refused).toHaveLength(1);
      expect(refused[0]).toMatchObject({ reason: { code: 'transaction_conflict', cause: { code: '40P01' } } });
      expect(await tables.sql('SELECT idempotency_key FROM nestmq.job ORDER BY 1')).toEqual([
        { idempotency_key: 'a' },
        { idempotency_key: 'b' },
      ]);
    }));

  it('in one call each, in whatever order, never get in each other’s way: keys are taken in sorted order', () =>
    withSender(async ({ jobs, dataSource }) => {
      const keys = Array.from({ length: 300 }, (_, index) => `${(index * 7919) % 300}`);
      const items = keys.map((idempotencyKey) => ({ payload: 1, idempotencyKey }));
      const answers = await Promise.all(
        Array.from({ length: 10 }, (_, index) =>
          dataSource.transaction((manager) =>
            jobs.spawnMany(Mailer, 'welcome', index % 2 === 0 ? items : items.toReversed(), { manager }),
          ),
        ),
      );
      expect(answers.flat().filter(({ isNew }) => isNew)).toHaveLength(300);
      expect(await count()).toBe(300);
    }));
});

describe('a transaction whose snapshot is older than the key', () => {
  it.each(['REPEATABLE READ', 'SERIALIZABLE'] as const)(
    'of %s is refused with a retryable error, and finds the job when it is run again',
    (level) =>
      withSender(async ({ jobs, dataSource }) => {
        let first: SpawnResult | undefined;
        const transact = () =>
          dataSource.transaction(level, async (manager) => {
            await manager.query('SELECT count(*) FROM nestmq.job');
            first ??= await jobs.spawn(Mailer, 'welcome', 1, ACTIVE);
            return jobs.spawn(Mailer, 'welcome', 1, { ...ACTIVE, manager });
          });
        await expect(transact()).rejects.toMatchObject({ code: 'transaction_conflict', cause: { code: '40001' } });
        expect(await transact()).toEqual({ id: first!.id, isNew: false });
      }),
  );
});

describe('a rollback', () => {
  it('takes the key with the job, of a savepoint too', () =>
    withSender(async ({ jobs, dataSource }) => {
      const transaction = dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 1, { ...FOREVER, manager });
        throw new Error('rolled back');
      });
      await expect(transaction).rejects.toThrow('rolled back');
      const answer = await dataSource.transaction(async (manager) => {
        await manager
          .transaction(async (inner) => {
            await jobs.spawn(Mailer, 'welcome', 1, { ...FOREVER, manager: inner });
            throw new Error('rolled back to the savepoint');
          })
          .catch(() => undefined);
        return jobs.spawn(Mailer, 'welcome', 2, { ...FOREVER, manager });
      });
      expect(answer.isNew).toBe(true);
      expect(await tables.sql('SELECT payload FROM nestmq.job')).toEqual([{ payload: 2 }]);
      expect(await tables.number('SELECT count(*) FROM nestmq.idempotency_key')).toBe(1);
    }));
});
