import type { ClaimedJob } from '../job/job.js';
import { answeredColumns, claimedJob, jobColumns } from './claim-jobs.js';
import { isFree, lastSeqOf } from './lanes.js';
import { defineStatement } from './statement.js';
import { unleased } from './unleased.js';

export interface ClaimSuspectParams {
  readonly runner: string;
  readonly lease: number;
  readonly names: readonly string[];
  /** `null`: every channel. */
  readonly channels: readonly string[] | null;
}

/**
 * Leases one job whose last lease was lost, its start recorded. Right only in a transaction that owns the suspects
 * (`beginOwningSuspects`); ordinary claims pass suspects by. An ordered one is taken when it is the head of a lane
 * without an owner, and its lane with it. Durable, so that the count of starts is exact. Indexes `job_suspect`,
 * `job_lane`, `lane_pkey`.
 */
export const claimSuspect = defineStatement<ClaimSuspectParams, ClaimedJob>({
  name: 'claim_suspect_v6',
  jsonAsText: true,
  text: (schema) => `
  WITH candidate AS MATERIALIZED (
    SELECT ${jobColumns.join(', ')}, channel, priority, position, seq
    FROM ${schema}.job
    WHERE suspect
      AND due_at <= statement_timestamp()
      AND name = ANY($3::text[])
      AND ($4::text[] IS NULL OR channel = ANY($4::text[]))
      AND ${unleased(schema)}
      AND NOT EXISTS (SELECT FROM ${schema}.paused_channel WHERE paused_channel.channel = job.channel)
      AND (position IS NULL OR (
        id = (
          SELECT head.id
          FROM ${schema}.job AS head
          WHERE head.channel = job.channel AND head.key = job.key AND head.position IS NOT NULL
          ORDER BY head.seq, head.position
          LIMIT 1
        )
        AND NOT EXISTS (
          SELECT FROM ${schema}.lane
          WHERE lane.channel = job.channel AND lane.key = job.key AND (lane.blocked_by IS NOT NULL OR NOT ${isFree(schema)})
        )
      ))
    ORDER BY due_at, id
    LIMIT 1
  ), gone AS MATERIALIZED (
    SELECT lane.runner_id, lane.lease
    FROM candidate CROSS JOIN LATERAL (
      SELECT * FROM ${schema}.lane WHERE lane.channel = candidate.channel AND lane.key = candidate.key LIMIT 1
    ) AS lane
    WHERE candidate.position IS NOT NULL AND lane.runner_id IS NOT NULL
  ), owned AS (
    INSERT INTO ${schema}.lane AS lane (channel, key, last_seq, runner_id, lease, priority, name)
    SELECT channel, key, coalesce(seq - 1, 0), $1, $2, priority, name FROM candidate WHERE position IS NOT NULL
    ON CONFLICT (channel, key) DO UPDATE
    SET last_seq = ${lastSeqOf('lane')}, leased_seq = NULL, used_at = clock_timestamp(), runner_id = excluded.runner_id, lease = excluded.lease,
      priority = excluded.priority, name = excluded.name, ready_at = NULL, head_position = NULL
    WHERE lane.blocked_by IS NULL AND (lane.runner_id IS NULL OR (lane.runner_id, lane.lease) IN (SELECT runner_id, lease FROM gone))
    RETURNING lane.last_seq
  ), free AS MATERIALIZED (
    SELECT candidate.*, CASE WHEN position IS NOT NULL THEN coalesce(seq, owned.last_seq + 1) END AS given_seq
    FROM candidate LEFT JOIN owned ON true
    WHERE position IS NULL OR owned.last_seq IS NOT NULL
  ), leased AS (
    INSERT INTO ${schema}.lease (runner_id, number, channel, priority, job_ids, runs, keys, seqs, started, hi_due_at, hi_id)
    SELECT $1, $2, channel, priority, ARRAY[id], ARRAY[run], CASE WHEN position IS NOT NULL THEN ARRAY[key] END,
      CASE WHEN position IS NOT NULL THEN ARRAY[given_seq] END, 1, due_at, id
    FROM free
  )
  SELECT ${answeredColumns.join(', ')}, channel, priority, given_seq FROM free AS job`,
  values: (p) => [p.runner, p.lease, p.names, p.channels],
  row: (columns, { runner, lease }) =>
    claimedJob(
      columns,
      { runner, lease, channel: columns[13] as string, priority: columns[14] as number },
      { suspect: true, closesLane: false, seq: columns[15] === null ? null : Number(columns[15]) },
    ),
});
