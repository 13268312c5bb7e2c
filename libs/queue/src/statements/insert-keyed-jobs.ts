import type { JobId } from '../job/job.js';
import {
  COLUMNS,
  encodeJob,
  FIELDS,
  FREE,
  NAMES,
  RETURNED,
  splitIds,
  telling,
  values,
  wakeUps,
  type NewJob,
} from './insert-jobs.js';
import { defineStatement } from './statement.js';
import { beginPlain } from './transaction.js';

/** A job as it is sent: with an id where that was drawn before. */
export type KeyedJob = NewJob & { readonly id?: JobId };

interface KeyedParams {
  readonly jobs: readonly KeyedJob[];
}

/** What became of each job, in the order given. */
export interface KeyedRow {
  /** `isNew`: it was inserted. Else the id of the earlier one, or `null` where it is not known yet. */
  readonly answers: readonly { readonly id: JobId | null; readonly isNew: boolean }[];
  /** Inserted, although their key was taken for longer meanwhile: to be deleted again. */
  readonly surplus: readonly JobId[];
  readonly wakeUps: readonly string[];
}

/** A job of this key: live, or one whose key has outlived it. Each found by its unique index, row by row. */
const holder = (schema: string, channel: string, key: string): string => `
      SELECT job.id, job.idempotency_hash AS hash
      FROM ${schema}.job
      WHERE job.channel = ${channel} AND job.idempotency_key = ${key}
      UNION ALL
      SELECT lasting.job_id, lasting.payload_hash
      FROM ${schema}.idempotency_key AS lasting
      WHERE lasting.channel = ${channel} AND lasting.key = ${key} AND ${lasts}
      LIMIT 1`;

const lasts = '(lasting.expires_at IS NULL OR lasting.expires_at > statement_timestamp())';

/**
 * Inserts the jobs whose key is free, and notes the keys that outlive their job. What decides is the unique index of live
 * jobs, and for lasting keys that of `idempotency_key` too: whoever comes second waits there for the end of the first
 * one's transaction. Keys are taken in sorted order, while ids ascend in the order of the call.
 *
 * @param waiting a CTE that is to be evaluated before any lock is waited for
 */
const insertion = (schema: string, waiting: string | null): string => `item AS MATERIALIZED (
    SELECT coalesce(given, nextval('${schema}.job_id_seq')) AS id, clock_timestamp() AS sent_at, item.*
    FROM ${waiting === null ? '' : `${waiting}, `}ROWS FROM (
      json_to_recordset($1) AS (${FIELDS}, i text, g bigint, e bigint, f boolean, s boolean, given bigint)
    ) WITH ORDINALITY AS item (${NAMES}, i, g, e, f, s, given, ordinal)
    ORDER BY ordinal
  ), inserted AS (
    INSERT INTO ${schema}.job (${COLUMNS}, idempotency_key, idempotency_hash)
    SELECT ${values('sent_at')}, i, g
    FROM item
    WHERE i IS NULL OR (
      SELECT true FROM ${schema}.idempotency_key AS lasting WHERE lasting.channel = c AND lasting.key = i AND ${lasts}
    ) IS NULL
    ORDER BY c COLLATE "C", i COLLATE "C", ordinal
    ON CONFLICT (channel, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING ${RETURNED}
  ), noted AS (
    INSERT INTO ${schema}.idempotency_key AS lasting (channel, key, job_id, payload_hash, expires_at)
    SELECT c, i, item.id, g, clock_timestamp() + e * interval '1 millisecond'
    FROM item JOIN inserted ON inserted.id = item.id
    WHERE e IS NOT NULL OR f
    ORDER BY c COLLATE "C", i COLLATE "C"
    ON CONFLICT (channel, key) DO UPDATE
    SET job_id = excluded.job_id, payload_hash = excluded.payload_hash, created_at = clock_timestamp(), expires_at = excluded.expires_at
    WHERE lasting.expires_at <= statement_timestamp()
    RETURNING job_id
  ), surplus AS MATERIALIZED (
    SELECT item.id
    FROM item JOIN inserted ON inserted.id = item.id
    WHERE (e IS NOT NULL OR f) AND item.id NOT IN (SELECT job_id FROM noted)
  ), wake_up AS (${wakeUps(FREE)}
  )`;

/** All ids in the order given, and of which of them there is a job now: `null` for all of them. */
const ANSWERS = `(SELECT string_agg(id::text, ',' ORDER BY ordinal) FROM item),
    (SELECT CASE WHEN count(*) < (SELECT count(*) FROM item) THEN coalesce(string_agg(id::text, ','), '') END FROM inserted)`;

function keyedRow(ids: unknown, inserted: unknown, known: ReadonlyMap<number, JobId>): KeyedRow['answers'] {
  const isInserted = inserted === null ? null : new Set(inserted === '' ? [] : splitIds(inserted));
  return splitIds(ids).map((id, index) => {
    const isNew = isInserted === null || isInserted.has(id);
    return { id: isNew ? id : (known.get(index + 1) ?? null), isNew };
  });
}

/**
 * Inserts jobs with idempotency keys outside of a caller's transaction, all or none: fails with {@link REFUSED} when a key
 * was taken by somebody whom its snapshot does not show, or by a job with other content where that is an error. Then
 * `findKeys` tells which, or it is sent again. Indexes `job_idempotency`, `idempotency_key_pkey`.
 */
