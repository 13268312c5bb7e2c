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
  name: 'get_job_v3',
  text: (schema) => `
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
  WHERE job.id = $1 AND ${notReleased}
  UNION ALL
  SELECT id, state, channel, key, name, priority, attempt, max_attempts, payload, payload_bytes, metadata, created_at, due_at,
    finished_at, last_error, reason, result, false, NULL, seq, percent, message, updated_at, false
  FROM ${schema}.finished_job
  LEFT JOIN ${schema}.job_progress ON job_progress.job_id = finished_job.id
  WHERE id = $1`,
  values: ({ id }) => [id],
  row: (columns) => ({
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
  }),
});

/** What stands in one channel. */
export interface ChannelStats {
  /** Name of the channel. */
  readonly channel: string;
  /** Nothing is claimed from it. */
  readonly paused: boolean;
  /** Waiting for their first run, due in the future. */
  readonly scheduled: number;
  /** Due and free. */
  readonly ready: number;
  /** Waiting for a further run. */
  readonly retrying: number;
  /** Spawned with `hold` and not yet committed. */
  readonly held: number;
  /** Leased by a runner. */
  readonly running: number;
  /** Kept because they will not run again by themselves. */
  readonly dead: number;
  /** How long the longest due free job has been due, `null` when there is none. */
  readonly oldestReadyMs: number | null;
  /** Names of waiting jobs that no handler of this application has: nobody will run them here. */
  readonly unknownNames: readonly string[];
}

const waiting = 'leased.id IS NULL AND held_until IS NULL';

/**
 * Counts the jobs of every channel. Reads all live jobs: a statement for people and tests, not for a loop.
 */
export const countChannels = defineStatement<{ names: readonly string[] }, ChannelStats>({
  name: 'count_channels_v2',
  text: (schema) => `
  WITH leased AS (
    SELECT held.id, held.run
    FROM ${schema}.lease CROSS JOIN LATERAL unnest(lease.job_ids, lease.runs, lease.keys) AS held (id, run, key)
    WHERE held.key IS NULL OR EXISTS (
      SELECT FROM ${schema}.lane
      WHERE lane.channel = lease.channel AND lane.key = held.key AND lane.runner_id = lease.runner_id AND lane.lease = lease.number
    )
  ), live AS (
    SELECT job.channel,
      count(*) FILTER (WHERE leased.id IS NOT NULL) AS running,
      count(*) FILTER (WHERE held_until IS NOT NULL) AS held,
      count(*) FILTER (WHERE ${waiting} AND attempt > 0) AS retrying,
      count(*) FILTER (WHERE ${waiting} AND attempt = 0 AND due_at > statement_timestamp()) AS scheduled,
      count(*) FILTER (WHERE ${waiting} AND attempt = 0 AND due_at <= statement_timestamp()) AS ready,
      min(due_at) FILTER (WHERE ${waiting} AND due_at <= statement_timestamp()) AS oldest,
      array_agg(DISTINCT name) FILTER (WHERE ${waiting} AND name <> ALL ($1::text[])) AS unknown
    FROM ${schema}.job LEFT JOIN leased ON leased.id = job.id AND leased.run = job.run
    WHERE ${notReleased}
    GROUP BY job.channel
  ), finished AS (
    SELECT channel, count(*) AS dead FROM ${schema}.finished_job WHERE state = 'dead' GROUP BY channel
  )
  SELECT channel, paused_channel.channel IS NOT NULL, coalesce(scheduled, 0), coalesce(ready, 0), coalesce(held, 0),
    coalesce(retrying, 0), coalesce(running, 0), coalesce(dead, 0), date_part('epoch', statement_timestamp() - oldest) * 1000, to_json(unknown)
  FROM live
  FULL JOIN finished USING (channel)
  FULL JOIN ${schema}.paused_channel USING (channel)
  ORDER BY channel`,
  values: ({ names }) => [names],
  row: ([channel, paused, scheduled, ready, held, retrying, running, dead, oldest, unknown]) => ({
    channel: channel as string,
    paused: paused as boolean,
    scheduled: Number(scheduled),
    ready: Number(ready),
    held: Number(held),
    retrying: Number(retrying),
    running: Number(running),
    dead: Number(dead),
    oldestReadyMs: oldest === null ? null : Number(oldest),
    unknownNames: (unknown as string[] | null) ?? [],
  }),
});
