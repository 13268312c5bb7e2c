import { describe, expect, it } from '@jest/globals';
import type { HandlerOptions, Job } from 'nestmq';
import type { TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { has, ofJobs, transactional } from './support/transactional.js';
import { until } from './support/until.js';
import { untilAborted } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const { boot, write, effects } = transactional(database, tables);

const LEVELS = ['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'] as const;
/** Their transactions see the tables as they were at their first statement. */
const SNAPSHOTS = ['REPEATABLE READ', 'SERIALIZABLE'] as const;

type Cancel = (app: TestApp, job: Job) => Promise<unknown>;

/** As the handler's process hears of it, and as it does before the news has come. */
const CANCELS: readonly (readonly [string, Cancel])[] = [
  ['that its process has heard of', (app, job) => app.queue.cancel(job.id, { reason: 'not wanted' })],
  [
    'that its process has not heard of',
    (_, job) =>
      tables.sql(`UPDATE nestmq.job SET cancel_requested_at = now(), cancel_reason = 'not wanted' WHERE id = $1`, [
        job.id,
      ]),
  ],
];

const withEach = <T>(values: readonly T[]): [T, string, Cancel][] =>
  values.flatMap((value) => CANCELS.map(([what, cancel]): [T, string, Cancel] => [value, what, cancel]));

/** Runs one job to its end; answers its events. */
async function runOne(app: TestApp): Promise<{ id: string; events: string[] }> {
  const { id } = await app.jobs.spawn('work');
  await until(() => ofJobs(app).some((type) => type !== 'started'), { what: 'it has ended' });
  await untilDone(tables);
  return { id, events: ofJobs(app) };
}

/** Booted, run and closed once with a job that keeps nothing, and once with one that keeps its result. */
async function keptOrNot(
  behaviour: (job: Job) => Promise<unknown>,
  options: HandlerOptions,
  check: (app: TestApp, ended: { id: string; events: string[] }) => Promise<void>,
): Promise<void> {
  for (const retention of [0, '1h'] as const) {
    const app = await boot(behaviour, { ...options, retention });
    await check(app, await runOne(app));
    await app.close();
  }
}

describe('a transactional run that succeeds in spite of a cancel', () => {
  it.each(withEach(LEVELS))('is completed at %s when it began behind a cancel %s', async (isolation, _, cancel) => {
    const behaviour = async (job: Job): Promise<void> => {
      await cancel(boot.app, job);
      await write(job);
    };
    await keptOrNot(behaviour, { isolation }, async (_app, { id, events }) => {
      expect(events).toEqual(['started', 'completed']);
      expect(await effects()).toContainEqual({ job_id: id, note: 'written' });
    });
  });

  it.each(CANCELS)('is completed at READ COMMITTED: it wins over a cancel %s', async (_, cancel) => {
    const behaviour = async (job: Job): Promise<void> => {
      await write(job);
      await cancel(boot.app, job);
    };
    await keptOrNot(behaviour, {}, async (_app, { id, events }) => {
      expect(events).toEqual(['started', 'completed']);
      expect(await effects()).toContainEqual({ job_id: id, note: 'written' });
    });
  });

  it.each(withEach(SNAPSHOTS))(
    'ends cancelled at %s, since it cannot commit behind a cancel %s: nothing of it stays, and it is no failed run',
    async (isolation, _, cancel) => {
      const failures: unknown[] = [];
      const behaviour = async (job: Job): Promise<void> => {
        await write(job);
        await cancel(boot.app, job);
      };
      // Without a retry left it would be dead, were it a failure.
      for (const retries of [3, 0]) {
        const onError = (error: unknown): void => void failures.push(error);
        await keptOrNot(behaviour, { isolation, retries, onError }, async (app, { id, events }) => {
          expect(events).toEqual(['started', 'cancelled']);
          expect(await effects()).toEqual([]);
          expect(await app.queue.get(id)).toMatchObject({ state: 'cancelled', reason: 'not wanted', attempts: 1 });
        });
      }
      expect(failures).toEqual([]);
    },
  );
});

describe('a transactional run that ends on its signal', () => {
  it.each(LEVELS)('is rolled back and cancelled at %s', async (isolation) => {
    const behaviour = async (job: Job): Promise<void> => {
      await write(job);
      await boot.app.queue.cancel(job.id);
      await untilAborted(job);
    };
    await keptOrNot(behaviour, { isolation }, async (_app, { events }) => {
      expect(events).toEqual(['started', 'cancelled']);
      expect(await effects()).toEqual([]);
    });
  });
});

describe('job.complete({ manager }) behind a cancel', () => {
  it.each(withEach(SNAPSHOTS))('is refused at %s, and the job ends cancelled: %s', async (isolation, _, cancel) => {
    const refusals: unknown[] = [];
    const behaviour = (job: Job): Promise<void> =>
      boot.app.dataSource.transaction(isolation, async (manager) => {
        await manager.query('INSERT INTO effect VALUES ($1)', [job.id]);
        await cancel(boot.app, job);
        await job.complete({ manager }).catch((error: unknown) => {
          refusals.push(error);
          throw error;
        });
      });
    await keptOrNot(behaviour, { transactional: false }, async (app, { id, events }) => {
      expect(events).toEqual(['started', 'cancelled']);
      expect(await effects()).toEqual([]);
      expect(await app.queue.get(id)).toMatchObject({ state: 'cancelled', attempts: 1 });
    });
    expect(refusals).toMatchObject(Array(2).fill({ code: 'transaction_conflict' }));
  });

  it('is none of its business at READ COMMITTED: the completion wins', async () => {
    const behaviour = (job: Job): Promise<void> =>
      boot.app.dataSource.transaction(async (manager) => {
        await manager.query('INSERT INTO effect VALUES ($1)', [job.id]);
        await boot.app.queue.cancel(job.id);
        await job.complete({ manager });
      });
    await keptOrNot(behaviour, { transactional: false }, async (app, { events }) => {
      expect(events).toEqual(['started', 'completed']);
      expect(has(app, 'cancelled')).toBe(false);
    });
  });
});
