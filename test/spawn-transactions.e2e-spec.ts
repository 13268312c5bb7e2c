import { beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { JobHandler, TransactionAbortedError, type Job } from 'nestmq';
import type { EntityManager } from 'typeorm';
import type { TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { withApp } from './support/with-app.js';

@Injectable()
class Mailer {
  @JobHandler('mail')
  welcome(_job: Job): void {}
}

const database = useDatabase();
const tables = useTables(database);
const count = (): Promise<number> => tables.number('SELECT count(*) FROM nestmq.job');

/** One connection in the pool: what a test leaves behind on it the next statement meets. */
const withSender = (work: (app: TestApp) => Promise<void>, poolSize = 1): Promise<void> =>
  withApp({ url: database.url, providers: [Mailer], queue: { runner: false }, typeorm: { poolSize } }, work);

const swallow = (manager: EntityManager): Promise<unknown> => manager.query('SELECT 1 / 0').catch(() => undefined);

beforeEach(() => tables.sql('DELETE FROM nestmq.job'));

describe('a spawn in an aborted transaction', () => {
  it('rejects with TransactionAbortedError, whose cause is the server’s own error', () =>
    withSender(async ({ jobs, dataSource }) => {
      let spawned: unknown;
      const transaction = dataSource.transaction(async (manager) => {
        await swallow(manager);
        spawned = await jobs.spawn(Mailer, 'welcome', 1, { manager }).catch((error: unknown) => error);
        throw new Error('rolled back');
      });
      await expect(transaction).rejects.toThrow('rolled back');
      expect(spawned).toBeInstanceOf(TransactionAbortedError);
      expect(spawned).toMatchObject({
        code: 'transaction_aborted',
        cause: { code: '25P02' },
        message: expect.stringContaining('an earlier statement of this transaction failed'),
      });
      expect(await count()).toBe(0);
    }));

  it('is let through by dataSource.transaction, which rolls back', () =>
    withSender(async ({ jobs, dataSource }) => {
      const transaction = dataSource.transaction(async (manager) => {
        await swallow(manager);
        await jobs.spawn(Mailer, 'welcome', 1, { manager });
      });
      await expect(transaction).rejects.toThrow(TransactionAbortedError);
      expect(await dataSource.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
    }));
});

describe('an SQL error swallowed after a spawn', () => {
  it('makes dataSource.transaction reject at its commit instead of losing the job without a word', () =>
    withSender(async ({ jobs, dataSource }) => {
      const transaction = dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 1, { manager });
        await swallow(manager);
      });
      await expect(transaction).rejects.toThrow(TransactionAbortedError);
      await expect(transaction).rejects.toThrow('The transaction was not committed');
      expect(await count()).toBe(0);
      expect(await dataSource.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
    }));

  it('makes commitTransaction of a query runner reject', () =>
    withSender(async ({ jobs, dataSource }) => {
      const runner = dataSource.createQueryRunner();
      await runner.startTransaction();
      await jobs.spawn(Mailer, 'welcome', 1, { manager: runner.manager });
      await swallow(runner.manager);
      await expect(runner.commitTransaction()).rejects.toThrow(TransactionAbortedError);
      await runner.rollbackTransaction();
      await runner.release();
      expect(await count()).toBe(0);
    }));

  it('makes it reject after spawnMany too, and when the swallowed error is the spawn’s own', () =>
    withSender(async ({ jobs, dataSource }) => {
      await tables.sql(`ALTER TABLE nestmq.job ADD CONSTRAINT poison CHECK (channel <> 'poison')`);
      const many = dataSource.transaction(async (manager) => {
        await jobs.spawnMany(Mailer, 'welcome', [{ payload: 1 }, { payload: 2 }], { manager });
        await swallow(manager);
      });
      await expect(many).rejects.toThrow(TransactionAbortedError);
      const own = dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 1, { manager, channel: 'poison' }).catch(() => undefined);
      });
      await expect(own).rejects.toThrow(TransactionAbortedError);
      await tables.sql('ALTER TABLE nestmq.job DROP CONSTRAINT poison');
      expect(await count()).toBe(0);
    }));

  it('loses nothing when it happened in a savepoint that was rolled back', () =>
    withSender(async ({ jobs, dataSource }) => {
      await dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 'kept', { manager });
        await manager.transaction((inner) => inner.query('SELECT 1 / 0')).catch(() => undefined);
      });
      expect(await count()).toBe(1);
    }));

  it('does not follow the connection into its next transaction', () =>
    withSender(async ({ jobs, dataSource }) => {
      const failed = dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 1, { manager });
        await swallow(manager);
      });
      await expect(failed).rejects.toThrow(TransactionAbortedError);
      await dataSource.transaction((manager) => jobs.spawn(Mailer, 'welcome', 2, { manager }));
      expect(await count()).toBe(1);
    }));

  it('is nobody’s business where no job was spawned: TypeORM commits as it always did', () =>
    withSender(async ({ dataSource }) => {
      await expect(dataSource.transaction((manager) => swallow(manager))).resolves.toBeUndefined();
    }));

  it('is nobody’s business after the application was closed, and the DataSource outlived it', () =>
    withSender(async ({ dataSource }) => {
      expect(dataSource.subscribers).toHaveLength(1);
      await withApp({ url: database.url, queue: { runner: false } }, async (other) => {
        expect(other.dataSource.subscribers).toHaveLength(1);
        await other.close();
        expect(other.dataSource.subscribers).toHaveLength(0);
      });
    }));
});

