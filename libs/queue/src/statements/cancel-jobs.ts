import type { JobId, JobState } from '../job/job.js';
import { notReleased } from './job-columns.js';
import type { LaneName } from './lanes.js';
import { lookUp } from './look-up.js';
import { defineStatement } from './statement.js';

/** Where a job is that is to be cancelled. */
export interface CancellableRow extends LaneName {
  readonly id: JobId;
  /** `null`: it is live. */
  readonly finished: JobState | null;
  readonly ordered: boolean;
}

/** Those of the given jobs that are there. Indexes `job_pkey`, `finished_job_pkey`. */
export const locateJobs = defineStatement<{ ids: readonly JobId[] }, CancellableRow>({
  name: 'locate_jobs_v1',
  text: (schema) => `
  SELECT found.*
  FROM unnest($1::bigint[]) AS wanted (id)
  CROSS JOIN LATERAL (
    SELECT id, channel, key, NULL::text AS state, position IS NOT NULL AS ordered
    FROM ${schema}.job
    WHERE job.id = wanted.id AND ${notReleased}
    UNION ALL
    SELECT id, channel, key, state, false FROM ${schema}.finished_job WHERE finished_job.id = wanted.id
    LIMIT 1
  ) AS found`,
  values: ({ ids }) => [ids],
  row: locatedRow,
});

export interface FindCancellableParams {
  readonly channel: string;
  readonly key: string | null;
  readonly name: string | null;
  /** Behind this one only. */
  readonly after: JobId;
  /** Up to this one, `null`: the highest that there is. */
  readonly upTo: JobId | null;
  readonly limit: number;
}

/** Every live job is in one of them, and each has an index that leads to the jobs of a channel, or is small. */
const PARTS = [
  'NOT suspect AND position IS NULL AND held_until IS NULL',
  'position IS NOT NULL',
  'position IS NULL AND suspect',
  'position IS NULL AND NOT suspect AND held_until IS NOT NULL',
];

export interface FoundCancellableRow extends CancellableRow {
  readonly upTo: JobId;
}

/**
 * Live jobs of a channel that nobody has asked to cancel, in the order of their ids. Locks nothing; reads the channel's
 * jobs. `id + 0` keeps the planner from walking the primary key through all channels. Indexes `job_feed`, `job_lane`,
 * `job_suspect`, `job_held`.
 */
export const findCancellable = defineStatement<FindCancellableParams, FoundCancellableRow>({
  name: 'find_cancellable_v1',
  text: (schema) => `
  WITH newest AS MATERIALIZED (
    SELECT coalesce($5::bigint, (SELECT max(id) FROM ${schema}.job), 0) AS id
  )
  SELECT job.id, channel, key, NULL, ordered, (SELECT newest.id FROM newest)
  FROM (${PARTS.map(
    (part) => `
    SELECT id, channel, key, position IS NOT NULL AS ordered
    FROM ${schema}.job
    WHERE channel = $1
      AND ${part}
      AND ($2::text IS NULL OR key = $2)
      AND ($3::text IS NULL OR name = $3)
      AND id + 0 > $4
      AND id + 0 <= (SELECT newest.id FROM newest)
      AND cancel_requested_at IS NULL
      AND ${notReleased}`,
  ).join(`
    UNION ALL`)}
  ) AS job
  ORDER BY job.id
  LIMIT $6`,
  values: (p) => [p.channel, p.key, p.name, p.after, p.upTo, p.limit],
  row: (columns) => ({ ...locatedRow(columns), upTo: columns[5] as JobId }),
});

function locatedRow([id, channel, key, state, ordered]: unknown[]): CancellableRow {
  return {
    id: id as JobId,
    channel: channel as string,
    key: key as string,
    finished: state as JobState | null,
    ordered: ordered as boolean,
  };
}

export interface CancelParams {
  readonly channel: string;
  readonly ids: readonly JobId[];
  readonly reason: string | null;
  /** How long a cancelled job is kept. */
  readonly keepMs: number;
}

/** A job that was cancelled before it ran. */
export interface CancelledJob {
  readonly id: JobId;
  readonly channel: string;
  readonly key: string;
  readonly name: string;
  /** Runs that it had. */
  readonly attempt: number;
  readonly reason: string | null;
}

export interface CancelRow {
  readonly cancelled: readonly CancelledJob[];
  /** They run, and were told to stop. */
  readonly requested: readonly JobId[];
  /** Locked by somebody who is writing about them, or written meanwhile: worth another try. */
  readonly busy: readonly JobId[];
  /** Those of them that ran. */
  readonly busyRunning: readonly JobId[];
}

/**
 * Cancels jobs of a channel: those that no lease names are gone at once, the others are marked, and end cancelled unless
 * they succeed. Right only in a transaction that owns the channel and the suspects (`beginOwningAll`): nothing is claimed
 * between its snapshot and its commit, so what it moves away was handed to nobody. It waits for no row. `repairLanes`,
 * behind it in the same transaction, sees to lanes that have lost their head. The first reason given stays. Indexes
 * `job_pkey`, `lease_feed`, `lane_pkey`.
 */
