import { beforeAll, describe, expect, it } from '@jest/globals';
import { cancelJobs, findCancellable, locateJobs } from '../libs/queue/src/statements/cancel-jobs.js';
import { checkpointJob, findRun } from '../libs/queue/src/statements/checkpoint-job.js';
import { claimJobs, claimJobsByKey } from '../libs/queue/src/statements/claim-jobs.js';
import { claimSuspect } from '../libs/queue/src/statements/claim-suspect.js';
import { clearJobs } from '../libs/queue/src/statements/clear-jobs.js';
import {
  beginKeyed,
  findKeys,
  insertKeyedJobs,
  insertKeyedJobsInTransaction,
} from '../libs/queue/src/statements/insert-keyed-jobs.js';
import { insertJobs } from '../libs/queue/src/statements/insert-jobs.js';
import { getJob } from '../libs/queue/src/statements/inspect-jobs.js';
import { pruneJobs, pruneKeys } from '../libs/queue/src/statements/prune-jobs.js';
import { pruneProgress, reportProgress } from '../libs/queue/src/statements/report-progress.js';
import { rescueExpired } from '../libs/queue/src/statements/rescue-expired.js';
import { rescueJobs } from '../libs/queue/src/statements/rescue-jobs.js';
import { commitHolds, expireHolds, keepHolds, releaseHolds } from '../libs/queue/src/statements/reservations.js';
import { completeJobs } from '../libs/queue/src/statements/complete-jobs.js';
import { findUnsettled } from '../libs/queue/src/statements/find-unsettled.js';
import { finishJobs } from '../libs/queue/src/statements/finish-jobs.js';
import { requeueJobs } from '../libs/queue/src/statements/requeue-jobs.js';
import { heartbeat } from '../libs/queue/src/statements/runners.js';
import type { Statement } from '../libs/queue/src/statements/statement.js';
import { surveyFeeds } from '../libs/queue/src/statements/survey-feeds.js';
import { begin, beginHashing, beginPlain } from '../libs/queue/src/statements/transaction.js';
import { findEnded } from '../libs/queue/src/statements/wait-for.js';
import { useDatabase } from './support/database.js';
import {
  deadStatistics,
  indexesOf,
  notByIndex,
  notHashed,
  planOf,
  rowsRead,
  statistics,
  walkedWhole,
  type PlanNode,
} from './support/plans.js';
import { useTables } from './support/tables.js';

const database = useDatabase();
const tables = useTables(database);

const FINISHED = 1_000_000;
const LIVE = 100_000;
const CHANNELS = 10;
const LEASES = 50;
const PER_LEASE = 20;
const FIRST_HELD = LIVE + FINISHED + 1;
const HELD = 2_000;

/** Jobs are due one millisecond apart; the last tenth is due later; every other one has a key, and an idempotency key; one in 10 000 is a suspect. Held ones beside, half of them over. */
async function fill(): Promise<void> {
  for (const table of ['job', 'finished_job', 'lease', 'idempotency_key']) {
    await tables.sql(`ALTER TABLE nestmq.${table} SET (autovacuum_enabled = false)`);
  }
  await tables.sql(
    `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, delete_at, channel, key, name)
     SELECT ${LIVE} + i, 'completed', 1, 0, now(), now(), now() + i * interval '1 minute', 'c' || i % ${CHANNELS}, '', 'n'
     FROM generate_series(1, ${FINISHED}) AS i`,
  );
  await tables.sql(
    `INSERT INTO nestmq.job (id, channel, name, key, idempotency_key, priority, suspect, due_at, payload)
     SELECT i, 'c' || i % ${CHANNELS}, 'n', CASE WHEN i % 4 < 2 THEN 'k' || i % 1000 ELSE '' END, CASE WHEN i % 4 < 2 THEN 'i' || i END, 0, i % 10000 = 0,
       CASE WHEN i > ${LIVE * 0.9} THEN now() + interval '1 day' ELSE now() - (${LIVE} - i) * interval '1 ms' END, '{"n": 1}'
     FROM generate_series(1, ${LIVE}) AS i`,
  );
  await tables.sql(
    `INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, started, hi_due_at, hi_id)
     SELECT 1, l, 'c1', 0, array_agg(id ORDER BY id), array_agg(run ORDER BY id), ${PER_LEASE}, max(due_at), max(id)
     FROM (SELECT (row_number() OVER (ORDER BY id) - 1) / ${PER_LEASE} + 1 AS l, * FROM nestmq.job WHERE channel = 'c1' AND NOT suspect
           ORDER BY id LIMIT ${LEASES * PER_LEASE}) AS batch
     GROUP BY l`,
  );
  await tables.sql(
    `INSERT INTO nestmq.job (id, channel, name, held_until)
     SELECT ${FIRST_HELD} + i, 'c1', 'n', now() + (i % 2 * 2 - 1) * interval '1 hour' FROM generate_series(0, ${HELD - 1}) AS i`,
  );
  await tables.sql(`ALTER TABLE nestmq.job ALTER COLUMN id RESTART WITH ${FIRST_HELD + HELD}`);
  await tables.sql(
    `INSERT INTO nestmq.idempotency_key (job_id, payload_hash, channel, key, expires_at)
     SELECT i, '', 'c' || i % ${CHANNELS}, 'i' || i, now() + CASE WHEN i % 2 = 0 THEN (i - 1000) * interval '1 minute' END
     FROM generate_series(1, ${LIVE}) AS i`,
  );
  await tables.sql(`INSERT INTO nestmq.runner (id, host, pid) VALUES (1, 'h', 1)`);
  await tables.sql(
    `INSERT INTO nestmq.job_progress (job_id, percent)
     SELECT i, 5 FROM generate_series(${LIVE} - 400, ${LIVE} + 400) AS i UNION ALL SELECT 100000000 + i, 5 FROM generate_series(1, 400) AS i`,
  );
}

