import type { JobId } from '../job/job.js';
import { allOrError } from './complete-jobs.js';
import { ASKED, locking, unsureColumn, type Cancelled, type Cancelling, type Unsure } from './held-runs.js';
import { KEEP_CANCELLED_MS } from './job-columns.js';
import { lookUp } from './look-up.js';
import { fenceColumns, heldLeases, type Fenced } from './run-fence.js';
import { defineStatement } from './statement.js';

export interface FinishedRow {
  readonly id: JobId;
  readonly cancelled: Cancelled | null;
}

export interface FinishEntry extends Unsure {
  readonly state: 'completed' | 'dead';
  readonly attempt: number;
  readonly reason: string | null;
  readonly error: string | null;
  /** JSON text. */
  readonly result: string | null;
  /** Number in its lane. */
  readonly seq: number | null;
  /** How long the finished job is kept, `null`: for ever. */
  readonly keepMs: number | null;
}

/** Moves runs to the finished jobs. What stands `before` the INSERT makes a part of another statement of it. */
const finishing = (schema: string, before = ''): string => `
  WITH ${heldLeases(schema)}, done AS (
    SELECT *
    FROM unnest($2::bigint[], $3::integer[], $4::integer[], $5::text[], $6::integer[], $7::text[], $8::text[], $9::json[], $10::bigint[], $11::bigint[], $13::boolean[])
      AS done (id, run, lease, state, attempt, reason, error, result, keep_ms, given_seq, unsure)
  ), ${locking(schema, 'done.*')}, gone AS (
    DELETE FROM ${schema}.job USING held WHERE ${lookUp('job.id', 'held.id')}
    RETURNING job.*, held.attempt AS attempts, held.error, held.result, held.given_seq,
      CASE WHEN ${ASKED} AND held.state = 'dead' THEN 'cancelled' ELSE held.state END AS state,
      CASE WHEN ${ASKED} AND held.state = 'dead' THEN cancel_reason ELSE held.reason END AS reason,
      CASE WHEN ${ASKED} AND held.state = 'dead' THEN $12::bigint ELSE held.keep_ms END AS keep_ms
  )${before}
  INSERT INTO ${schema}.finished_job (
    id, run, state, attempt, max_attempts, priority, due_at, created_at, delete_at, policy_id, position, seq,
    channel, key, name, payload, payload_bytes, metadata, backoff, reason, last_error, result, idempotency_key, idempotency_hash
  )
  SELECT
    id, run, state, attempts, max_attempts, priority, due_at, created_at,
    clock_timestamp() + keep_ms * interval '1 millisecond', policy_id, position, given_seq,
    channel, key, name, payload, payload_bytes, metadata, backoff, reason, coalesce(error, last_error), result, idempotency_key, idempotency_hash
  FROM gone
  RETURNING id, state, reason`;

const finishValues = ({
  runner,
  entries,
  keepCancelledMs = KEEP_CANCELLED_MS,
}: Fenced<FinishEntry> & Cancelling): unknown[] => [
  runner,
  ...fenceColumns(entries),
  entries.map((entry) => entry.state),
  entries.map((entry) => entry.attempt),
  entries.map((entry) => entry.reason),
  entries.map((entry) => entry.error),
  entries.map((entry) => entry.result),
  entries.map((entry) => entry.keepMs),
  entries.map((entry) => entry.seq),
  keepCancelledMs,
  unsureColumn(entries),
];

/**
 * Ends runs of jobs that are kept: completed ones with retention, and dead ones. One that would be dead and was asked to be
 * cancelled is cancelled. Index `job_pkey`.
 */
export const finishJobs = defineStatement<Fenced<FinishEntry> & Cancelling, FinishedRow>({
  name: 'finish_jobs_v6',
  text: (schema) => finishing(schema),
  values: finishValues,
  row: ([id, state, reason]) => ({
    id: id as JobId,
    cancelled: state === 'cancelled' ? { reason: reason as string | null } : null,
  }),
});

/** The same as the last statement of the runs' own transaction, all of them or with an error. Indexes `job_pkey`, `lease_pkey`. */
export const finishAllJobs = defineStatement<Fenced<FinishEntry>, true>({
  name: 'finish_all_jobs_v3',
  text: (schema) => `${finishing(schema, `, finished AS (`)}
  )
  ${allOrError('finished')}`,
  values: finishValues,
  row: () => true,
});
