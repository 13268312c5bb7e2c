import type { JobId } from '../job/job.js';
import { FREE, RETURNED, splitIds, telling, wakeUps } from './insert-jobs.js';
import { contentHashOf } from './job-content.js';
import { COLUMNS, forItems, itemColumns, type JobItem } from './job-items.js';
import { lookUp } from './look-up.js';
import type { Idempotency, NewJob } from './new-job.js';
import { defineStatement } from './statement.js';
import { beginPlain } from './transaction.js';

interface KeyedParams {
  readonly jobs: readonly JobItem[];
}

/** What became of each job, in the order given. */
export interface KeyedRow {
  /** `isNew`: it was inserted. Else the id of the earlier one, or `null` where it is not known yet. */
  readonly answers: readonly { readonly id: JobId | null; readonly isNew: boolean }[];
  /** Inserted, although their key was taken for longer meanwhile: to be deleted again. */
  readonly surplus: readonly JobId[];
  readonly wakeUps: readonly string[];
}

/**
 * A job of this key: live, or one whose key has outlived it. Each found by its unique index, row by row.
 *
 * @param hashed whether its content is asked for
 */
const holder = (schema: string, channel: string, key: string, hashed: string): string => `
      SELECT job.id, CASE WHEN ${hashed} THEN ${contentHashOf('job')} END AS hash
      FROM ${schema}.job
      WHERE job.channel = ${channel} AND job.idempotency_key = ${key}
      UNION ALL
      SELECT lasting.job_id, lasting.payload_hash
      FROM ${schema}.idempotency_key AS lasting
      WHERE lasting.channel = ${channel} AND lasting.key = ${key} AND ${lasts}
      LIMIT 1`;

const lasts = '(lasting.expires_at IS NULL OR lasting.expires_at > statement_timestamp())';

/** Notes keys that outlive their job, where no other job has taken them meanwhile; `e` is -1 where that is for ever. */
const note = (schema: string, rows: string): string => `
    INSERT INTO ${schema}.idempotency_key AS noted (channel, key, job_id, payload_hash, expires_at)
    SELECT channel, key, id, g, clock_timestamp() + nullif(e, -1) * interval '1 millisecond'
    FROM ${rows}
    ORDER BY channel COLLATE "C", key COLLATE "C"
    ON CONFLICT (key, channel) DO UPDATE
    SET job_id = excluded.job_id, payload_hash = excluded.payload_hash, created_at = clock_timestamp(), expires_at = excluded.expires_at
    WHERE noted.expires_at <= statement_timestamp()
    RETURNING job_id`;

/**
 * Inserts the jobs whose key is free, and notes the keys that outlive their job. What decides is the unique index of live
 * jobs, and for lasting keys that of `idempotency_key` too: whoever comes second waits there for the end of the first
 * one's transaction. Keys are taken in sorted order, while ids ascend in the order of the call.
 *
 * @param waiting a CTE that is to be evaluated before any lock is waited for
 * @param items   the jobs, with keys
 */
const insertion = (schema: string, waiting: string, items: string): string => `item AS MATERIALIZED (
    SELECT coalesce(given, nextval('${schema}.job_id_seq')) AS id, clock_timestamp() AS sent_at, item.*
    FROM ${waiting}, ${items}
    ORDER BY ordinal
  ), inserted AS (
    INSERT INTO ${schema}.job (${COLUMNS}, idempotency_key, idempotency_hash)
    SELECT ${itemColumns('sent_at')}, i, g
    FROM item
    WHERE i IS NULL OR (
      SELECT true FROM ${schema}.idempotency_key AS lasting WHERE lasting.channel = c AND lasting.key = i AND ${lasts}
    ) IS NULL
    ORDER BY c COLLATE "C", i COLLATE "C", ordinal
    ON CONFLICT (idempotency_key, channel) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING ${RETURNED}
  ), lasting AS MATERIALIZED (
    SELECT c AS channel, i AS key, item.id, g, e
    FROM item JOIN inserted ON inserted.id = item.id
    WHERE e IS NOT NULL
  ), noted AS (${note(schema, 'lasting')}
  ), surplus AS MATERIALIZED (
    SELECT id FROM lasting WHERE id NOT IN (SELECT job_id FROM noted)
  ), wake_up AS (${wakeUps(FREE)}
  )`;

/**
 * Inserts jobs with idempotency keys outside of a caller's transaction, all or none. What it sees holds a key; when
 * somebody whom its snapshot does not show took one meanwhile it fails at the unique index, and refuses itself
 * ({@link REFUSED}) when a lasting key was taken so, or a job's content is another where that is an error. Then `findKeys`
 * tells why, or it is sent again. Indexes `job_idempotency`, `idempotency_key_pkey`.
 */
