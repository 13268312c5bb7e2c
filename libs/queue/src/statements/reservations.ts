import type { JobId } from '../job/job.js';
import { telling, wakeUps } from './insert-jobs.js';
import { notReleased } from './job-columns.js';
import type { LaneName } from './lanes.js';
import { lookUp } from './look-up.js';
import { defineStatement } from './statement.js';
import { SURVEY_MESSAGE } from './wake-up.js';

interface HeldParams {
  readonly ids: readonly JobId[];
}

/** What a statement did to jobs that were held. */
export interface HeldRow {
  /** The jobs that it wrote, in no order. */
  readonly ids: readonly JobId[];
  /** Held, but locked by another transaction, which decides about them: worth another try. */
  readonly busy: readonly JobId[];
  /** What to wake runners with after the commit. */
  readonly wakeUps: readonly string[];
}

/**
 * The jobs that are still held, locked. Locked rows are passed by and answered as busy: nobody waits in the database for
 * another transaction, so there are no deadlocks either, and the race with `expire_holds` has one winner.
 */
const held = (schema: string, condition: string): string => `held AS MATERIALIZED (
    SELECT id, position IS NOT NULL AS ordered FROM ${schema}.job WHERE id = ANY ($1::bigint[]) AND ${condition} ORDER BY id FOR UPDATE SKIP LOCKED
  ), busy AS (
    SELECT id FROM ${schema}.job WHERE id = ANY ($1::bigint[]) AND ${condition} AND id NOT IN (SELECT id FROM held)
  )`;

/** When a hold ends, written so that no index of holds serves: the jobs are found by their ids. */
const ENDS_AT = "coalesce(held_until, '-infinity')";

/** By the clock's own time: the caller's transaction may be old. */
const NOT_ENDED = `${ENDS_AT} > clock_timestamp()`;

const listOf = (rows: string): string => `(SELECT json_agg(id::text) FROM ${rows})`;

/** A job that never came to be has no key, however long that was to last. */
const freeKeys = (schema: string, gone: string): string => `freed_key AS (
    DELETE FROM ${schema}.idempotency_key AS lasting USING ${gone}
    WHERE ${lookUp('lasting.channel', `${gone}.channel`)} AND ${lookUp('lasting.key', `${gone}.idempotency_key`)} AND lasting.job_id = ${gone}.id
  )`;

function heldRow([ids, busy, messages]: unknown[]): HeldRow {
  return {
    ids: (ids as JobId[] | null) ?? [],
    busy: (busy as JobId[] | null) ?? [],
    wakeUps: (messages as string[] | null) ?? [],
  };
}

/**
 * A committed job is due at its own time, and now at the earliest: runners look for it at the end of its feed and not
 * at a place that they have passed.
 */
const committed = (schema: string): string => `committed AS (
    UPDATE ${schema}.job
    SET held_until = NULL, due_at = greatest(due_at, clock_timestamp())
    FROM held
    WHERE ${lookUp('job.id', 'held.id')}
    RETURNING job.id, job.channel, job.key, job.name, job.priority, job.due_at, job.position IS NOT NULL AS ordered
  ), wake_up AS (${wakeUps('committed')}
  )`;

/** Commits held jobs outside of a caller's transaction, and answers the wake-ups to send after it. Index `job_pkey`. */
export const commitHolds = defineStatement<HeldParams, HeldRow>({
  name: 'commit_holds_v3',
  text: (schema) => `
  WITH ${held(schema, NOT_ENDED)}, ${committed(schema)}
  SELECT ${listOf('committed')}, ${listOf('busy')}, (SELECT json_agg(message) FROM wake_up)`,
  values: ({ ids }) => [ids],
  row: heldRow,
});

/** The same inside the caller's transaction: the notification becomes visible with its commit. Index `job_pkey`. */
export const commitHoldsInTransaction = defineStatement<HeldParams & { notifyChannel: string }, HeldRow>({
  name: 'commit_holds_in_tx_v3',
  text: (schema) => `
  WITH ${held(schema, NOT_ENDED)}, ${committed(schema)}, ${telling(schema, '$2')}
  SELECT ${listOf('committed')}, ${listOf('busy')}, NULL, (SELECT count(*) FROM sent), (SELECT count(*) FROM remembered)`,
  values: ({ ids, notifyChannel }) => [ids, notifyChannel],
  row: heldRow,
});