describe('a savepoint', () => {
  it('takes its jobs along when it is rolled back, and those before and behind it stay', () =>
    withSender(async ({ jobs, dataSource }) => {
      await dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 'before', { manager });
        const inner = manager.transaction(async (nested) => {
          await jobs.spawn(Mailer, 'welcome', 'inside', { manager: nested });
          throw new Error('only the inner part');
        });
        await expect(inner).rejects.toThrow('only the inner part');
        await jobs.spawn(Mailer, 'welcome', 'behind', { manager });
      });
      expect(await tables.sql('SELECT payload FROM nestmq.job ORDER BY id')).toEqual([
        { payload: 'before' },
        { payload: 'behind' },
      ]);
    }));
});

describe('isolation', () => {
  it.each(['READ UNCOMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'] as const)(
    'of the caller’s transaction may be %s',
    (level) =>
      withSender(async ({ jobs, dataSource }) => {
        await dataSource.transaction(level, async (manager) => {
          await jobs.spawn(Mailer, 'welcome', 1, { manager });
          await jobs.spawnMany(Mailer, 'welcome', [{ payload: 2 }, { payload: 3, key: 'k' }], { manager });
        });
        expect(await count()).toBe(3);
      }),
  );

  it.each(['repeatable read', 'serializable'])('may be %s by the administrator’s default', async (level) => {
    const name = new URL(database.url).pathname.slice(1);
    await tables.sql(`ALTER DATABASE ${name} SET default_transaction_isolation = '${level}'`);
    await withSender(async ({ jobs, dataSource }) => {
      const calls = Array.from({ length: 20 }, (_, n) => jobs.spawn(Mailer, 'welcome', n));
      await Promise.all(calls);
      await dataSource.transaction((manager) => jobs.spawn(Mailer, 'welcome', 20, { manager }));
    });
    await tables.sql(`ALTER DATABASE ${name} RESET default_transaction_isolation`);
    expect(await count()).toBe(21);
  });

  it('lets serializable transactions that spawn into one channel and key commit side by side', () =>
    withSender(async ({ jobs, dataSource }) => {
      await dataSource.transaction('SERIALIZABLE', async (first) => {
        await jobs.spawn(Mailer, 'welcome', 1, { manager: first, key: 'k' });
        await dataSource.transaction('SERIALIZABLE', async (second) => {
          await jobs.spawn(Mailer, 'welcome', 2, { manager: second, key: 'k' });
        });
      });
      expect(await count()).toBe(2);
    }, 2));
});

describe('concurrent spawners', () => {
  it('never wait for each other: two open transactions and a plain spawn, all of one channel and key', () =>
    withSender(async ({ jobs, dataSource }) => {
      const options = { key: 'k', priority: 1 };
      await dataSource.transaction(async (first) => {
        await jobs.spawn(Mailer, 'welcome', 1, { ...options, manager: first });
        await dataSource.transaction(async (second) => {
          await jobs.spawn(Mailer, 'welcome', 2, { ...options, manager: second });
          await jobs.spawn(Mailer, 'welcome', 3, options);
          await jobs.spawn(Mailer, 'welcome', 4, { ...options, manager: first });
          expect(
            await tables.number(
              `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
            ),
          ).toBe(0);
        });
        // The second has committed while the first is still open.
        expect(await count()).toBe(2);
      });
      expect(await count()).toBe(4);
    }, 2));

  it('take no lock but those of writing rows of their own', () =>
    withSender(async ({ jobs, dataSource }) => {
      await dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 1, { manager });
        const locks = await manager.query<{ relation: string; mode: string }[]>(
          `SELECT DISTINCT relation::regclass::text AS relation, mode FROM pg_locks
           WHERE pid = pg_backend_pid() AND locktype IN ('relation', 'advisory', 'tuple')
             AND mode NOT IN ('AccessShareLock')`,
        );
        expect(locks.filter(({ relation }) => !relation?.startsWith('nestmq.job'))).toEqual([]);
        expect(new Set(locks.map(({ mode }) => mode))).toEqual(new Set(['RowExclusiveLock']));
      });
    }));
});

describe('the search path of the caller’s transaction', () => {
  it('is of no account: the application’s is not ours', () =>
    withSender(async ({ jobs, dataSource }) => {
      await dataSource.transaction(async (manager) => {
        await manager.query('CREATE TEMP TABLE job (id int) ON COMMIT DROP');
        await manager.query('SET LOCAL search_path = pg_catalog');
        await jobs.spawn(Mailer, 'welcome', 1, { manager });
      });
      expect(await count()).toBe(1);
    }));
});
