import { beforeAll, describe, expect, it } from '@jest/globals';
import { countJobs, EXACT, type Count } from '../libs/queue/src/statements/count-channels.js';
import { countLanes } from '../libs/queue/src/statements/count-lanes.js';
import { findChannels } from '../libs/queue/src/statements/find-channels.js';
import {
  findFinishedJobs,
  findLiveJobs,
  findRunningJobs,
  JOBS_PER_LOOK,
} from '../libs/queue/src/statements/find-jobs.js';
import { getJobs } from '../libs/queue/src/statements/inspect-jobs.js';
import { listRunners } from '../libs/queue/src/statements/list-runners.js';
import { countFinished, readFacts } from '../libs/queue/src/statements/recent-ends.js';
import type { Statement } from '../libs/queue/src/statements/statement.js';
import { beginReading } from '../libs/queue/src/statements/transaction.js';
import type { JobState } from 'nestmq';
import { useDatabase } from './support/database.js';
import { deadStatistics, notByIndex, planOf, rowsRead, statistics, type PlanNode } from './support/plans.js';
import { useTables } from './support/tables.js';

const database = useDatabase();
const tables = useTables(database);

const LIVE = 400_000;
const FINISHED = 500_000;
const LARGE = ['job', 'finished_job'];

/** Half of the live jobs unordered: due, later, and waiting for a retry; half in a hundred lanes. Two channels; one lease. */
async function fill(): Promise<void> {
  for (const table of LARGE) await tables.sql(`ALTER TABLE nestmq.${table} SET (autovacuum_enabled = false)`);
  await tables.sql(
    `INSERT INTO nestmq.job (id, channel, name, key, position, attempt, due_at)
     SELECT i, 'c' || i % 2, 'n', CASE WHEN i % 4 < 2 THEN 'k' || i / 4 % 50 ELSE '' END, CASE WHEN i % 4 < 2 THEN i END, (i % 32 < 8)::integer,
       now() + (CASE WHEN i % 16 < 8 THEN 1 ELSE -1 END) * interval '1 hour' + i * interval '1 ms'
     FROM generate_series(1, ${LIVE}) AS i`,
  );
  await tables.sql(
    `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, channel, key, name)
     SELECT ${LIVE} + i, CASE WHEN i % 10000 = 0 THEN 'dead' ELSE 'completed' END, 1, 0, now(), now(), 'c' || i % 2, '', 'n'
     FROM generate_series(1, ${FINISHED}) AS i`,
  );
  await tables.sql(`INSERT INTO nestmq.runner (id, host, pid) VALUES (1, 'h', 1)`);
  await tables.sql(
    `INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, started, hi_due_at, hi_id)
     SELECT 1, 1, 'c0', 0, array_agg(id), array_agg(run), 1, max(due_at), max(id)
     FROM (SELECT * FROM nestmq.job WHERE channel = 'c0' AND position IS NULL ORDER BY due_at LIMIT 32) AS job`,
  );
}

const counted = { names: ['n'], channels: null };
const nowMicros = String(Date.now() * 1_000);
const counts = (): Count[] =>
  ['c0', 'c1'].flatMap((channel) =>
    (['ready', 'scheduled', 'retrying', 'held', 'dead'] as const).map((cell) => ({
      channel,
      cell,
      priority: 0,
      less: 0,
    })),
  );
const lanes = { names: ['n'], channels: ['c0', 'c1'], nowMicros };
const all: readonly JobState[] = ['waiting', 'held', 'running'];
const find = {
  ...{ states: all, channel: null, name: null, key: 'absent', before: null, since: null, below: '9223372036854775807' },
  ...{ window: JOBS_PER_LOOK, limit: 101, rare: false },
};

type Plan = (generic: boolean) => Promise<PlanNode[]>;

/** Name · statement and parameters · the most rows of `job` and `finished_job` that it may read. */
const cases: [string, Plan, number][] = [
  ['find_channels', plan(findChannels, counted), 2 * 1_000],
  ['count_jobs', plan(countJobs, { counts: counts(), limit: 1_000, nowMicros }), 2 * 5 * 1_001],
  ['count_lanes', plan(countLanes, { ...lanes, jobs: 1_000, lanes: 100 }), 2 * (1_001 + 200)],
  // Counted, and then looked at one by one.
  ['count_lanes of few jobs', plan(countLanes, { ...lanes, jobs: LIVE, lanes: 100 }), 2 * (LIVE / 2) + 200],
  ['find_live_jobs', plan(findLiveJobs, find), JOBS_PER_LOOK + 200],
  ['find_live_jobs of a channel', plan(findLiveJobs, { ...find, channel: 'c0', rare: true }), 5 * JOBS_PER_LOOK],
  ['find_live_jobs without a filter', plan(findLiveJobs, { ...find, key: null, window: 101 }), 500],
  ['find_running_jobs', plan(findRunningJobs, { ...find, states: ['running'] }), 500],
  ['find_finished_jobs', plan(findFinishedJobs, { ...find, states: ['completed'] }), JOBS_PER_LOOK + 200],
  [
    'find_finished_jobs of a rare state',
    plan(findFinishedJobs, { ...find, states: ['dead'], key: null, rare: true }),
    3 * JOBS_PER_LOOK,
  ],
  ['get_jobs', plan(getJobs, { ids: Array.from({ length: 100 }, (_, index) => String(index + 1)) }), 1_000],
  ['list_runners', plan(listRunners, {}), 500],
  ['count_finished', plan(countFinished, counted), 5 * EXACT],
  ['read_facts', plan(readFacts, counted), 3 * EXACT],
];

function plan<Params>(statement: Statement<Params, unknown>, params: Params): Plan {
  return (generic) => planOf(database.url, statement, params, { generic, start: beginReading });
}

beforeAll(fill, 120_000);

const TABLES = ['job', 'finished_job', 'lease', 'runner'];

describe.each([...statistics(tables, TABLES), deadStatistics(tables, TABLES)])(
  'on 400 000 live and 500 000 finished jobs, %s',
  (_, prepare) => {
    beforeAll(async () => void (await prepare()));

    it.each(cases)('%s reads by its indexes no more than it may', async (__, planFor, mostRows) => {
      const nodes = await planFor(false);
      expect(notByIndex(nodes, LARGE)).toEqual([]);
      expect(rowsRead(nodes, LARGE)).toBeLessThanOrEqual(mostRows);
    });

    it.each(cases)('%s goes by its indexes in its generic plan', async (__, planFor) => {
      expect(notByIndex(await planFor(true), LARGE)).toEqual([]);
    });
  },
);
