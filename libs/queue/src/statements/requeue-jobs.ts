import type { JobId } from '../job/job.js';
import { ASKED, locking, unsureColumn, type Cancelled, type Cancelling, type Unsure } from './held-runs.js';
import { KEEP_CANCELLED_MS } from './job-columns.js';
import { lookUp } from './look-up.js';
import { fenceColumns, heldLeases, type Fenced } from './run-fence.js';
import { defineStatement } from './statement.js';
import { wakeUpMessage } from './wake-up.js';

export interface RequeueEntry extends Unsure {
  /** Runs that have counted: the one that ended, or one less when it does not count. */
  readonly attempt: number;
  /** `null`: at its old place. */
  readonly delayMs: number | null;
  readonly error: string | null;
  /** Number in its lane, kept for the next run. */
  readonly seq: number | null;
}

export interface RequeuedRow {
  readonly id: JobId;
  readonly dueMicros: number;
  /** What to wake runners with, where the job returned to an old place. */
  readonly message: string;
  /** It will not run again. */
  readonly cancelled: Cancelled | null;
}

/**
 * Ends runs of jobs that will run again: retries, snoozes, releases. Raises the stamp, so that nothing that carries the
 * old one can be written any more. A run that came to its end clears its job of suspicion, a release does not. A job that was asked to
 * be cancelled is cancelled instead. Index `job_pkey`.
 */
export const requeueJobs = defineStatement<Fenced<RequeueEntry> & Cancelling, RequeuedRow>({
  name: 'requeue_jobs_v5',
  text: (schema) => `
  WITH ${heldLeases(schema)}, done AS (
    SELECT *
    FROM unnest($2::bigint[], $3::integer[], $4::integer[], $5::integer[], $6::bigint[], $7::text[], $8::bigint[], $10::boolean[])
      AS done (id, run, lease, attempt, delay_ms, error, given_seq, unsure)
  ), ${locking(schema, `done.*, ${ASKED} AS asked`)}, requeued AS (
    UPDATE ${schema}.job
    SET
      run = job.run + 1,
      attempt = held.attempt,
      due_at = CASE WHEN held.delay_ms IS NULL THEN job.due_at ELSE clock_timestamp() + held.delay_ms * interval '1 millisecond' END,
      suspect = job.suspect AND held.delay_ms IS NULL,
      lease_ends_at = NULL,
      last_error = coalesce(held.error, job.last_error),
      seq = held.given_seq
    FROM held
    WHERE ${lookUp('job.id', 'held.id')} AND NOT held.asked
    RETURNING job.id, job.due_at, job.priority, job.channel, job.key, job.name, job.position IS NOT NULL AS ordered
  ), cancelled AS (
    DELETE FROM ${schema}.job USING held WHERE ${lookUp('job.id', 'held.id')} AND held.asked
    RETURNING job.*, held.attempt AS attempts, held.error, held.given_seq
  ), kept AS (
    INSERT INTO ${schema}.finished_job (
      id, run, state, attempt, max_attempts, priority, due_at, created_at, delete_at, policy_id, position, seq,
      channel, key, name, payload, payload_bytes, metadata, backoff, reason, last_error, idempotency_key, idempotency_hash
    )
    SELECT
      id, run, 'cancelled', attempts, max_attempts, priority, due_at, created_at,
      clock_timestamp() + $9::bigint * interval '1 millisecond', policy_id, position, given_seq,
      channel, key, name, payload, payload_bytes, metadata, backoff, cancel_reason, coalesce(error, last_error), idempotency_key, idempotency_hash
    FROM cancelled
    RETURNING id, reason
  )
  SELECT id, ${wakeUpMessage()}, NULL FROM requeued
  UNION ALL
  SELECT id, NULL, reason FROM kept`,
  values: ({ runner, entries, keepCancelledMs = KEEP_CANCELLED_MS }) => [
    runner,
    ...fenceColumns(entries),
    entries.map((entry) => entry.attempt),
    entries.map((entry) => entry.delayMs),
    entries.map((entry) => entry.error),
    entries.map((entry) => entry.seq),
    keepCancelledMs,
    unsureColumn(entries),
  ],
  row: ([id, message, reason]) => ({
    id: id as JobId,
    dueMicros: message === null ? 0 : (JSON.parse(message as string) as [number])[0],
    message: (message as string | null) ?? '',
    cancelled: message === null ? { reason: reason as string | null } : null,
  }),
});