/** The plan of a statement as the runner sends it; what it wrote is taken back. */
const nodesOf = <Params>(
  statement: Statement<Params, unknown>,
  params: Params,
  generic: boolean,
  start = begin,
): Promise<PlanNode[]> => planOf(database.url, statement, params, { generic, start });

const entries = Array.from({ length: 100 }, (_, index) => {
  const lease = Math.floor(index / PER_LEASE) + 1;
  return { id: String(index * CHANNELS + 1), run: 0, lease };
});
const finish = {
  state: 'dead',
  attempt: 1,
  reason: 'exhausted',
  error: 'x',
  result: null,
  seq: null,
  keepMs: null,
} as const;
const ownRun = { runner: '1', fence: entries[0]! };
const claim = { runner: '2', lease: 1, channel: 'c1', priority: 0, names: ['n'], limit: 500, slots: 32 };
const after = { micros: 0, id: '0' };
const job = {
  ordered: false,
  ...{ channel: 'c1', key: '', name: 'n', priority: 0, maxAttempts: 5, policyId: null, backoff: null, delayMs: 0 },
  ...{ runAtMs: null, holdMs: null, payload: '{"n":1}', bytes: null, metadata: null, idempotency: null },
};

/** The first twenty are taken, by live jobs and for ever. */
const keyedJobs = Array.from({ length: 100 }, (_, index) => ({
  ...job,
  idempotency: {
    key: `i${index < 20 ? index * CHANNELS + 1 : `new ${index}`}`,
    hash: index % 2 === 0 ? 'its hash' : null,
    lastsMs: index % 2 === 0 ? Infinity : null,
    strict: false,
  },
}));
const held = Array.from({ length: 100 }, (_, index) => String(FIRST_HELD + index));

