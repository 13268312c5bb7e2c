import { beforeAll, describe, expect, it, jest } from '@jest/globals';
import { conditionsOf, type DeadLetterFilter } from '../libs/queue/src/inspect/letter-filter.js';
import {
  cleanUpLetters,
  countLetters,
  findLetters,
  listLetters,
  scopeOf,
  takeLetters,
  type DeadLetterState,
} from '../libs/queue/src/statements/dead-letters.js';
import {
  endLetters,
  findLetterStates,
  lockLanes,
  rejectLetters,
  requeueLetters,
  unblockLanes,
} from '../libs/queue/src/statements/end-letters.js';
import type { Statement } from '../libs/queue/src/statements/statement.js';
import { begin, beginOrdered } from '../libs/queue/src/statements/transaction.js';
import { useDatabase } from './support/database.js';
import { indexesOf, notByIndex, planOf, rowsRead, statistics, type PlanNode } from './support/plans.js';
import { useTables } from './support/tables.js';

jest.setTimeout(120_000);

const database = useDatabase();
const tables = useTables(database);

const COMPLETED = 1_000_000;
const DEAD = 100_000;
const CLOSED = 10_000;
const LIMIT = 500;

/** Dead ones in ten channels and a thousand keys, every tenth of them ordered; closed ones beside, and live jobs in lanes. */
async function fill(): Promise<void> {
  for (const table of ['job', 'finished_job', 'lane', 'lease']) {
    await tables.sql(`ALTER TABLE nestmq.${table} SET (autovacuum_enabled = false)`);
  }
  const insert = (from: number, count: number, state: string): Promise<object[]> =>
    tables.sql(
      `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, finished_at, delete_at, position, seq, channel, key, name, reason, last_error)
       SELECT ${from} + i, '${state}', 1, 0, now(), now(), now() - interval '1 day' + i * interval '1 ms', now() + interval '1 day',
         CASE WHEN i % 10 = 0 THEN ${from} + i END, CASE WHEN i % 10 = 0 THEN 1 END, 'c' || i % 10, 'k' || i % 1000, 'n', 'exhausted', 'told to fail'
       FROM generate_series(1, ${count}) AS i`,
    );
  await insert(0, COMPLETED, 'completed');
  await insert(COMPLETED, DEAD, 'dead');
  await insert(COMPLETED + DEAD, CLOSED, 'resolved');
  await tables.sql(
    `INSERT INTO nestmq.lane (channel, key, last_seq, blocked_by, name)
     SELECT 'c0', 'k' || i, 1, ${COMPLETED} + i, 'n' FROM generate_series(10, 1000, 10) AS i`,
  );
  await tables.sql(
    `INSERT INTO nestmq.job (id, position, channel, key, name)
     SELECT 2000000 + i, 2000000 + i, 'c0', 'k' || i % 1000, 'n' FROM generate_series(1, 50000) AS i`,
  );
}

const LARGE = ['finished_job', 'job', 'lane'];

const OPEN: readonly DeadLetterState[] = ['dead', 'reprocessing'];

const ids = Array.from({ length: 100 }, (_, index) => String(COMPLETED + 10 * (index + 1)));
const letters = ids.map((id) => ({ id, take: null }));

const conditions = (filter: DeadLetterFilter, states = OPEN) =>
  conditionsOf(filter, { states, free: true, limit: LIMIT });

type Plan = (generic: boolean) => Promise<PlanNode[]>;

const plan =
  <Params>(statement: Statement<Params, unknown>, params: Params, start = begin): Plan =>
  (generic) =>
    planOf(database.url, statement, params, { generic, start });

const inOrder = <Params>(statement: Statement<Params, unknown>, params: Params): Plan =>
  plan(statement, params, beginOrdered);

const scopes: [string, DeadLetterFilter, string, number][] = [
  ['all', {}, 'finished_job_dead', LIMIT + 1],
  ['a channel', { channel: 'c3' }, 'finished_job_dead_channel', LIMIT + 1],
  ['a lane', { channel: 'c3', key: 'k3' }, 'finished_job_dead_lane', 101],
  ['ids', { ids }, 'finished_job_pkey', 101],
];

/** Name · statement and parameters · its indexes · the most rows that it may read. */
const cases: [string, Plan, string[], number][] = [
  ...scopes.flatMap(([name, filter, index, most]): [string, Plan, string[], number][] => {
    const some = conditions(filter);
    const scope = scopeOf(some);
    return [
      [`list_letters of ${name}`, inOrder(listLetters(scope), some), [index], most],
      [`find_letters of ${name}`, inOrder(findLetters(scope), some), [index], most],
      [
        `take_letters of ${name}`,
        inOrder(takeLetters(scope), { ...some, timeoutMs: 1_000 }),
        [index, 'finished_job_pkey'],
        2 * most,
      ],
    ];
  }),
  ['count_letters of a channel', inOrder(countLetters('channel'), conditions({ channel: 'c3' })), [], DEAD / 10 + 1],
  [
    'list_letters that are closed',
    inOrder(listLetters('all'), conditions({}, ['resolved', 'discarded'])),
    ['finished_job_closed'],
    LIMIT + 1,
  ],
  [
    'clean_up_letters',
    inOrder(cleanUpLetters('all'), conditions({}, ['resolved', 'discarded'])),
    ['finished_job_closed', 'finished_job_pkey'],
    2 * LIMIT + 2,
  ],
  ['lock_lanes', plan(lockLanes, { ids }), ['finished_job_pkey', 'lane_pkey'], 300],
  ['find_letter_states', plan(findLetterStates, { ids }), ['finished_job_pkey', 'job_pkey'], 300],
  [
    'end_letters',
    plan(endLetters, { letters, state: 'discarded', note: null, keepMs: 1 }),
    ['finished_job_pkey', 'lane_pkey'],
    700,
  ],
  ['reject_letters', plan(rejectLetters, { letters, note: null }), ['finished_job_pkey'], 300],
  ['requeue_letters', plan(requeueLetters, { letters, keepKeys: true }), ['finished_job_pkey', 'lane_pkey'], 700],
  ['unblock_lanes', plan(unblockLanes, { ids }), ['finished_job_pkey', 'job_pkey'], 500],
];

beforeAll(fill, 120_000);

const TABLES = ['job', 'finished_job', 'lane', 'lease'];

describe.each(statistics(tables, TABLES))('on 100 000 dead letters among a million finished jobs, %s', (_, prepare) => {
  beforeAll(async () => void (await prepare()));

  it.each(cases)('%s walks its indexes and reads no more than it takes', async (__, planFor, indexes, mostRows) => {
    const nodes = await planFor(false);
    expect(notByIndex(nodes, LARGE)).toEqual([]);
    expect(indexesOf(nodes)).toEqual(expect.arrayContaining(indexes));
    expect(rowsRead(nodes, LARGE)).toBeLessThanOrEqual(mostRows);
  });

  it.each(cases)('%s does so in its generic plan', async (__, planFor, indexes) => {
    const nodes = await planFor(true);
    expect(notByIndex(nodes, LARGE)).toEqual([]);
    expect(indexesOf(nodes)).toEqual(expect.arrayContaining(indexes));
  });
});