export const insertKeyedJobs = defineStatement<KeyedParams, KeyedRow>({
  name: 'insert_keyed_jobs_v1',
  text: (schema) => `
  WITH ${insertion(schema, null)}, known AS MATERIALIZED (
    SELECT ordinal, found.id, coalesce(s AND found.hash <> g, false) AS conflict
    FROM item LEFT JOIN LATERAL (${holder(schema, 'item.c', 'item.i')}
    ) AS found ON true
    WHERE item.id NOT IN (SELECT id FROM inserted)
  )
  SELECT ${ANSWERS},
    (SELECT json_object_agg(ordinal, id::text) FROM known),
    1 / CASE WHEN EXISTS (SELECT FROM known WHERE id IS NULL OR conflict) OR EXISTS (SELECT FROM surplus) THEN 0 ELSE 1 END,
    (SELECT json_agg(message) FROM wake_up)`,
  values: ({ jobs }) => [encodeKeyedJobs(jobs)],
  row: ([ids, inserted, known, , messages]) => ({
    answers: keyedRow(
      ids,
      inserted,
      new Map(Object.entries((known as object | null) ?? {}).map(([ordinal, id]) => [Number(ordinal), id as JobId])),
    ),
    surplus: [],
    wakeUps: (messages as string[] | null) ?? [],
  }),
});

/** SQLSTATE of a division by zero: how a statement refuses itself, and with it the transaction that was sent with it. */
export const REFUSED = '22012';

/** Jobs up to which a plan is kept. More are planned for the tables as they are, since a caller's planner cannot be told. */
const JOBS_PER_KEPT_PLAN = 20;

/**
 * Inserts jobs with idempotency keys inside the caller's transaction, and never fails because of a key: which jobs have
 * taken the others' `findKeys` tells, by a younger snapshot. Waits at most `waitMs` for each key whose first owner has not
 * committed, and less where the transaction has a shorter limit of its own, which it gets back. Indexes as `insertKeyedJobs`.
 */
export const insertKeyedJobsInTransaction = defineStatement<
  KeyedParams & { notifyChannel: string; waitMs: number },
  KeyedRow
>({
  name: 'insert_keyed_jobs_in_tx_v1',
  isUnnamed: ({ jobs }) => jobs.length > JOBS_PER_KEPT_PLAN,
  text: (schema) => `
  WITH own AS (
    SELECT current_setting('lock_timeout') AS before
  ), waiting AS MATERIALIZED (
    SELECT before,
      set_config('lock_timeout', least($3::integer, nullif(extract(epoch FROM before::interval) * 1000, 0)::integer)::text, true) AS during
    FROM own
  ), ${insertion(schema, 'waiting')}, ${telling(schema)}
  SELECT ${ANSWERS},
    (SELECT string_agg(id::text, ',') FROM surplus),
    (SELECT count(*) FROM sent), (SELECT count(*) FROM remembered),
    set_config('lock_timeout', (SELECT before FROM waiting), true)`,
  values: ({ jobs, notifyChannel, waitMs }) => [encodeKeyedJobs(jobs), notifyChannel, waitMs],
  row: ([ids, inserted, surplus]) => ({
    answers: keyedRow(ids, inserted, new Map()),
    surplus: splitIds(surplus),
    wakeUps: [],
  }),
});

export interface KeyHolder {
  /** Place of the key in the list, from 0. */
  readonly index: number;
  readonly id: JobId;
  /** Of its name, payload and bytes. */
  readonly hash: number;
}

/**
 * Which jobs hold these keys. Never a kept plan: the job table is empty now and has a million rows then, and in a
 * caller's transaction the planner cannot be told. Indexes as `insertKeyedJobs`.
 */
export const findKeys = defineStatement<{ channels: readonly string[]; keys: readonly string[] }, KeyHolder>({
  name: 'find_keys_v1',
  isUnnamed: () => true,
  text: (schema) => `
  SELECT wanted.ordinal, found.id, found.hash
  FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (channel, key, ordinal)
  CROSS JOIN LATERAL (${holder(schema, 'wanted.channel', 'wanted.key')}
  ) AS found`,
  values: ({ channels, keys }) => [channels, keys],
  row: ([ordinal, id, hash]) => ({ index: Number(ordinal) - 1, id: id as JobId, hash: Number(hash) }),
});

/** Deletes jobs that this very transaction has inserted, and their keys. Indexes `job_pkey`, `idempotency_key_pkey`. */
export const withdrawJobs = defineStatement<{ ids: readonly JobId[] }, number>({
  name: 'withdraw_jobs_v1',
  isUnnamed: () => true,
  text: (schema) => `
  WITH withdrawn AS (
    DELETE FROM ${schema}.job WHERE id = ANY ($1::bigint[]) RETURNING id, channel, idempotency_key
  ), freed AS (
    DELETE FROM ${schema}.idempotency_key AS lasting
    USING withdrawn
    WHERE lasting.channel = withdrawn.channel AND lasting.key = withdrawn.idempotency_key AND lasting.job_id = withdrawn.id
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

/**
 * Opens a transaction that inserts jobs with keys, on a connection that others use too: it waits hardly at all for a key
 * that somebody has, and is sent again later. Its lists are joined by hashes, tables are read by their indexes.
 */
export const beginKeyed = `${beginPlain}; SET LOCAL lock_timeout = 5; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off`;

function encodeKeyedJobs(jobs: readonly KeyedJob[]): string {
  return `[${jobs.map(encodeKeyedJob).join(',')}]`;
}

function encodeKeyedJob(job: KeyedJob): string {
  let text = encodeJob(job);
  if (job.id !== undefined) text += `,"given":${job.id}`;
  if (job.idempotency === null) return `${text}}`;
  const { key, hash, lastsMs, strict } = job.idempotency;
  text += `,"i":${JSON.stringify(key)},"g":${hash}`;
  if (lastsMs !== null) text += lastsMs === Infinity ? ',"f":true' : `,"e":${lastsMs}`;
  return strict ? `${text},"s":true}` : `${text}}`;
}
