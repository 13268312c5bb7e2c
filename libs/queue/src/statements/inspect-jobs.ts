import type { JobId, JobProgress, JobState, Json } from '../job/job.js';
import { notReleased } from './job-columns.js';
import { defineStatement } from './statement.js';

/** A job as it is read: live or finished. */
export interface JobRecord {
  /** Id of the job. */
  readonly id: JobId;
  /** Where it stands. */
  readonly state: JobState;
  /** Its channel. */
  readonly channel: string;
  /** Its key, `''` when it has none. */
  readonly key: string;
  /** Which handler runs it. */
  readonly name: string;
  /** Smaller ones run first within the channel. */
  readonly priority: number;
  /** Runs that have begun, as far as the database knows. */
  readonly attempts: number;
  /** `Infinity`: retried for ever. */
  readonly maxAttempts: number;
  /** What was spawned, `null` when nothing was given. */
  readonly payload: unknown;
  /** The binary payload. */
  readonly bytes: Buffer | null;
  /** What the spawner attached. */
  readonly metadata: { readonly [field: string]: Json | undefined };
  /** When it was spawned. */
  readonly createdAt: Date;
  /** When it is, or was last, due. */
  readonly dueAt: Date;
  /** When it ended, `null` while it is live. */
  readonly finishedAt: Date | null;
  /** Text of the last error, at most 8 KiB. */
  readonly lastError: string | null;
  /** Why it is dead, or was cancelled. */
  readonly reason: string | null;
  /** It runs, and was told to stop: unless it succeeds it ends cancelled. */
  readonly cancelRequested: boolean;
  /** What the handler returned, where `retention` keeps it. */
  readonly result: unknown;
  /** Its last lease was lost, and it will run as the only suspect of a process. */
  readonly suspect: boolean;
  /** The runner that has it, `null` unless it is running. */
  readonly runner: string | null;
  /** How far its last run to tell of it has come, `null` when none did. */
  readonly progress: JobProgress | null;
  /** Of an ordered job: its number in the lane, `null` before its first run has ended. */
  readonly seq: number | null;
}

/**
 * One job, live or finished. Running is what a lease names, and of a lane its head; its run counts when the database
 * knows of the start. A hold that has ended is shown until a runner removes it. Indexes `job_pkey`,
 * `finished_job_pkey`, `job_lane`, `job_progress_pkey`.
 */
export const getJob = defineStatement<{ id: JobId }, JobRecord>({
  name: 'get_job_v4',
  text: (schema) => records(schema, '= $1'),
  values: ({ id }) => [id],
  row: recordOf,
});

/** The same for a page of them, in no order. */
export const getJobs = defineStatement<{ ids: readonly JobId[] }, JobRecord>({
  name: 'get_jobs_v1',
  text: (schema) => records(schema, '= ANY ($1::bigint[])'),
  values: ({ ids }) => [ids],
  row: recordOf,
});

const records = (schema: string, wanted: string): string => `
  SELECT job.id,
    CASE WHEN held_until IS NOT NULL THEN 'held' WHEN leased.runner_id IS NULL THEN 'waiting' ELSE 'running' END,
    channel, key, name, priority,
    job.attempt + coalesce(leased.begun, false)::integer, max_attempts, payload, payload_bytes, metadata, created_at, due_at,
    NULL::timestamptz, last_error, NULL::text, NULL::json, suspect, leased.runner_id, seq, percent, message, updated_at,
    cancel_requested_at IS NOT NULL
  FROM ${schema}.job
  LEFT JOIN ${schema}.job_progress ON job_progress.job_id = job.id
  LEFT JOIN LATERAL (
    SELECT lease.runner_id,
      array_position(lease.job_ids, job.id) <= lease.started OR job.id = ANY (coalesce(runner.running, '{}')) AS begun
    FROM ${schema}.lease
    LEFT JOIN ${schema}.runner ON runner.id = lease.runner_id
    WHERE lease.runs[array_position(lease.job_ids, job.id)] = job.run
      AND (job.position IS NULL OR job.id = (
        SELECT head.id
        FROM ${schema}.lane
        JOIN ${schema}.job AS head ON head.channel = lane.channel AND head.key = lane.key AND head.position IS NOT NULL
        WHERE lane.channel = job.channel AND lane.key = job.key
          AND lane.runner_id = lease.runner_id AND lane.lease = lease.number AND head.id = ANY (lease.job_ids)
        ORDER BY head.seq, head.position
        LIMIT 1
      ))
    LIMIT 1
  ) AS leased ON true
  WHERE job.id ${wanted} AND ${notReleased}
  UNION ALL
  SELECT finished_job.id, state, channel, key, name, priority, attempt, max_attempts, payload, payload_bytes, metadata, created_at, due_at,
    finished_at, last_error, reason, result, false, NULL, seq, percent, message, updated_at, false
  FROM ${schema}.finished_job
  LEFT JOIN ${schema}.job_progress ON job_progress.job_id = finished_job.id
  WHERE finished_job.id ${wanted}`;

function recordOf(columns: unknown[]): JobRecord {
  return {
    id: columns[0] as JobId,
    state: columns[1] as JobState,
    channel: columns[2] as string,
    key: columns[3] as string,
    name: columns[4] as string,
    priority: columns[5] as number,
    attempts: columns[6] as number,
    maxAttempts: (columns[7] as number | null) ?? Infinity,
    payload: columns[8],
    bytes: columns[9] as Buffer | null,
    metadata: (columns[10] as JobRecord['metadata'] | null) ?? {},
    createdAt: columns[11] as Date,
    dueAt: columns[12] as Date,
    finishedAt: columns[13] as Date | null,
    lastError: columns[14] as string | null,
    reason: columns[15] as string | null,
    result: columns[16],
    suspect: columns[17] as boolean,
    runner: columns[18] as string | null,
    cancelRequested: columns[23] as boolean,
    seq: columns[19] === null ? null : Number(columns[19]),
    progress:
      columns[22] === null
        ? null
        : {
            percent: columns[20] as number | null,
            message: columns[21] as string | null,
            updatedAt: columns[22] as Date,
          },
  };
}