/** Name · statement and parameters · its indexes · the most rows of `job` and `finished_job` that it may read. */
const hot: [string, (generic: boolean) => Promise<PlanNode[]>, string[], number][] = [
  // 1 000 leased ones stand before the first free job here, which is what a look from the start has to pass.
  ['claim_jobs', (g) => nodesOf(claimJobs, { ...claim, after }, g), ['job_feed'], 3_000],
  [
    'claim_jobs_by_key',
    (g) => nodesOf(claimJobsByKey, { ...claim, afterKey: '', share: 8 }, g),
    ['job_key_feed'],
    3_000,
  ],
  ['claim_suspect', (g) => nodesOf(claimSuspect, { ...claim, channels: null }, g), ['job_suspect'], 50],
  [
    'survey_feeds',
    (g) => nodesOf(surveyFeeds, { names: ['n'], groups: [0], groupChannels: [null], channels: null, arrivals: [] }, g),
    ['job_feed', 'job_key_feed'],
    3_000,
  ],
  ['complete_jobs', (g) => nodesOf(completeJobs, { runner: '1', entries, endedLeases: [] }, g), ['job_pkey'], 300],
  [
    'finish_jobs',
    (g) => nodesOf(finishJobs, { runner: '1', entries: entries.map((entry) => ({ ...entry, ...finish })) }, g),
    ['job_pkey'],
    500,
  ],
  [
    'requeue_jobs',
    (g) =>
      nodesOf(
        requeueJobs,
        { runner: '1', entries: entries.map((entry) => ({ ...entry, attempt: 1, delayMs: 5, error: 'x', seq: null })) },
        g,
      ),
    ['job_pkey'],
    500,
  ],
  ['find_unsettled', (g) => nodesOf(findUnsettled, { runner: '1', entries }, g), ['job_pkey'], 300],
  ['insert_jobs', (g) => nodesOf(insertJobs, { jobs: Array.from({ length: 100 }, () => job) }, g), [], 0],
  [
    'insert_keyed_jobs',
    (g) => nodesOf(insertKeyedJobs, { jobs: keyedJobs }, g, beginKeyed),
    ['job_idempotency', 'idempotency_key_pkey'],
    100,
  ],
  [
    'insert_keyed_jobs_in_tx',
    (g) => nodesOf(insertKeyedJobsInTransaction, { jobs: keyedJobs, notifyChannel: 'n', waitMs: 5_000 }, g, 'BEGIN'),
    ['idempotency_key_pkey'],
    100,
  ],
  [
    'insert_keyed_jobs, one',
    (g) => nodesOf(insertKeyedJobs, { jobs: keyedJobs.slice(0, 1) }, g, beginKeyed),
    ['job_idempotency', 'idempotency_key_pkey'],
    5,
  ],
  [
    'insert_keyed_jobs_in_tx, one',
    (g) =>
      nodesOf(
        insertKeyedJobsInTransaction,
        { jobs: keyedJobs.slice(0, 1), notifyChannel: 'n', waitMs: 5_000 },
        g,
        'BEGIN',
      ),
    ['idempotency_key_pkey'],
    5,
  ],
  [
    'find_keys',
    (g) => nodesOf(findKeys, { jobs: keyedJobs }, g, 'BEGIN'),
    ['job_idempotency', 'idempotency_key_pkey'],
    100,
  ],
  ['prune_keys', (g) => nodesOf(pruneKeys, {}, g), ['idempotency_key_expires_at', 'idempotency_key_pkey'], 2_000],
  ['rescue_jobs', (g) => nodesOf(rescueJobs, {}, g, beginHashing), ['job_pkey'], 0],
  [
    'checkpoint_job',
    (g) => nodesOf(checkpointJob, { ...ownRun, checkpoint: { extraRetries: 0, keepAliveMs: 5, payload: '1' } }, g),
    ['job_pkey', 'lease_pkey'],
    5,
  ],
  [
    'heartbeat',
    (g) => nodesOf(heartbeat, { runner: '1', held: [1], highest: 1, started: ['5'] }, g, beginPlain),
    ['job_lease_end', 'job_cancel'],
    5,
  ],
  ['find_run', (g) => nodesOf(findRun, ownRun, g), ['job_pkey', 'lease_pkey'], 5],
  [
    'report_progress',
    (g) => nodesOf(reportProgress, { ...ownRun, progress: { percent: 5, message: null } }, g),
    ['job_pkey', 'lease_pkey'],
    5,
  ],
  ['rescue_expired', (g) => nodesOf(rescueExpired, {}, g, beginHashing), ['job_lease_end'], 20],
  [
    'prune_progress',
    (g) => nodesOf(pruneProgress, { after: '0' }, g),
    ['job_progress_pkey', 'job_pkey', 'finished_job_pkey'],
    2_500,
  ],
  ['prune_jobs', (g) => nodesOf(pruneJobs, {}, g), ['finished_job_delete_at'], 50],
  ['commit_holds', (g) => nodesOf(commitHolds, { ids: held }, g), ['job_pkey'], 500],
  ['keep_holds', (g) => nodesOf(keepHolds, { ids: held, holdMs: 5 }, g), ['job_pkey'], 500],
  ['release_holds', (g) => nodesOf(releaseHolds, { ids: held, notifyChannel: null }, g), ['job_pkey'], 500],
  ['expire_holds', (g) => nodesOf(expireHolds, {}, g), ['job_held', 'job_pkey'], 2 * HELD],
  [
    'clear_jobs',
    (g) => nodesOf(clearJobs, { channels: ['c1'], idle: [], upTo: null, limit: 500 }, g),
    ['job_feed', 'job_lane', 'job_pkey'],
    4_000,
  ],
  [
    'cancel_jobs',
    (g) => nodesOf(cancelJobs, { channel: 'c1', ids: entries.map(({ id }) => id), reason: null, keepMs: 5 }, g),
    ['job_pkey'],
    500,
  ],
  ['locate_jobs', (g) => nodesOf(locateJobs, { ids: held }, g), ['job_pkey', 'finished_job_pkey'], 300],
  [
    'find_cancellable',
    (g) => nodesOf(findCancellable, { channel: 'c1', key: null, name: null, after: '0', upTo: null, limit: 10_000 }, g),
    [],
    LIVE / CHANNELS + 2 * HELD + 100,
  ],
  ['find_ended', (g) => nodesOf(findEnded, { ids: ['5', '6'] }, g), ['job_pkey', 'finished_job_pkey'], 5],
  ['get_job', (g) => nodesOf(getJob, { id: '5' }, g), ['job_pkey', 'finished_job_pkey'], 5],
];

