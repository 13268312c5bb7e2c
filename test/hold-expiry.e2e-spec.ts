import { beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { JobSpawner, Reservation } from 'nestmq';
import { expireHolds, HOLDS_PER_EXPIRY } from '../libs/queue/src/statements/reservations.js';
import { run } from '../libs/queue/src/statements/statement.js';
import { POLLING_OFF, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { openSession, type Session } from './support/engine.js';
import { recordSql } from './support/sql-log.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { withApp } from './support/with-app.js';
import { gate, takeTime, workWith, type Work } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
beforeEach(() => tables.clear());

const Worker = workWith();

const withSender = <T>(work: (app: TestApp) => Promise<T>): Promise<T> =>
  withApp({ url: database.url, providers: [Worker], queue: { runner: false } }, work);

const withRunner = (work: (app: TestApp, worker: Work) => Promise<void>, queue: object = POLLING_OFF): Promise<void> =>
  withApp({ url: database.url, providers: [Worker], queue }, async (app) => {
    await until(() => app.events.some((event) => event.type === 'listening' && event.listening), {
      what: 'the runner listens',
    });
    await work(app, app.get(Worker));
  });

const reserve = (jobs: JobSpawner, payload: unknown, options: object = {}): Promise<Reservation> =>
  jobs.spawn('work', payload, { hold: '5m', ...options });

const payloadsOf = (worker: Work): unknown[] => worker.runs.map(({ payload }) => payload);
const jobsLeft = (): Promise<number> => tables.number('SELECT count(*) FROM nestmq.job');

const ran = (worker: Work, payload: unknown): Parameters<typeof until> => [
  () => payloadsOf(worker).includes(payload),
  { what: `the job ${String(payload)} has run` },
];

/** Ended holds, written past the spawner. */
const insertEnded = (count: number): Promise<unknown> =>
  tables.sql(
    `INSERT INTO nestmq.job (channel, name, held_until)
     SELECT 'work', 'work', now() - interval '1 second' FROM generate_series(1, $1::int)`,
    [count],
  );

const expire = async (session: Session): Promise<number> =>
  (await session.transaction((client) => run(client, expireHolds, {})))[0]!.removed;

const refused = (reason: string): object => expect.objectContaining({ name: 'ReservationError', reason });

describe('a held job', () => {
  it('does not run before it is committed; the commit wakes the runner of its own process, and of another', () =>
    withRunner(async ({ jobs, dataSource }, worker) => {
      await withSender(async (sender) => {
        const [own, joined, others] = await Promise.all([
          reserve(jobs, 'own'),
          reserve(jobs, 'joined'),
          reserve(sender.jobs, 'of another'),
        ]);
        await jobs.spawn('work', 'marker');
        await until(...ran(worker, 'marker'));
        expect(payloadsOf(worker)).toEqual(['marker']);
        await own.commit();
        await until(...ran(worker, 'own'));
        await dataSource.transaction((manager) => joined.commit({ manager }));
        await until(...ran(worker, 'joined'));
        expect(await sender.jobs.commit([others])).toEqual([others.id]);
        await until(...ran(worker, 'of another'));
        expect(payloadsOf(worker)).toEqual(['marker', 'own', 'joined', 'of another']);
      });
    }));

  it('runs at its own time, when it was committed before that', () =>
    withRunner(async ({ jobs, queue }, worker) => {
      const later = await reserve(jobs, 'later', { delay: 400 });
      const { dueAt } = (await queue.get(later.id))!;
      await later.commit();
      await until(...ran(worker, 'later'));
      const [clock] = await tables.sql('SELECT clock_timestamp() >= $1 AS due', [dueAt]);
      expect(clock).toEqual({ due: true });
    }));

  it('is not found by polls, surveys and a restart either', () =>
    withRunner(
      async ({ jobs }, worker) => {
        await reserve(jobs, 'held');
        await reserve(jobs, 'keyed', { key: 'k' });
        await tables.sql(`INSERT INTO nestmq.job (channel, name, payload) VALUES ('work', 'work', '"by hand"')`);
        await until(...ran(worker, 'by hand'));
        await withRunner(async (_, other) => {
          await jobs.spawn('work', 'marker', { priority: 9 });
          await until(() => [...payloadsOf(worker), ...payloadsOf(other)].includes('marker'), {
            what: 'a job behind the held ones has run',
          });
          expect(payloadsOf(other)).not.toContain('held');
        });
        expect(payloadsOf(worker)).not.toContain('held');
        expect(await jobsLeft()).toBeGreaterThanOrEqual(2);
      },
      { pollMs: 100 },
    ));

  it('keeps payload, bytes, metadata and retries of its spawn', () =>
    withRunner(async ({ jobs }, worker) => {
      const reservation = await reserve(
        jobs,
        { n: 0.1 },
        { bytes: Buffer.from('x'), metadata: { a: 1 }, key: 'k', retries: 7 },
      );
      await reservation.commit();
      await until(() => worker.runs.length === 1, { what: 'the job has run' });
      expect(worker.runs[0]).toMatchObject({
        ...{ id: reservation.id, payload: { n: 0.1 }, bytes: Buffer.from('x'), metadata: { a: 1 } },
        ...{ key: 'k', attempt: 1, maxAttempts: 8 },
      });
    }));
});

describe('a hold that ends', () => {
  it('is removed by a runner, and its job never runs', () =>
    withRunner(
      async ({ jobs, queue }, worker) => {
        const reservation = await reserve(jobs, 'expired', { hold: 20 });
        await until(async () => (await queue.get(reservation.id)) === null, { what: 'the hold is removed' });
        await expect(reservation.commit()).rejects.toEqual(refused('expired'));
        await jobs.spawn('work', 'marker');
        await until(...ran(worker, 'marker'));
        expect(payloadsOf(worker)).toEqual(['marker']);
      },
      { pollMs: 100 },
    ));

  it('while no runner is alive cannot be committed any more, and is removed by the next one', async () => {
    await withSender(async ({ jobs, queue }) => {
      const reservation = await reserve(jobs, 'expired', { hold: 1 });
      const expired = (): Promise<string> => reservation.commit().then(String, (error: Error) => error.name);
      await until(async () => (await expired()) === 'ReservationError', { what: 'the hold has ended' });
      expect((await queue.get(reservation.id))?.state).toBe('held');
    });
    await withRunner(async () => {
      await until(async () => (await jobsLeft()) === 0, { what: 'the hold is removed' });
    });
  });

  it('costs no statement before: the poll tells that there is one', () =>
    withRunner(
      async ({ jobs }) => {
        const expiries = (): number => sent.filter((text) => text.includes('ended AS MATERIALIZED')).length;
        const polls = (): number => sent.filter((text) => text.includes('WITH RECURSIVE feed')).length;
        await reserve(jobs, 'held');
        const sent = recordSql();
        await until(() => polls() > 3, { what: 'the runner has polled' });
        expect(expiries()).toBe(0);
        await insertEnded(3);
        await until(async () => (await jobsLeft()) === 1, { what: 'the ended holds are removed' });
        expect(expiries()).toBe(1);
        jest.restoreAllMocks();
      },
      { pollMs: 100 },
    ));
});

describe('expireHolds', () => {
  it('removes what has ended, and neither what is still held nor what is free', async () => {
    await insertEnded(3);
    await tables.sql(
      `INSERT INTO nestmq.job (channel, name, held_until) VALUES ('work', 'work', now() + interval '1h')`,
    );
    await tables.sql(`INSERT INTO nestmq.job (channel, name) VALUES ('work', 'work')`);
    const session = await openSession(database.url);
    expect([await expire(session), await expire(session)]).toEqual([3, 0]);
    expect(await jobsLeft()).toBe(2);
  });

  it('twice at once removes everything once, in chunks, without waiting for each other', async () => {
    await insertEnded(HOLDS_PER_EXPIRY + 7);
    const [first, second] = [await openSession(database.url), await openSession(database.url)];
    await first.pg.query('BEGIN');
    const [row] = await run(first.client, expireHolds, {});
    expect([row?.removed, await expire(second)]).toEqual([HOLDS_PER_EXPIRY, 7]);
    await first.pg.query('COMMIT');
    expect(await jobsLeft()).toBe(0);
  });

  it('writes nothing when nothing has ended', async () => {
    await tables.sql(
      `INSERT INTO nestmq.job (channel, name, held_until) VALUES ('work', 'work', now() + interval '1h')`,
    );
    const session = await openSession(database.url);
    const xid = await session.transaction(async (client) => {
      expect(await run(client, expireHolds, {})).toEqual([{ removed: 0, lanes: [] }]);
      return (await session.pg.query('SELECT pg_current_xact_id_if_assigned() AS xid')).rows[0].xid as unknown;
    });
    expect(xid).toBeNull();
  });
});

// acceptance: section 7, row 11; sqlxmq, weakness 9
describe('the end of a hold and its commit', () => {
  it('at once: the commit that came first wins, although its transaction ends later', () =>
    withSender(async ({ jobs, queue, dataSource }) => {
      const session = await openSession(database.url);
      const reservation = await reserve(jobs, 'x', { hold: 200 });
      await dataSource.transaction(async (manager) => {
        await reservation.commit({ manager });
        await insertEnded(1);
        await tables.sql('SELECT pg_sleep_until(held_until) FROM nestmq.job WHERE id = $1', [reservation.id]);
        expect(await expire(session)).toBe(1);
      });
      expect((await queue.get(reservation.id))?.state).toBe('waiting');
      expect(await expire(session)).toBe(0);
    }));

  it('at once: a commit that is rolled back leaves the job to the end of its hold', () =>
    withSender(async ({ jobs, dataSource }) => {
      const session = await openSession(database.url);
      const reservation = await reserve(jobs, 'x', { hold: 200 });
      const rolledBack = dataSource.transaction(async (manager) => {
        await reservation.commit({ manager });
        await tables.sql('SELECT pg_sleep_until(held_until) FROM nestmq.job WHERE id = $1', [reservation.id]);
        expect(await expire(session)).toBe(0);
        throw new Error('no');
      });
      await expect(rolledBack).rejects.toThrow('no');
      await expect(reservation.commit()).rejects.toEqual(refused('expired'));
      expect(await expire(session)).toBe(1);
    }));

  it('at once: the removal that came first wins, and the commit that met it is told', () =>
    withSender(async ({ jobs }) => {
      const session = await openSession(database.url);
      const reservation = await reserve(jobs, 'x', { hold: 1 });
      await session.pg.query('BEGIN');
      await until(async () => (await run(session.client, expireHolds, {}))[0]?.removed === 1, {
        what: 'the hold is removed',
      });
      const commit = reservation.commit();
      const answered = commit.catch((error: unknown) => error);
      await jobs.spawn('work', 'marker');
      await session.pg.query('COMMIT');
      expect(await answered).toEqual(refused('expired'));
    }));

  it('at once, hundreds of times: each job is committed and runs, or its commit is refused and it never runs', () =>
    withRunner(
      async ({ jobs }, worker) => {
        await withSender(async (sender) => {
          const stop = gate();
          let stopped = false;
          void stop.opened.then(() => (stopped = true));
          const expiring = [1, 2].map(async () => {
            const session = await openSession(database.url);
            let removed = 0;
            while (!stopped) removed += await expire(session);
            return removed;
          });
          const fates: { n: number; fate: string }[] = [];
          // How long before the end of its hold a commit is sent: sooner after one that lost, later after one that won.
          let leadMs = 2;
          const race = async (n: number, by: JobSpawner): Promise<void> => {
            const holdMs = Math.round(20 + 2 * leadMs);
            const reservation = await reserve(by, n, { hold: holdMs });
            await takeTime(holdMs - leadMs * (0.5 + Math.random()));
            const fate = await reservation.commit().then(
              () => 'committed',
              (error: { reason?: string; message: string }) => error.reason ?? error.message,
            );
            leadMs = fate === 'committed' ? leadMs * 0.9 : leadMs * 1.1 + 0.1;
            fates.push({ n, fate });
          };
          for (let n = 0; n < 600; n += 20) {
            await Promise.all(Array.from({ length: 20 }, (_, i) => race(n + i, i % 2 === 0 ? jobs : sender.jobs)));
          }
          await until(async () => (await jobsLeft()) === 0, { what: 'every job has run, or is removed' });
          stop.open();
          await Promise.all(expiring);
          const numbersOf = (wanted: string): number[] => fates.filter(({ fate }) => fate === wanted).map(({ n }) => n);
          const byNumber = (a: number, b: number): number => a - b;
          expect((payloadsOf(worker) as number[]).toSorted(byNumber)).toEqual(
            numbersOf('committed').toSorted(byNumber),
          );
          expect(numbersOf('committed').length + numbersOf('expired').length).toBe(600);
          // Else it was no race.
          expect(numbersOf('committed').length).toBeGreaterThan(20);
          expect(numbersOf('expired').length).toBeGreaterThan(20);
        });
      },
      { pollMs: 100 },
    ));
});
