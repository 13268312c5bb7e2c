import type { JobId } from '../job/job.js';
import { KEEP_CANCELLED_MS } from './job-columns.js';
import { defineStatement, listOf } from './statement.js';
import { wakeUpMessage } from './wake-up.js';

/** What identifies a run: the fence of every write about it. */
export interface RunFence {
  readonly id: JobId;
  readonly run: number;
  readonly lease: number;
}

interface Fenced<Entry> {
  readonly runner: string;
  readonly entries: readonly (RunFence & Entry)[];
}

/** The ids of the jobs that were still this runner's, and are written. */
export type TakenRow = JobId;

const fenceColumns = (entries: readonly RunFence[]): unknown[] => [
  listOf(entries.map((entry) => entry.id)),
  listOf(entries.map((entry) => entry.run)),
  listOf(entries.map((entry) => entry.lease)),
];

/**
 * The fence: the job has the run's stamp and the lease is there. Both are needed. The lease alone would let a statement
 * that waited for a rescuer delete what another runner has by now, since a waiting statement reads only the row it
 * waited for again; that row's stamp has changed then.
 *
 * The leases are read by their numbers and apart: joined, a plan made while the table was small walks every dead lease
 * of the runner.
 */
const heldLeases = (schema: string): string => `held_lease AS MATERIALIZED (
    SELECT number FROM ${schema}.lease WHERE runner_id = $1 AND number = ANY ($4::integer[])
  )`;

/** Somebody has called `queue.cancel` for the job. */
const ASKED = 'job.cancel_requested_at IS NOT NULL';

const fence = `job.id = done.id
      AND job.run = done.run
      AND EXISTS (SELECT FROM held_lease WHERE held_lease.number = done.lease)`;

/**
 * Completes runs of jobs that are not kept, and drops the leases of which nothing is left. Answers the ids as one text,
 * a job left out was someone else's to finish. Locks job rows only, so that a completion inside a long transaction
 * holds up nothing but its own job. Sent twice, it does nothing twice. Indexes `job_pkey`, `lease_pkey`.
 */
export const completeJobs = defineStatement<
  Fenced<unknown> & { endedLeases: readonly number[] },
  readonly TakenRow[] | 'all'
>({
  name: 'complete_jobs_v1',
  text: (schema) => `
  WITH ${heldLeases(schema)}, completed AS (
    DELETE FROM ${schema}.job
    USING unnest($2::bigint[], $3::integer[], $4::integer[]) AS done (id, run, lease)
    WHERE ${fence}
    RETURNING job.id
  ), ended AS (
    DELETE FROM ${schema}.lease WHERE runner_id = $1 AND number = ANY($5::integer[])
  )
  SELECT count(*), CASE WHEN count(*) < cardinality($2::bigint[]) THEN string_agg(id::text, ',') END FROM completed`,
  values: ({ runner, entries, endedLeases }) => [runner, ...fenceColumns(entries), endedLeases],
  row: ([count, ids], { entries }) =>
    Number(count) === entries.length ? 'all' : typeof ids === 'string' ? ids.split(',') : [],
});

/** How a run was ended instead, where its job was asked to be cancelled. */
export interface Cancelled {
  /** What was given as the reason. */
  readonly reason: string | null;
}

interface Cancelling {
  /** How long a cancelled job is kept, 7 days by default. */
  readonly keepCancelledMs?: number;
}

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

interface Unsure {
  /** Its handler may have left a transaction open that completes it: passed by while its row is locked. */
  readonly unsure?: boolean;
}

/**
 * Locks the jobs of `done`, as `held`. Whoever has one locked, a cancel or a rescuer, is done in a moment, and is waited for. Of
 * an `unsure` run it may be the handler's own transaction, whose end nobody knows.
 */
const locking = (schema: string, columns: string): string => `waited AS MATERIALIZED (
    SELECT ${columns} FROM ${schema}.job, done WHERE ${fence} AND NOT done.unsure FOR UPDATE OF job
  ), free AS MATERIALIZED (
    SELECT ${columns} FROM ${schema}.job, done WHERE ${fence} AND done.unsure FOR UPDATE OF job SKIP LOCKED
  ), held AS MATERIALIZED (
    SELECT * FROM waited UNION ALL SELECT * FROM free
  )`;

const unsureColumn = (entries: readonly Unsure[]): boolean[] => entries.map(({ unsure }) => unsure === true);