const LARGE = ['job', 'finished_job', 'idempotency_key'];

beforeAll(fill, 60_000);

const TABLES = ['job', 'finished_job', 'lease', 'runner', 'idempotency_key'];

describe.each([...statistics(tables, TABLES), deadStatistics(tables, TABLES)])(
  'on a million finished and 100 000 live jobs, %s',
  (_, prepare) => {
    beforeAll(async () => void (await prepare()));

    it.each(hot)('%s walks its indexes and reads no more than it takes', async (__, plan, indexes, mostRows) => {
      const nodes = await plan(false);
      expect(notByIndex(nodes, LARGE)).toEqual([]);
      expect(indexesOf(nodes)).toEqual(expect.arrayContaining(indexes));
      expect(rowsRead(nodes, LARGE)).toBeLessThanOrEqual(mostRows);
    });

    it.each(hot)('%s does so in its generic plan', async (__, plan, indexes) => {
      const nodes = await plan(true);
      expect(notByIndex(nodes, LARGE)).toEqual([]);
      expect(indexesOf(nodes)).toEqual(expect.arrayContaining(indexes));
    });

    it.each([
      ['alike', keyedJobs.map((keyed) => ({ ...keyed, idempotency: { ...keyed.idempotency, lastsMs: null } }))],
      ['not alike', keyedJobs],
    ])(
      'insert_keyed_jobs of jobs that are %s compares no lists one by one, in the plan that is kept',
      async (__, jobs) => {
        const nodes = await nodesOf(insertKeyedJobs, { jobs }, true, beginKeyed);
        expect(nodes.map((node) => node['Node Type'])).not.toContain('Nested Loop');
      },
    );
  },
);

const comparing = hot.filter(([name]) => /^(claim_|survey_)/.test(name));

describe.each([1_000, 1_000_000])('where the planner believes in %d leases on each page of their table', (density) => {
  beforeAll(() =>
    tables.sql(`UPDATE pg_class SET reltuples = ${density}, relpages = 1 WHERE oid = 'nestmq.lease'::regclass`),
  );

  it.each(comparing)('%s hashes what is leased, and does not compare each job with all of it', async (_, plan) => {
    expect(notHashed([...(await plan(false)), ...(await plan(true))])).toEqual([]);
  });
});

const settling = hot.filter(([name]) => /^(complete|finish|requeue)_jobs$|^find_unsettled$/.test(name));

// The runners of an application that starts with an idle queue keep the plans that were made then.
describe('on tables that have been emptied and vacuumed', () => {
  beforeAll(async () => {
    await tables.sql('DELETE FROM nestmq.job');
    await tables.sql('VACUUM nestmq.job');
  });

  it.each(settling)('%s is planned to look its jobs up, and not to walk through all there will be', async (_, plan) => {
    const nodes = await plan(true);
    expect(walkedWhole(nodes, 'job')).toEqual([]);
    expect(indexesOf(nodes)).toContain('job_pkey');
  });
});