export const cancelJobs = defineStatement<CancelParams, CancelRow>({
  name: 'cancel_jobs_v2',
  text: (schema) => `
  WITH leased AS MATERIALIZED (
    SELECT held.id, held.run
    FROM ${schema}.lease CROSS JOIN LATERAL unnest(lease.job_ids, lease.runs, lease.keys) AS held (id, run, key)
    WHERE lease.channel = $1
      AND (held.key IS NULL OR EXISTS (
        SELECT FROM ${schema}.lane
        WHERE lane.channel = lease.channel AND lane.key = held.key
          AND lane.runner_id = lease.runner_id AND lane.lease = lease.number
      ))
  ), wanted AS MATERIALIZED (
    SELECT job.id, job.run, (job.id, job.run) IN (SELECT leased.id, leased.run FROM leased) AS running
    FROM unnest($2::bigint[]) AS asked (id)
    CROSS JOIN LATERAL (
      SELECT id, run FROM ${schema}.job WHERE job.id = asked.id AND channel = $1 AND ${notReleased} LIMIT 1
    ) AS job
  ), locked AS MATERIALIZED (
    SELECT wanted.id, wanted.running
    FROM wanted JOIN ${schema}.job ON ${lookUp('job.id', 'wanted.id')} AND job.run = wanted.run
    FOR UPDATE OF job SKIP LOCKED
  ), gone AS (
    DELETE FROM ${schema}.job USING locked WHERE ${lookUp('job.id', 'locked.id')} AND NOT locked.running RETURNING job.*
  ), cancelled AS (
    INSERT INTO ${schema}.finished_job (
      id, run, state, attempt, max_attempts, priority, due_at, created_at, delete_at, policy_id, position, seq,
      channel, key, name, payload, payload_bytes, metadata, backoff, reason, last_error, idempotency_key, idempotency_hash
    )
    SELECT
      id, run, 'cancelled', attempt, max_attempts, priority, due_at, created_at,
      clock_timestamp() + $4::bigint * interval '1 millisecond', policy_id, position, seq,
      channel, key, name, payload, payload_bytes, metadata, backoff, coalesce(cancel_reason, $3::text), last_error, idempotency_key, idempotency_hash
    FROM gone
    RETURNING id, channel, key, name, attempt, reason
  ), requested AS (
    UPDATE ${schema}.job
    SET
      cancel_reason = CASE WHEN cancel_requested_at IS NULL THEN $3::text ELSE cancel_reason END,
      cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
    FROM locked
    WHERE ${lookUp('job.id', 'locked.id')} AND locked.running
    RETURNING job.id
  ), busy AS (
    SELECT id, running FROM wanted WHERE id NOT IN (SELECT id FROM locked)
  )
  SELECT
    (SELECT json_agg(json_build_array(id::text, channel, key, name, attempt, reason)) FROM cancelled),
    (SELECT json_agg(id::text) FROM requested),
    (SELECT json_agg(id::text) FROM busy),
    (SELECT json_agg(id::text) FROM busy WHERE running)`,
  values: ({ channel, ids, reason, keepMs }) => [channel, ids, reason, keepMs],
  row: ([cancelled, requested, busy, busyRunning]) => ({
    cancelled: ((cancelled as [string, string, string, string, number, string | null][] | null) ?? []).map(
      ([id, channel, key, name, attempt, reason]) => ({ id, channel, key, name, attempt, reason }),
    ),
    requested: (requested as JobId[] | null) ?? [],
    busy: (busy as JobId[] | null) ?? [],
    busyRunning: (busyRunning as JobId[] | null) ?? [],
  }),
});

/** A running job that is to stop, as a heartbeat tells of it. */
export interface CancelRequest extends LaneName {
  readonly id: JobId;
  readonly reason: string | null;
  /** No lease names it any more: it is to be cancelled by whoever hears of it. */
  readonly free: boolean;
}

/** Requests that one heartbeat tells of at most. */
const REQUESTS_PER_BEAT = 1_000;

/** All such jobs, the longest asked first. By the order of the index, so that no statistics make it read all jobs. Index `job_cancel`. */
export const cancelRequests = (schema: string): string => `
    SELECT json_agg(json_build_array(job.id::text, job.channel, job.key, job.cancel_reason, NOT EXISTS (
      SELECT
      FROM ${schema}.lease
      WHERE lease.channel = job.channel
        AND lease.runs[array_position(lease.job_ids, job.id)] = job.run
        AND (lease.keys IS NULL OR EXISTS (
          SELECT FROM ${schema}.lane
          WHERE lane.channel = job.channel AND lane.key = job.key
            AND lane.runner_id = lease.runner_id AND lane.lease = lease.number
        ))
    )))
    FROM (
      SELECT id, run, channel, key, cancel_reason
      FROM ${schema}.job
      WHERE cancel_requested_at IS NOT NULL
      ORDER BY cancel_requested_at
      LIMIT ${REQUESTS_PER_BEAT}
    ) AS job`;

export const cancelRequestsOf = (rows: unknown): CancelRequest[] =>
  ((rows as [string, string, string, string | null, boolean][] | null) ?? []).map(
    ([id, channel, key, reason, free]) => ({ id, channel, key, reason, free }),
  );
