import { beforeEach, describe, expect, it } from '@jest/globals';
import type { QueueStatistics } from 'nestmq';
import { startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

let lastId = 0;

/** So many that ended so long ago, each a minute after it was due. */
const ended = (count: number, state: string, ago: string, channel = 'c'): Promise<object[]> =>
  tables.sql(
    `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, finished_at, channel, key, name)
     SELECT $1::bigint - i, $2, 1, 0, at - interval '1 minute', at, at, $4, '', 'work'
     FROM generate_series(1, $5::integer) AS i, (SELECT now() - $3::interval AS at) AS ended`,
    [(lastId -= 100_000), state, ago, channel, count],
  );

const read = async (channels?: readonly string[]): Promise<QueueStatistics> => {
  const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith()] });
  try {
    return await app.queue.statistics(channels);
  } finally {
    await app.close();
  }
};

describe('queue.statistics()', () => {
  it('has nothing to tell of an empty queue', async () => {
    expect(await read()).toEqual({
      ...{ pending: 0, running: 0, active: 0, retrying: 0, backlog: 0, staleRunning: 0, longestRunningMs: null },
      ...{ completed: 0, dead: 0, finished: 0, total: 0, successRate: null, failureRate: null },
      ...{ successRatePast24Hours: null, pastHour: 0, today: 0, past24Hours: 0, past7Days: 0, deadToday: 0 },
      ...{ deadPast7Days: 0, perMinutePastHour: 0, perHourPast24Hours: 0, perDayPast7Days: 0, peakHour: 0 },
      ...{ averageMs: null, lastFinishedAt: null, oldestReadyMs: null, atLeast: false },
      databaseBytes: expect.any(Number),
    });
  });

  it('counts what is live, and what goes on for how long', async () => {
    await tables.sql(
      `INSERT INTO nestmq.job (id, channel, name, attempt, due_at, held_until) VALUES
        (1, 'c', 'work', 0, now() - interval '1 minute', NULL), (2, 'c', 'work', 0, now() + interval '1 hour', NULL),
        (3, 'd', 'work', 1, now() + interval '1 hour', NULL), (4, 'd', 'work', 0, now(), now() + interval '1 hour'),
        (5, 'd', 'work', 0, now() - interval '3 hours', NULL), (6, 'd', 'work', 0, now() - interval '3 hours', NULL)`,
    );
    await tables.sql(
      `INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, started, hi_due_at, hi_id, created_at) VALUES
        (1, 1, 'd', 0, '{5}', '{0}', 1, now(), 5, now() - interval '2 hours'), (1, 2, 'd', 0, '{6}', '{0}', 1, now(), 6, now())`,
    );
    const statistics = await read();
    expect(statistics).toMatchObject({ pending: 4, running: 2, active: 6, retrying: 1, backlog: 1, staleRunning: 1 });
    expect(statistics.longestRunningMs! / 3_600_000).toBeCloseTo(2, 1);
    expect(statistics.oldestReadyMs! / 60_000).toBeCloseTo(1, 0);
    expect(await read(['c'])).toMatchObject({ pending: 2, running: 0, staleRunning: 0, longestRunningMs: null });
  });

  it('counts what has ended by when, with rates and means', async () => {
    await ended(6, 'completed', '1 minute');
    await ended(2, 'dead', '2 minutes');
    await ended(12, 'completed', '5 hours', 'd');
    await ended(4, 'dead', '3 days');
    await ended(5, 'completed', '30 days');
    await ended(1, 'cancelled', '3 minutes');
    const statistics = await read();
    expect(statistics).toMatchObject({
      ...{ completed: 23, dead: 6, finished: 30, total: 30 },
      ...{ pastHour: 9, past24Hours: 21, past7Days: 25, deadPast7Days: 6, peakHour: 12 },
      ...{ perMinutePastHour: 9 / 60, perHourPast24Hours: 21 / 24, perDayPast7Days: 25 / 7, atLeast: false },
      ...{ successRate: 23 / 29, failureRate: 6 / 29, successRatePast24Hours: 18 / 20 },
    });
    expect(statistics.averageMs).toBeCloseTo(60_000, 0);
    expect((Date.now() - statistics.lastFinishedAt!.getTime()) / 60_000).toBeCloseTo(1, 0);
    expect(await read(['d'])).toMatchObject({ completed: 12, dead: 0, pastHour: 0, successRate: 1 });
  });

  it('counts today from midnight, UTC', async () => {
    const midnight = `date_trunc('day', now(), 'UTC')`;
    await ended(1, 'dead', '0 s');
    await tables.sql(
      `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, finished_at, channel, key, name)
       VALUES (-1, 'dead', 1, 0, now(), now(), ${midnight} - interval '1 ms', 'c', '', 'work')`,
    );
    expect(await read()).toMatchObject({ today: 1, deadToday: 1, dead: 2 });
  });

  it('says where there is more than it counts', async () => {
    await ended(10_001, 'completed', '1 minute');
    expect(await read()).toMatchObject({ completed: 10_000, past7Days: 10_000, atLeast: true });
  });
});
