import { beforeAll, describe, expect, it } from '@jest/globals';
import { claimArrivals, claimLanes } from '../libs/queue/src/statements/claim-lanes.js';
import { extendLane } from '../libs/queue/src/statements/extend-lane.js';
import { endLanes } from '../libs/queue/src/statements/lanes.js';
import { recheckLanes, repairLanes, sweepLanes } from '../libs/queue/src/statements/mend-lanes.js';
import { rescueLanes } from '../libs/queue/src/statements/rescue-jobs.js';
import type { Statement } from '../libs/queue/src/statements/statement.js';
import { surveyFeeds } from '../libs/queue/src/statements/survey-feeds.js';
import { begin, beginHashing } from '../libs/queue/src/statements/transaction.js';
import { useDatabase } from './support/database.js';
import { deadStatistics, indexesOf, notByIndex, planOf, rowsRead, statistics, type PlanNode } from './support/plans.js';
import { useTables } from './support/tables.js';

const database = useDatabase();
const tables = useTables(database);

const FINISHED = 1_000_000;
/** Lanes that wait for a person, each with two jobs behind its dead head. */
const BLOCKED = 20_000;
/** Jobs behind the head of one lane, which waits for its retry. */
const BEHIND = 100_000;
/** Lanes whose turn it is, with two jobs each, and as many idle ones. */
const READY = 5_000;
/** Lanes that a runner has leased, ten to a lease. */
const LEASED = 50;
/** Jobs of a lane that has its lease to itself, of which the first are leased. */
const ALONE = 1_000;
const IN_HAND = 100;
const LEASE_OF_ALONE = 1_000;
/** Dead letters, and lanes of a dead runner whose last jobs are among them. */
const DEAD = 50_000;
const LOST = 30;
const DEAD_RUNNER = 3;

