import { beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import {
  InvalidManagerError,
  InvalidOptionsError,
  JobHandler,
  QueueClosedError,
  Reservation,
  ReservationError,
  SpawnItemError,
  TransactionAbortedError,
  TransactionConflictError,
  type Job,
  type JobSpawner,
} from 'nestmq';
import type { TestApp } from './support/app.js';
import { connect } from './support/boot.js';
import { useDatabase } from './support/database.js';
import { recordSql } from './support/sql-log.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { listenToWakeUps } from './support/wake-ups.js';
import { withApp } from './support/with-app.js';
import { gate } from './support/work.js';

@Injectable()
class Shipping {
  @JobHandler('shipping')
  send(_job: Job): void {}
}

const database = useDatabase();
const tables = useTables(database);
beforeEach(() => tables.clear());

/** An application that only sends: nobody runs anything, and nobody removes what has expired. */
const withSender = <T>(work: (app: TestApp) => Promise<T>): Promise<T> =>
  withApp({ url: database.url, providers: [Shipping], queue: { runner: false } }, work);

const reserve = (jobs: JobSpawner, options: object = {}): Promise<Reservation> =>
  jobs.spawn(Shipping, 'send', {}, { hold: '5m', ...options });

const reserveMany = (jobs: JobSpawner, count: number): Promise<Reservation[]> =>
  jobs.spawnMany(
    Shipping,
    'send',
    Array.from({ length: count }, () => ({ payload: {}, hold: '5m' as const })),
  );

const endHold = ({ id }: { id: string }): Promise<unknown> =>
  tables.sql(`UPDATE nestmq.job SET held_until = now() - interval '1 second' WHERE id = $1`, [id]);

const heldIds = async (): Promise<string[]> =>
  (await tables.sql<{ id: string }>('SELECT id FROM nestmq.job WHERE held_until IS NOT NULL ORDER BY id')).map(
    ({ id }) => id,
  );

const idsOf = (reservations: readonly { id: string }[]): string[] => reservations.map(({ id }) => id);

const refused = (reason: string): object => expect.objectContaining({ name: 'ReservationError', reason });

async function countWakeUps(work: () => Promise<unknown>): Promise<number> {
  const wakeUps = await listenToWakeUps(database.url);
  try {
    await work();
    return (await wakeUps.heard()).length;
  } finally {
    await wakeUps.close();
  }
}

// spec 5; acceptance: sqlxmq, opt-in two-phase commit
describe('spawn with hold', () => {
  it('answers a reservation of a job that is held, and neither ready nor scheduled', () =>
    withSender(async ({ jobs, queue }) => {
      const reservation = await reserve(jobs);
      expect(reservation).toBeInstanceOf(Reservation);
      expect(JSON.parse(JSON.stringify(reservation))).toEqual({ id: reservation.id, isNew: true });
      await reserve(jobs, { delay: '1h' });
      expect(await queue.get(reservation.id)).toMatchObject({ state: 'held', attempts: 0, runner: null });
      expect(await queue.stats()).toMatchObject([
        { channel: 'shipping', held: 2, ready: 0, scheduled: 0, retrying: 0, running: 0, oldestReadyMs: null },
      ]);
    }));

  it('wakes nobody', () =>
    withSender(async ({ jobs, dataSource }) => {
      const heard = await countWakeUps(async () => {
        await reserve(jobs);
        await dataSource.transaction((manager) => reserve(jobs, { manager }));
      });
      expect(heard).toBe(0);
    }));

  it('is a plain job without it, also among the items of one spawnMany', () =>
    withSender(async ({ jobs, queue }) => {
      const answers = await jobs.spawnMany(Shipping, 'send', [{ payload: 1, hold: '1m' }, { payload: 2 }]);
      expect(answers.map((answer) => answer instanceof Reservation)).toEqual([true, false]);
      const states = await Promise.all(answers.map(({ id }) => queue.get(id)));
      expect(states.map((job) => [job?.payload, job?.state])).toEqual([
        [1, 'held'],
        [2, 'waiting'],
      ]);
    }));

  it('is not run by runOne before it is committed', () =>
    withSender(async ({ jobs, queue }) => {
      const reservation = await reserve(jobs);
      expect(await queue.runOne()).toBeNull();
      await reservation.commit();
      expect(await queue.runOne()).toMatchObject({ id: reservation.id, outcome: 'completed' });
    }));

  it('holds from the insert on, by the database’s clock, up to a year', () =>
    withSender(async ({ jobs, dataSource }) => {
      await dataSource.transaction(async (manager) => {
        await manager.query('SELECT pg_sleep(0.02)');
        await reserve(jobs, { hold: '365d', manager });
      });
      const [row] = await tables.sql(
        `SELECT held_until - created_at BETWEEN interval '365 days' - interval '5 ms' AND interval '365 days' + interval '5 ms' AS whole
         FROM nestmq.job`,
      );
      expect(row).toEqual({ whole: true });
    }));

  it('of 0 has ended at once', () =>
    withSender(async ({ jobs }) => {
      const reservation = await reserve(jobs, { hold: 0 });
      await expect(reservation.commit()).rejects.toEqual(refused('expired'));
    }));

  it('never existed when the transaction that spawned it rolls back: its reservation is unknown', () =>
    withSender(async ({ jobs, dataSource }) => {
      let reservation: Reservation | undefined;
      const rolledBack = dataSource.transaction(async (manager) => {
        reservation = await reserve(jobs, { manager });
        throw new Error('no');
      });
      await expect(rolledBack).rejects.toThrow('no');
      await expect(reservation!.commit()).rejects.toEqual(refused('unknown'));
    }));

  it.each([-1, '366d', Number.NaN, Infinity, '5', null, {}])('refuses %p, before any SQL', async (hold) => {
    await withSender(async ({ jobs }) => {
      const sent = recordSql();
      await expect(reserve(jobs, { hold })).rejects.toThrow(InvalidOptionsError);
      await expect(reserve(jobs, { hold })).rejects.toThrow(/Option "hold" is .* from 0 ms to 31536000000 ms/);
      const items = [{ payload: 1 }, { payload: 2, hold: hold as number }];
      await expect(jobs.spawnMany(Shipping, 'send', items)).rejects.toThrow(SpawnItemError);
      expect(sent).toEqual([]);
      jest.restoreAllMocks();
    });
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(0);
  });
});

describe('commit', () => {
  it('makes the job wait for its turn, due at once', () =>
    withSender(async ({ jobs, queue }) => {
      const reservation = await reserve(jobs);
      const before = await tables.sql<{ now: Date }>('SELECT clock_timestamp() AS now');
      await expect(reservation.commit()).resolves.toBeUndefined();
      const job = await queue.get(reservation.id);
      expect(job?.state).toBe('waiting');
      expect(job!.dueAt.getTime()).toBeGreaterThanOrEqual(before[0]!.now.getTime());
      expect(await queue.stats()).toMatchObject([{ held: 0, ready: 1 }]);
    }));

  it('leaves a due time in the future as it is', () =>
    withSender(async ({ jobs, queue }) => {
      const reservation = await reserve(jobs, { delay: '1h' });
      const { dueAt } = (await queue.get(reservation.id))!;
      await reservation.commit();
      expect(await queue.get(reservation.id)).toMatchObject({ state: 'waiting', dueAt });
      expect(await queue.stats()).toMatchObject([{ held: 0, scheduled: 1 }]);
    }));

  it('tells runners, with the commit, once for each channel and priority', () =>
    withSender(async ({ jobs, dataSource }) => {
      const many = await jobs.spawnMany(
        Shipping,
        'send',
        [{}, {}, {}, { channel: 'b' }, { priority: 5 }].map((options) => ({
          payload: {},
          hold: '1m' as const,
          ...options,
        })),
      );
      const [last] = await reserveMany(jobs, 1);
      const wakeUps = await listenToWakeUps(database.url);
      await dataSource.transaction(async (manager) => {
        await jobs.commit(many.slice(0, 2), { manager });
        await jobs.commit(many.slice(2), { manager });
        expect(await wakeUps.heard()).toEqual([]);
      });
      const heard = await wakeUps.heard();
      expect(heard.map(([, id, priority, channel]) => [id, priority, channel])).toEqual([
        [many[0]!.id, 0, 'shipping'],
        [many[3]!.id, 0, 'b'],
        [many[4]!.id, 5, 'shipping'],
      ]);
      await last!.commit();
      await until(async () => (await wakeUps.heard()).at(-1)?.[1] === last!.id, {
        what: 'the plain commit is told of',
      });
      expect(await wakeUps.heard()).toHaveLength(4);
      await wakeUps.close();
    }));

  it('with a manager is part of that transaction: seen when it commits, undone when it rolls back', () =>
    withSender(async ({ jobs, queue, dataSource }) => {
      const [kept, undone] = await reserveMany(jobs, 2);
      await dataSource.transaction(async (manager) => {
        await kept!.commit({ manager });
        expect((await queue.get(kept!.id))?.state).toBe('held');
      });
      expect((await queue.get(kept!.id))?.state).toBe('waiting');
      const heard = await countWakeUps(async () => {
        const rolledBack = dataSource.transaction(async (manager) => {
          await undone!.commit({ manager });
          throw new Error('no');
        });
        await expect(rolledBack).rejects.toThrow('no');
      });
      expect(heard).toBe(0);
      expect((await queue.get(undone!.id))?.state).toBe('held');
      await expect(undone!.commit()).resolves.toBeUndefined();
    }));

  it('in a savepoint that rolls back leaves the job held, and wakes nobody', () =>
    withSender(async ({ jobs, dataSource }) => {
      const [undone, kept] = await reserveMany(jobs, 2);
      const commitAndThrow = (reservation: Reservation) => async (manager: typeof dataSource.manager) => {
        await reservation.commit({ manager });
        throw new Error('no');
      };
      const first = await countWakeUps(() =>
        dataSource.transaction(async (manager) => {
          await expect(manager.transaction(commitAndThrow(undone!))).rejects.toThrow('no');
        }),
      );
      expect(first).toBe(0);
      const second = await countWakeUps(() =>
        dataSource.transaction(async (manager) => {
          await expect(manager.transaction(commitAndThrow(undone!))).rejects.toThrow('no');
          await kept!.commit({ manager });
        }),
      );
      expect(second).toBe(1);
      expect(await heldIds()).toEqual([undone!.id]);
    }));

  it('works in the transaction that spawned the job', () =>
    withSender(async ({ jobs, dataSource, queue }) => {
      const { id } = await dataSource.transaction(async (manager) => {
        const reservation = await reserve(jobs, { manager });
        await reservation.commit({ manager });
        await expect(reservation.commit({ manager })).rejects.toEqual(refused('committed'));
        return reservation;
      });
      expect((await queue.get(id))?.state).toBe('waiting');
    }));

  it.each(['REPEATABLE READ', 'SERIALIZABLE'] as const)(
    'works in a transaction of %s, which another one’s commit makes a conflict',
    (level) =>
      withSender(async ({ jobs, dataSource }) => {
        const [own, others] = await reserveMany(jobs, 2);
        await dataSource.transaction(level, (manager) => own!.commit({ manager }));
        const late = dataSource.transaction(level, async (manager) => {
          await manager.query('SELECT 1 FROM nestmq.job');
          await others!.commit();
          await others!.commit({ manager });
        });
        await expect(late).rejects.toThrow(TransactionConflictError);
        expect(await heldIds()).toEqual([]);
      }),
  );

  it('under a default of SERIALIZABLE is READ COMMITTED on its own connection', async () => {
    const extra = { options: '-c default_transaction_isolation=serializable' };
    const options = { url: database.url, providers: [Shipping], queue: { runner: false }, typeorm: { extra } };
    await withApp(options, async ({ jobs }) => {
      const reservations = await reserveMany(jobs, 20);
      const committed = await Promise.all(reservations.map((one) => jobs.commit([one, ...reservations])));
      expect(committed.flat().toSorted()).toEqual(idsOf(reservations).toSorted());
    });
  });
});

describe('a reservation', () => {
  it('is committed once: the second commit is refused as committed', () =>
    withSender(async ({ jobs }) => {
      const reservation = await reserve(jobs);
      await reservation.commit();
      await expect(reservation.commit()).rejects.toThrow(`Job ${reservation.id} is committed already.`);
      await expect(reservation.keepAlive('1m')).rejects.toEqual(refused('committed'));
      await expect(reservation.release()).rejects.toEqual(refused('committed'));
      expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(1);
    }));

  it('whose hold has ended is refused as expired, whether it was removed or not, and stays as it was', () =>
    withSender(async ({ jobs }) => {
      const reservation = await reserve(jobs);
      await endHold(reservation);
      await expect(reservation.commit()).rejects.toEqual(refused('expired'));
      await expect(reservation.keepAlive('1m')).rejects.toEqual(refused('expired'));
      expect(await jobs.commit([reservation])).toEqual([]);
      expect(await heldIds()).toEqual([reservation.id]);

      const short = await reserve(jobs, { hold: 1 });
      const removed = async (): Promise<boolean> => {
        await tables.sql('DELETE FROM nestmq.job WHERE held_until < clock_timestamp()');
        return (await heldIds()).length === 0;
      };
      await until(removed, { what: 'both holds are removed' });
      await expect(short.commit()).rejects.toEqual(refused('expired'));
    }));

  it('of which nothing is left, before its hold has ended, is unknown', () =>
    withSender(async ({ jobs }) => {
      const reservation = await reserve(jobs);
      await tables.sql('DELETE FROM nestmq.job');
      await expect(reservation.commit()).rejects.toEqual(refused('unknown'));
      await expect(reservation.keepAlive('1m')).rejects.toEqual(refused('unknown'));
    }));

  it('of a job that has run, and is kept or not, is refused as committed', () =>
    withSender(async ({ jobs }) => {
      const [deleted, kept] = await reserveMany(jobs, 2);
      await jobs.commit([kept!]);
      await deleted!.commit();
      await tables.sql(
        `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, channel, key, name)
         SELECT id, 'completed', 1, priority, due_at, created_at, channel, key, name FROM nestmq.job WHERE id = $1`,
        [kept!.id],
      );
      await tables.sql('DELETE FROM nestmq.job');
      await expect(kept!.commit()).rejects.toEqual(refused('committed'));
      await expect(deleted!.commit()).rejects.toEqual(refused('committed'));
    }));

  it('is kept alive: the end of its hold moves, later or earlier, also with a transaction', () =>
    withSender(async ({ jobs, dataSource }) => {
      const reservation = await reserve(jobs, { hold: '1m' });
      const leftS = (): Promise<number> =>
        tables.number('SELECT round(extract(epoch FROM held_until - clock_timestamp()) / 60) FROM nestmq.job');
      await reservation.keepAlive('10m');
      expect(await leftS()).toBe(10);
      await reservation.keepAlive('2m');
      expect(await leftS()).toBe(2);
      await dataSource.transaction((manager) => reservation.keepAlive('30m', { manager }));
      expect(await leftS()).toBe(30);
      await expect(reservation.keepAlive('366d')).rejects.toThrow(/Option "duration" is "366d"/);
      expect(await leftS()).toBe(30);
      await reservation.keepAlive(0);
      await expect(reservation.commit()).rejects.toEqual(refused('expired'));
    }));

  it('is released: the job is gone, and what is gone already is no error', () =>
    withSender(async ({ jobs, queue, dataSource }) => {
      const [alone, joined, expired] = await reserveMany(jobs, 3);
      expect(await alone!.release()).toBe(true);
      expect(await alone!.release()).toBe(false);
      expect(await queue.get(alone!.id)).toBeNull();
      await expect(alone!.commit()).rejects.toEqual(refused('unknown'));
      await dataSource.transaction(async (manager) => {
        expect(await joined!.release({ manager })).toBe(true);
        expect((await queue.get(joined!.id))?.state).toBe('held');
      });
      expect(await queue.get(joined!.id)).toBeNull();
      await endHold(expired!);
      expect(await expired!.release()).toBe(true);
    }));

  it.each(['commit', 'release', 'keepAlive'] as const)(
    'of which another transaction decides: %s waits for it, and no spawn waits for that',
    (method) =>
      withSender(async ({ jobs, dataSource }) => {
        const use = (reservation: Reservation): Promise<unknown> =>
          method === 'keepAlive' ? reservation.keepAlive('1m') : reservation[method]();
        const [lost, had] = await reserveMany(jobs, 2);
        const [ending, locked] = [gate(), gate()];
        const others = dataSource.transaction(async (manager) => {
          await jobs.commit([lost!], { manager });
          await manager
            .transaction(async (inner) => {
              await jobs.commit([had!], { manager: inner });
              locked.open();
              await ending.opened;
              throw new Error('no');
            })
            .catch(() => undefined);
        });
        await locked.opened;
        const uses = Promise.allSettled([use(lost!), use(had!)]);
        await jobs.spawn(Shipping, 'send', {});
        ending.open();
        await others;
        expect(await uses).toEqual([
          { status: 'rejected', reason: refused('committed') },
          expect.objectContaining({ status: 'fulfilled' }),
        ]);
      }),
  );

  it('that another transaction keeps locked is given up after five seconds, as a conflict, or left out', () =>
    withSender(async ({ jobs, dataSource }) => {
      const [locked, free] = await reserveMany(jobs, 2);
      const now = performance.now.bind(performance);
      let jumpMs = 0;
      jest.spyOn(performance, 'now').mockImplementation(() => now() + jumpMs);
      await dataSource.transaction(async (manager) => {
        await locked!.commit({ manager });
        const conflict = locked!.commit();
        jumpMs += 6_000;
        await expect(conflict).rejects.toThrow(TransactionConflictError);
        const some = jobs.commit([locked!, free!]);
        jumpMs += 6_000;
        expect(await some).toEqual([free!.id]);
      });
      jest.restoreAllMocks();
    }));

  it.each([
    ['a manager in the place of the options', (app: TestApp) => app.dataSource.manager],
    ['an unknown option', () => ({ manger: 1 })],
    ['no object', () => 'now'],
    ['null', () => null],
  ])('refuses %s, before any SQL', (_, options) =>
    withSender(async (app) => {
      const reservation = await reserve(app.jobs);
      const given = options(app) as never;
      const sent = recordSql();
      await expect(reservation.commit(given)).rejects.toThrow(InvalidOptionsError);
      await expect(reservation.keepAlive('1m', given)).rejects.toThrow(InvalidOptionsError);
      await expect(reservation.release(given)).rejects.toThrow(InvalidOptionsError);
      await expect(app.jobs.commit([reservation], given)).rejects.toThrow(InvalidOptionsError);
      expect(sent).toEqual([]);
      jest.restoreAllMocks();
      expect(await heldIds()).toEqual([reservation.id]);
    }),
  );

  it('refuses the manager of another DataSource, and one without a transaction', () =>
    withSender(async ({ jobs, dataSource }) => {
      const reservation = await reserve(jobs);
      const other = await connect(database.url);
      await expect(reservation.commit({ manager: dataSource.manager })).rejects.toThrow(InvalidManagerError);
      await other.transaction(async (manager) => {
        await expect(reservation.commit({ manager })).rejects.toThrow(InvalidManagerError);
        await expect(jobs.commit([reservation], { manager })).rejects.toThrow(InvalidManagerError);
      });
      expect(await heldIds()).toEqual([reservation.id]);
    }));

  it('committed in a transaction whose error was swallowed does not vanish silently', () =>
    withSender(async ({ jobs, dataSource }) => {
      const reservation = await reserve(jobs);
      const swallowed = dataSource.transaction(async (manager) => {
        await reservation.commit({ manager });
        await manager.query('SELECT 1 / 0').catch(() => undefined);
      });
      await expect(swallowed).rejects.toThrow(TransactionAbortedError);
      expect(await heldIds()).toEqual([reservation.id]);
    }));

  it('is refused after the application was closed', async () => {
    const { reservation, jobs } = await withSender(async (app) => ({
      reservation: await reserve(app.jobs),
      jobs: app.jobs,
    }));
    await expect(reservation.commit()).rejects.toThrow(QueueClosedError);
    await expect(jobs.commit([reservation])).rejects.toThrow(QueueClosedError);
  });
});

describe('jobs.commit', () => {
  it('answers exactly the ids that it has committed, in the order given, each once', () =>
    withSender(async ({ jobs }) => {
      const [a, b, c, released, expired, before] = await reserveMany(jobs, 6);
      const plain = await jobs.spawn(Shipping, 'send', {});
      await released!.release();
      await endHold(expired!);
      await before!.commit();
      const given = [c!, released!, a!.id, expired!, before!, a!, '123456789', plain.id, b!];
      expect(await jobs.commit(given)).toEqual([c!.id, a!.id, b!.id]);
      expect(await jobs.commit(given)).toEqual([]);
      expect(await heldIds()).toEqual([expired!.id]);
    }));

  it('takes ids from another process', async () => {
    const id = await withSender(async ({ jobs }) => (await reserve(jobs)).id);
    await withSender(async ({ jobs, queue }) => {
      expect(await jobs.commit([id])).toEqual([id]);
      expect((await queue.get(id))?.state).toBe('waiting');
    });
  });

  it('takes thousands at once, alone and in a transaction', () =>
    withSender(async ({ jobs, dataSource }) => {
      const reservations = await reserveMany(jobs, 6_000);
      const [first, second] = [reservations.slice(0, 3_000), reservations.slice(3_000)];
      expect(await jobs.commit(first)).toEqual(idsOf(first));
      const joined = await dataSource.transaction((manager) => jobs.commit(second, { manager }));
      expect(joined).toEqual(idsOf(second));
      expect(await heldIds()).toEqual([]);
    }));

  it('answers [] for [], and sends no SQL', () =>
    withSender(async ({ jobs }) => {
      const sent = recordSql();
      expect(await jobs.commit([])).toEqual([]);
      expect(sent).toEqual([]);
      jest.restoreAllMocks();
    }));

  it('from many callers at once commits each job for one of them', () =>
    withSender(async ({ jobs, dataSource }) => {
      const reservations = await reserveMany(jobs, 40);
      const calls = Array.from({ length: 8 }, (_, caller) => {
        const given = caller % 2 === 0 ? reservations : reservations.toReversed();
        return caller < 4 ? jobs.commit(given) : dataSource.transaction((manager) => jobs.commit(given, { manager }));
      });
      const committed = await Promise.all(calls);
      expect(committed.flat().toSorted()).toEqual(idsOf(reservations).toSorted());
    }));

  it.each<[string, unknown]>([
    ['no array', '5'],
    ['nothing', undefined],
    ['a number', [5]],
    ['text that is no id', ['5x']],
    ['null', [null]],
    ['what a plain spawn has answered', [{ id: '5', isNew: true }]],
  ])('refuses %s, before any SQL', (_, given) =>
    withSender(async ({ jobs }) => {
      const [reservation] = await reserveMany(jobs, 1);
      const sent = recordSql();
      const all = Array.isArray(given) ? [reservation, ...(given as unknown[])] : given;
      await expect(jobs.commit(all as never)).rejects.toThrow(InvalidOptionsError);
      expect(sent).toEqual([]);
      jest.restoreAllMocks();
      expect(await heldIds()).toEqual([reservation!.id]);
    }),
  );

  it('refuses a reservation of another queue, and commits nothing', () =>
    withSender(async ({ jobs }) => {
      const own = await reserve(jobs);
      await withSender(async (other) => {
        const foreign = await reserve(other.jobs);
        const refusal = jobs.commit([own, foreign]);
        await expect(refusal).rejects.toThrow(ReservationError);
        await expect(refusal).rejects.toMatchObject({
          code: 'reservation_invalid',
          reason: 'foreign',
          jobId: foreign.id,
        });
        expect(await heldIds()).toEqual([own.id, foreign.id]);
      });
    }));
});