export const insertKeyedJobs = forItems<KeyedParams, KeyedRow>((items) =>
  defineStatement({
    name: `insert_keyed_${items.name}_v4`,
    text: (schema) => `
  WITH taken AS MATERIALIZED (
    SELECT job.channel, job.idempotency_key AS key, job.id, CASE WHEN $3::boolean THEN ${contentHashOf('job')} END AS hash
    FROM ${schema}.job
    WHERE job.idempotency_key = ANY (${items.keyList(4)}) AND job.idempotency_key IS NOT NULL
    UNION ALL
    SELECT lasting.channel, lasting.key, lasting.job_id, lasting.payload_hash
    FROM ${schema}.idempotency_key AS lasting
    WHERE lasting.key = ANY (${items.keyList(4)}) AND ${lasts}
  ), inserted AS (
    INSERT INTO ${schema}.job (${COLUMNS}, idempotency_key, idempotency_hash)
    SELECT ${itemColumns('clock_timestamp()')}, i, g
    FROM (
      SELECT nextval('${schema}.job_id_seq') AS id, item.*
      FROM ${items.keyedRows(4)}
      WHERE i IS NULL OR (i, c) NOT IN (SELECT key, channel FROM taken)
      ORDER BY ordinal
    ) AS numbered
    RETURNING ${RETURNED}, idempotency_key
  ), known AS MATERIALIZED (
    SELECT ordinal, taken.id, s AND taken.hash <> g AS conflict
    FROM ${items.keys(4)}
    JOIN taken ON taken.key = i AND taken.channel = c
    WHERE (SELECT count(*) FROM inserted) < $1::integer
  ), lasting AS MATERIALIZED (
    SELECT c AS channel, i AS key, inserted.id, g, e
    FROM ${items.keys(4)}
    JOIN inserted ON inserted.channel = c AND inserted.idempotency_key = i
    WHERE $2::boolean AND e IS NOT NULL
  ), noted AS (${note(schema, 'lasting')}
  ), wake_up AS (${wakeUps(FREE, items.alone)}
  )
  SELECT (SELECT string_agg(id::text, ',') FROM inserted), (SELECT json_object_agg(ordinal, id::text) FROM known),
    1 / CASE WHEN EXISTS (SELECT FROM known WHERE conflict) OR (SELECT count(*) FROM noted) < (SELECT count(*) FROM lasting) THEN 0 ELSE 1 END,
    (SELECT json_agg(message) FROM wake_up)`,
    values: ({ jobs }, arrays) => [
      jobs.length,
      jobs.some(isLasting),
      isAnyStrict(jobs),
      ...items.keyedValues(jobs, arrays),
    ],
    row: ([inserted, known, , messages], { jobs }) => ({
      answers: answersOf(jobs.length, splitIds(inserted), (known as Record<string, JobId> | null) ?? {}),
      surplus: [],
      wakeUps: (messages as string[] | null) ?? [],
    }),
  }),
);

const isLasting = ({ idempotency }: NewJob): boolean => idempotency !== null && idempotency.lastsMs !== null;

const isAnyStrict = (jobs: readonly NewJob[]): boolean => jobs.some(({ idempotency }) => idempotency?.strict === true);

/** New ids stand in the order of the jobs that are not known. */
function answersOf(
  count: number,
  inserted: readonly JobId[],
  known: Readonly<Record<string, JobId>>,
): KeyedRow['answers'] {
  if (inserted.length === count) return inserted.map((id) => ({ id, isNew: true }));
  let next = 0;
  return Array.from({ length: count }, (_, index) => {
    const id = known[index + 1];
    return id === undefined ? { id: inserted[next++]!, isNew: true } : { id, isNew: false };
  });
}

/** SQLSTATEs of `insertKeyedJobs`: a division by zero, by which it refuses itself, and what the unique index says. */
export const REFUSED: ReadonlySet<string> = new Set(['22012', '23505']);

/** Jobs of a caller's transaction up to which a plan is kept. More are planned for the tables as they are, since its planner cannot be told. */
const JOBS_PER_KEPT_PLAN = 20;

/**
 * Inserts jobs with idempotency keys inside the caller's transaction, and never fails because of a key: which jobs have
 * taken the others' `findKeys` tells, by a younger snapshot. Waits at most `waitMs` for each key whose first owner has not
 * committed, and less where the transaction has a shorter limit of its own, which it gets back. Indexes as `insertKeyedJobs`.
 */