async function fill(): Promise<void> {
  for (const table of ['job', 'finished_job', 'lease', 'lane']) {
    await tables.sql(`ALTER TABLE nestmq.${table} SET (autovacuum_enabled = false)`);
  }
  await tables.sql(
    `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, delete_at, position, seq, channel, key, name)
     SELECT -i, 'completed', 1, 0, now(), now(), now() + i * interval '1 minute', -i, i, 'c', 'lane ' || i % 1000, 'n'
     FROM generate_series(1, ${FINISHED}) AS i`,
  );
  // Blocked lanes came first, then the long one, then those that are ready and those that are leased.
  await insertJobs(0, 2 * BLOCKED, `'blocked ' || i / 2`, 'NULL', `interval '-3 hours'`);
  await insertJobs(2 * BLOCKED, 1, `'long'`, '1', `interval '1 hour'`);
  await insertJobs(2 * BLOCKED + 1, BEHIND, `'long'`, 'NULL', `interval '-2 hours'`);
  await insertJobs(2 * BLOCKED + 1 + BEHIND, 2 * READY, `'ready ' || i / 2`, 'NULL', `interval '-1 hour'`);
  await insertJobs(
    2 * BLOCKED + 1 + BEHIND + 2 * READY,
    2 * LEASED,
    `'leased ' || i / 2`,
    'NULL',
    `interval '-1 hour'`,
  );
  await tables.sql(
    `INSERT INTO nestmq.lane (channel, key, last_seq, blocked_by, name)
     SELECT 'c', 'blocked ' || i, 1, 1, 'n' FROM generate_series(0, ${BLOCKED} - 1) AS i`,
  );
  await tables.sql(
    `INSERT INTO nestmq.lane (channel, key, last_seq, ready_at, head_position, name)
     SELECT channel, key, 1, due_at, position, 'n' FROM nestmq.job WHERE key = 'long' AND seq = 1`,
  );
  await tables.sql(
    `INSERT INTO nestmq.lane (channel, key, ready_at, head_position, name)
     SELECT channel, key, max(due_at), min(position), 'n' FROM nestmq.job WHERE key LIKE 'ready %' GROUP BY channel, key`,
  );
  await tables.sql(
    `INSERT INTO nestmq.lane (channel, key, last_seq, name)
     SELECT 'c', 'idle ' || i, 1, 'n' FROM generate_series(1, ${READY}) AS i`,
  );
  await tables.sql(
    `INSERT INTO nestmq.lane (channel, key, runner_id, lease, name)
     SELECT 'c', 'leased ' || i, 1, i / 10 + 1, 'n' FROM generate_series(0, ${LEASED} - 1) AS i`,
  );
  await tables.sql(
    `INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, keys, seqs, started, hi_due_at, hi_id)
     SELECT 1, lane.lease, 'c', 0, array_agg(id), array_agg(run), array_agg(key), array_agg(1), 10, 'epoch', 0
     FROM nestmq.lane JOIN LATERAL (SELECT id, run FROM nestmq.job WHERE job.key = lane.key ORDER BY id LIMIT 1) AS head ON true
     WHERE runner_id = 1
     GROUP BY lane.lease`,
  );
  await insertJobs(2 * (BLOCKED + READY + LEASED) + BEHIND + 1, ALONE, `'alone'`, 'NULL', `interval '-1 hour'`);
  await tables.sql(
    `INSERT INTO nestmq.lane (channel, key, runner_id, lease, name) VALUES ('c', 'alone', 1, ${LEASE_OF_ALONE}, 'n')`,
  );
  await tables.sql(
    `INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, keys, seqs, started, hi_due_at, hi_id)
     SELECT 1, ${LEASE_OF_ALONE}, 'c', 0, array_agg(id ORDER BY id), array_agg(run), array_agg(key), array_agg(n ORDER BY id), 1, 'epoch', 0
     FROM (SELECT id, run, key, row_number() OVER (ORDER BY id) AS n FROM nestmq.job WHERE key = 'alone' ORDER BY id LIMIT ${IN_HAND}) AS held`,
  );
  await tables.sql(`INSERT INTO nestmq.runner (id, host, pid) VALUES (1, 'h', 1)`);
  await tables.sql(
    `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, position, seq, channel, key, name)
     SELECT 10000000 + i, 'dead', 1, 0, now(), now(), 10000000 + i, 1, 'c', 'lost ' || i, 'n' FROM generate_series(1, ${DEAD}) AS i`,
  );
  await tables.sql(`INSERT INTO nestmq.runner (id, host, pid, dead_at) VALUES (${DEAD_RUNNER}, 'h', 1, now())`);
  await tables.sql(
    `INSERT INTO nestmq.lane (channel, key, runner_id, lease, name)
     SELECT 'c', 'lost ' || i, ${DEAD_RUNNER}, 1, 'n' FROM generate_series(1, ${LOST}) AS i`,
  );
  await tables.sql(
    `INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, keys, seqs, started, hi_due_at, hi_id)
     SELECT ${DEAD_RUNNER}, 1, 'c', 0, array_agg(10000000 + i), array_agg(0), array_agg('lost ' || i), array_agg(1), ${LOST}, 'epoch', 0
     FROM generate_series(1, ${LOST}) AS i`,
  );
}

/** Ordered jobs, a microsecond apart from a time on. */
async function insertJobs(from: number, count: number, key: string, seq: string, due: string): Promise<void> {
  await tables.sql(
    `INSERT INTO nestmq.job (id, position, seq, channel, key, name, due_at, payload)
     SELECT ${from} + i + 1, ${from} + i + 1, ${seq}, 'c', ${key}, 'n', now() + ${due} + i * interval '1 microsecond', '{"n": 1}'
     FROM generate_series(0, ${count} - 1) AS i`,
  );
}