/** Moves the end of holds. Index `job_pkey`. */
export const keepHolds = defineStatement<HeldParams & { holdMs: number }, HeldRow>({
  name: 'keep_holds_v2',
  text: (schema) => `
  WITH ${held(schema, NOT_ENDED)}, kept AS (
    UPDATE ${schema}.job
    SET held_until = clock_timestamp() + $2::bigint * interval '1 millisecond'
    FROM held
    WHERE ${lookUp('job.id', 'held.id')}
    RETURNING job.id
  )
  SELECT ${listOf('kept')}, ${listOf('busy')}`,
  values: ({ ids, holdMs }) => [ids, holdMs],
  row: heldRow,
});

/**
 * Gives held jobs up, also those whose hold has ended and that nobody has removed yet. An ordered one holds its lane, and
 * to let that go on is a runner's part: its row is marked (`notReleased`), and the survey that is asked for removes it like
 * one that has ended. In a transaction (`notifyChannel`) that is asked for by its commit. Index `job_pkey`.
 */
export const releaseHolds = defineStatement<HeldParams & { notifyChannel: string | null }, HeldRow>({
  name: 'release_holds_v3',
  text: (schema) => `
  WITH ${held(schema, `${ENDS_AT} > '-infinity'`)}, marked AS (
    UPDATE ${schema}.job SET held_until = '-infinity' FROM held WHERE ${lookUp('job.id', 'held.id')} AND held.ordered RETURNING job.id
  ), deleted AS (
    DELETE FROM ${schema}.job USING held WHERE ${lookUp('job.id', 'held.id')} AND NOT held.ordered
    RETURNING job.id, job.channel, job.idempotency_key
  ), ${freeKeys(schema, 'deleted')}, released AS (
    SELECT id FROM marked UNION ALL SELECT id FROM deleted
  )
  SELECT ${listOf('released')}, ${listOf('busy')},
    (SELECT json_agg(DISTINCT '${SURVEY_MESSAGE}'::text) FROM marked WHERE $2::text IS NULL),
    (SELECT count(pg_notify($2, '${SURVEY_MESSAGE}')) FROM marked WHERE $2 IS NOT NULL)`,
  values: ({ ids, notifyChannel }) => [ids, notifyChannel],
  row: heldRow,
});

/** Where a job that was once held stands. */
export type HoldState = 'held' | 'expired' | 'committed';

/** Answers nothing when there is no such job. Indexes `job_pkey`, `finished_job_pkey`. */
export const findHold = defineStatement<{ id: JobId }, HoldState>({
  name: 'find_hold_v2',
  text: (schema) => `
  SELECT CASE WHEN held_until IS NULL THEN 'committed' WHEN ${NOT_ENDED} THEN 'held' ELSE 'expired' END
  FROM ${schema}.job
  WHERE id = $1 AND ${notReleased}
  UNION ALL
  SELECT 'committed' FROM ${schema}.finished_job WHERE id = $1`,
  values: ({ id }) => [id],
  row: ([state]) => state as HoldState,
});

/** Holds that one statement removes at most. */
export const HOLDS_PER_EXPIRY = 1_000;

export interface ExpiredRow {
  readonly removed: number;
  /** Lanes in which one of them stood. */
  readonly lanes: readonly LaneName[];
}

/**
 * Deletes jobs whose hold has ended, a chunk at a time. A row that is being committed is locked and passed by: that
 * commit wins. Several at once share the work. Index `job_held`.
 */
export const expireHolds = defineStatement<Record<string, never>, ExpiredRow>({
  name: 'expire_holds_v3',
  text: (schema) => `
  WITH ended AS MATERIALIZED (
    SELECT id
    FROM ${schema}.job
    WHERE held_until <= statement_timestamp()
    ORDER BY held_until
    LIMIT ${HOLDS_PER_EXPIRY}
    FOR UPDATE SKIP LOCKED
  ), expired AS (
    DELETE FROM ${schema}.job USING ended WHERE ${lookUp('job.id', 'ended.id')}
    RETURNING job.id, job.channel, job.key, job.position, job.idempotency_key
  ), ${freeKeys(schema, 'expired')}
  SELECT count(*), (
    SELECT json_agg(json_build_object('channel', channel, 'key', key) ORDER BY channel, key)
    FROM (SELECT DISTINCT channel, key FROM expired WHERE position IS NOT NULL) AS lane
  )
  FROM expired`,
  values: () => [],
  row: ([count, lanes]) => ({ removed: Number(count), lanes: (lanes as LaneName[] | null) ?? [] }),
});