export const insertKeyedJobsInTransaction = forItems<KeyedParams & { notifyChannel: string; waitMs: number }, KeyedRow>(
  (items) =>
    defineStatement({
      name: `insert_keyed_tx_${items.name}_v2`,
      isUnnamed: ({ jobs }) => jobs.length > JOBS_PER_KEPT_PLAN,
      text: (schema) => `
  WITH own AS (
    SELECT current_setting('lock_timeout') AS before
  ), waiting AS MATERIALIZED (
    SELECT before,
      set_config('lock_timeout', least($2::integer, nullif(extract(epoch FROM before::interval) * 1000, 0)::integer)::text, true) AS during
    FROM own
  ), ${insertion(schema, 'waiting', items.keyedRows(3))}, ${telling(schema, '$1')}
  SELECT (SELECT string_agg(id::text, ',' ORDER BY ordinal) FROM item),
    (SELECT string_agg(id::text, ',') FROM inserted),
    (SELECT string_agg(id::text, ',') FROM surplus),
    (SELECT count(*) FROM sent), (SELECT count(*) FROM remembered),
    set_config('lock_timeout', (SELECT before FROM waiting), true)`,
      values: ({ jobs, notifyChannel, waitMs }, arrays) => [
        ...[notifyChannel, waitMs],
        ...items.keyedValues(jobs, arrays),
      ],
      row: ([ids, inserted, surplus]) => {
        const isInserted = new Set(splitIds(inserted));
        const answers = splitIds(ids).map((id) =>
          isInserted.has(id) ? { id, isNew: true } : { id: null, isNew: false },
        );
        return { answers, surplus: splitIds(surplus), wakeUps: [] };
      },
    }),
);

/** A job that has an idempotency key. */
export type KeyedJob = NewJob & { readonly idempotency: Idempotency };

export interface KeyHolder {
  /** Place of the key in the list, from 0. */
  readonly index: number;
  readonly id: JobId;
  /** Of its name, payload and bytes, where one of the jobs is strict. */
  readonly hash: string | null;
}

/**
 * Which jobs hold these keys. Never a kept plan: the job table is empty now and has a million rows then, and in a
 * caller's transaction the planner cannot be told. Indexes as `insertKeyedJobs`.
 */
export const findKeys = defineStatement<{ readonly jobs: readonly KeyedJob[] }, KeyHolder>({
  name: 'find_keys_v2',
  isUnnamed: () => true,
  text: (schema) => `
  SELECT wanted.ordinal, found.id, found.hash
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (channel, key, ordinal)
  CROSS JOIN LATERAL (${holder(schema, 'wanted.channel', 'wanted.key', '$3::boolean')}
  ) AS found`,
  values: ({ jobs }) => [
    jobs.map(({ channel }) => channel),
    jobs.map(({ idempotency }) => idempotency.key),
    isAnyStrict(jobs),
  ],
  row: ([ordinal, id, hash]) => ({ index: Number(ordinal) - 1, id: id as JobId, hash: hash as string | null }),
});

/** Deletes jobs that this very transaction has inserted, and their keys. Indexes `job_pkey`, `idempotency_key_pkey`. */
export const withdrawJobs = defineStatement<{ ids: readonly JobId[] }, number>({
  name: 'withdraw_jobs_v2',
  isUnnamed: () => true,
  text: (schema) => `
  WITH withdrawn AS (
    DELETE FROM ${schema}.job WHERE id = ANY ($1::bigint[]) RETURNING id, channel, idempotency_key
  ), freed AS (
    DELETE FROM ${schema}.idempotency_key AS lasting
    USING withdrawn
    WHERE ${lookUp('lasting.channel', 'withdrawn.channel')} AND ${lookUp('lasting.key', 'withdrawn.idempotency_key')} AND lasting.job_id = withdrawn.id
  )
  SELECT count(*) FROM withdrawn`,
  values: ({ ids }) => [ids],
  row: ([count]) => Number(count),
});

/** Draws ids ahead, for jobs that are not inserted in their order. */
export const drawIds = defineStatement<{ count: number }, JobId[]>({
  name: 'draw_ids_v1',
  text: (schema) => `
  SELECT string_agg(id::text, ',' ORDER BY id)
  FROM (SELECT nextval('${schema}.job_id_seq') AS id FROM generate_series(1, $1::integer)) AS drawn`,
  values: ({ count }) => [count],
  row: ([ids]) => splitIds(ids),
});

const KEYED_SETTINGS = [
  'lock_timeout = 5',
  'plan_cache_mode = force_generic_plan',
  ...['enable_seqscan', 'enable_bitmapscan', 'enable_nestloop'].map((setting) => `${setting} = off`),
];

/**
 * Opens a transaction that inserts jobs with keys, on a connection that others use too: it waits hardly at all for a key
 * that somebody has, and is sent again later. The plan is made once a connection, since to plan the statement takes as long
 * as to insert a hundred jobs: tables are read by their indexes, and lists are hashed, however many jobs come first.
 */
export const beginKeyed = [beginPlain, ...KEYED_SETTINGS.map((setting) => `SET LOCAL ${setting}`)].join('; ');