/** Moves runs to the finished jobs. What stands `before` the INSERT makes a part of another statement of it. */
const finishing = (schema: string, before = ''): string => `
  WITH ${heldLeases(schema)}, done AS (
    SELECT *
    FROM unnest($2::bigint[], $3::integer[], $4::integer[], $5::text[], $6::integer[], $7::text[], $8::text[], $9::json[], $10::bigint[], $11::bigint[], $13::boolean[])
      AS done (id, run, lease, state, attempt, reason, error, result, keep_ms, given_seq, unsure)
  ), ${locking(schema, 'done.*')}, gone AS (
    DELETE FROM ${schema}.job USING held WHERE job.id = held.id
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
  name: 'finish_jobs_v5',
  text: (schema) => finishing(schema),
  values: finishValues,
  row: ([id, state, reason]) => ({
    id: id as JobId,
    cancelled: state === 'cancelled' ? { reason: reason as string | null } : null,
  }),
});

/** A division by zero unless all are taken: the COMMIT that is sent behind it without waiting is refused then. */
const allOrError = (taken: string): string =>
  `SELECT 1 / (count(*) = cardinality($2::bigint[]))::integer FROM ${taken}`;

/**
 * Completes runs of jobs that are not kept, all of them or with an error (division by zero), as the last statement of the
 * runs' own transaction. Locks job rows only. Indexes `job_pkey`, `lease_pkey`.
 */
export const completeAllJobs = defineStatement<Fenced<unknown>, true>({
  name: 'complete_all_jobs_v1',
  text: (schema) => `
  WITH ${heldLeases(schema)}, completed AS (
    DELETE FROM ${schema}.job
    USING unnest($2::bigint[], $3::integer[], $4::integer[]) AS done (id, run, lease)
    WHERE ${fence}
    RETURNING job.id
  )
  ${allOrError('completed')}`,
  values: ({ runner, entries }) => [runner, ...fenceColumns(entries)],
  row: () => true,
});

/** The same for one job, at less than half the cost. Indexes `job_pkey`, `lease_pkey`. */
export const completeOneJob = defineStatement<{ runner: string; fence: RunFence }, true>({
  name: 'complete_one_job_v1',
  text: (schema) => `
  WITH completed AS (
    DELETE FROM ${schema}.job
    WHERE id = $2::bigint
      AND run = $3::integer
      AND EXISTS (SELECT FROM ${schema}.lease WHERE runner_id = $1::bigint AND number = $4::integer)
    RETURNING id
  )
  SELECT 1 / count(*) FROM completed`,
  values: ({ runner, fence: { id, run, lease } }) => [runner, id, run, lease],
  row: () => true,
});

/** The same for jobs that are kept. Indexes `job_pkey`, `lease_pkey`. */
export const finishAllJobs = defineStatement<Fenced<FinishEntry>, true>({
  name: 'finish_all_jobs_v2',
  text: (schema) => `${finishing(schema, `, finished AS (`)}
  )
  ${allOrError('finished')}`,
  values: finishValues,
  row: () => true,
});

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
  name: 'requeue_jobs_v4',
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
    WHERE job.id = held.id AND NOT held.asked
    RETURNING job.id, job.due_at, job.priority, job.channel, job.key, job.name, job.position IS NOT NULL AS ordered
  ), cancelled AS (
    DELETE FROM ${schema}.job USING held WHERE job.id = held.id AND held.asked
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
  SELECT id, ${wakeUpMessage}, NULL FROM requeued
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

export interface UnsettledRow {
  readonly id: JobId;
  /** `false`: it was put back or given up by a rescuer. */
  readonly mine: boolean;
}

/**
 * Which of these runs are still unsettled, and which are somebody else's, without waiting for whoever has locked them.
 * What is left out was completed. Indexes `job_pkey`, `finished_job_pkey`.
 */
export const findUnsettled = defineStatement<Fenced<unknown>, UnsettledRow>({
  name: 'find_unsettled_v3',
  text: (schema) => `
  WITH ${heldLeases(schema)}, done AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::integer[], $4::integer[]) AS done (id, run, lease)
  )
  SELECT job.id, ${fence}
  FROM done JOIN ${schema}.job ON job.id = done.id
  UNION ALL
  SELECT finished_job.id, false
  FROM done JOIN ${schema}.finished_job ON finished_job.id = done.id
  WHERE finished_job.state <> 'completed'`,
  values: ({ runner, entries }) => [runner, ...fenceColumns(entries)],
  row: ([id, mine]) => ({ id: id as JobId, mine: mine as boolean }),
});

/** Drops leases of which every job has been settled. Index `lease_pkey`. */
export const endLeases = defineStatement<{ runner: string; leases: readonly number[] }, never>({
  name: 'end_leases_v1',
  text: (schema) => `DELETE FROM ${schema}.lease WHERE runner_id = $1 AND number = ANY($2::integer[])`,
  values: ({ runner, leases }) => [runner, leases],
  row: () => {
    throw new Error('end_leases answers no rows');
  },
});