const START = { micros: 0, id: '0' };
const NOW = { micros: Date.now() * 1_000, id: '0' };
const claim = {
  ...{ runner: '2', lease: 1, channel: 'c', priority: 0, names: ['n'] },
  ...{ limit: 500, slots: 32, run: 20, after: START },
};
const arrivals = { ...claim, arrivals: 1_000 };
const lanes = Array.from({ length: 32 }, (_, index) => ({ channel: 'c', key: `leased ${index}` }));
const ends = lanes.map((lane, index) => {
  const lease = Math.floor(index / 10) + 1;
  return { ...lane, runner: '1', lease, lastSeq: 1, blockedBy: null };
});
const survey = { names: ['n'], groups: [0], groupChannels: [null], channels: null };

/** Tables of which no scan may go without an index; those of leases and runners are small. */
const LARGE = ['job', 'finished_job', 'lane'];

const plan =
  <Params>(statement: Statement<Params, unknown>, params: Params, start = begin) =>
  (generic: boolean): Promise<PlanNode[]> =>
    planOf(database.url, statement, params, { generic, start });

/** Name · statement and parameters · its indexes · the most rows of the large tables that it may read. */
const hot: [string, (generic: boolean) => Promise<PlanNode[]>, string[], number][] = [
  ['claim_lanes', plan(claimLanes, claim), ['lane_ready', 'job_lane'], 5_000],
  ['claim_lanes, of one job each', plan(claimLanes, { ...claim, run: 1 }), ['lane_ready', 'job_lane'], 3_000],
  ['claim_lanes, when nothing is ready', plan(claimLanes, { ...claim, after: NOW }), ['lane_ready'], 10],
  // From the start: what it meets first belongs to lanes that are blocked.
  ['claim_arrivals, from the start', plan(claimArrivals, arrivals), ['job_arrival', 'lane_pkey'], 5_000],
  ['claim_arrivals, when nothing arrived', plan(claimArrivals, { ...arrivals, after: NOW }), ['job_arrival'], 10],
  [
    'extend_lane',
    plan(extendLane, { ...claim, runner: '1', lease: LEASE_OF_ALONE, key: 'alone', run: IN_HAND }),
    ['lane_pkey', 'job_lane', 'job_pkey'],
    600,
  ],
  ['end_lanes', plan(endLanes, { runner: '1', lanes: ends }), ['lane_pkey', 'job_lane'], 200],
  ['recheck_lanes', plan(recheckLanes, { lanes }), ['job_lane'], 200],
  ['repair_lanes', plan(repairLanes, { lanes }), ['job_lane'], 200],
  ['rescue_lanes', plan(rescueLanes, {}, beginHashing), ['finished_job_pkey'], 200],
  ['sweep_lanes', plan(sweepLanes, { after: null }), ['job_lane', 'lane_pkey'], 5_000],
  [
    'survey_feeds',
    plan(surveyFeeds, { ...survey, arrivals: [{ channel: 'c', priority: 0, after: NOW }] }),
    ['job_arrival', 'lane_ready'],
    100,
  ],
];

beforeAll(fill, 120_000);

const TABLES = ['job', 'finished_job', 'lane', 'lease', 'runner'];

describe.each([...statistics(tables, TABLES), deadStatistics(tables, TABLES)])(
  'on 20 000 blocked lanes, 100 000 jobs behind a head and a million finished jobs, %s',
  (_, prepare) => {
    beforeAll(async () => void (await prepare()));

    it.each(hot)('%s walks its indexes and reads no more than it takes', async (__, planFor, indexes, mostRows) => {
      const nodes = await planFor(false);
      expect(notByIndex(nodes, LARGE)).toEqual([]);
      expect(indexesOf(nodes)).toEqual(expect.arrayContaining(indexes));
      expect(rowsRead(nodes, LARGE)).toBeLessThanOrEqual(mostRows);
    });

    it.each(hot)('%s does so in its generic plan', async (__, planFor, indexes) => {
      const nodes = await planFor(true);
      expect(notByIndex(nodes, LARGE)).toEqual([]);
      expect(indexesOf(nodes)).toEqual(expect.arrayContaining(indexes));
    });
  },
);
