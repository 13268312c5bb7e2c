import { keepSpentJobs, rescueValues, type RescueParams } from './keep-spent-jobs.js';
import { laneHead } from './lanes.js';
import { lookUp } from './look-up.js';
import { defineStatement } from './statement.js';
import { laneMessage } from './wake-up.js';

export interface ExpiredRow {
  /** What became of a job, or that its lane goes on. */
  readonly outcome: 'waiting' | 'dead' | 'cancelled' | 'lane';
  /** What to wake runners with about a lane; `null` when it is empty, waits for a suspect or is blocked. */
  readonly message: string | null;
}

/** Runs that one statement ends at most. */
export const RUNS_PER_RESCUE = 500;

/**
 * Ends runs whose lease had an end of its own that has passed, whether their process lives or not. The run has started,
 * so it is charged: the job is cancelled when that was asked for, dead when it was the last, else it comes back at once as a suspect, under a new stamp by
 * which whatever the old run still writes is refused. The lease itself stays with its runner, who settles its others.
 *
 * The lane of an ordered job is given back with it. The ends of the jobs before it are written, since no lease is given
 * an end before that; those behind it have not started. So the job itself is its head again, or, when it is dead, the
 * next one, which is looked for in a snapshot that still has the dead one.
 *
 * Locked rows are passed by: a job that its handler's transaction completes or checkpoints is looked at again when that
 * has ended. Safe with several rescuers at once. Indexes `job_lease_end`, `lane_pkey`, `lease_pkey`, `job_lane`.
 */
export const rescueExpired = defineStatement<RescueParams, ExpiredRow>({
  name: 'rescue_expired_v4',
  text: (schema) => `
  WITH expired AS MATERIALIZED (
    SELECT id, run, position, seq, channel, key, name, priority, policy_id, attempt + 1 AS attempt,
      cancel_requested_at IS NOT NULL AS asked,
      cancel_requested_at IS NOT NULL OR attempt + 1 >= coalesce(max_attempts, 2147483647) AS spent
    FROM ${schema}.job
    WHERE lease_ends_at <= statement_timestamp()
    ORDER BY lease_ends_at
    LIMIT ${RUNS_PER_RESCUE}
    FOR UPDATE SKIP LOCKED
  ), owned AS MATERIALIZED (
    SELECT expired.*, lane.runner_id, lane.lease, lease.seqs[array_position(lease.job_ids, expired.id)] AS given_seq,
      CASE WHEN expired.spent AND NOT expired.asked AND handler_policy.on_dead = 'block' THEN expired.id END AS blocker
    FROM expired
    JOIN ${schema}.lane ON lane.channel = expired.channel AND lane.key = expired.key
    JOIN ${schema}.lease ON lease.runner_id = lane.runner_id AND lease.number = lane.lease
      AND lease.runs[array_position(lease.job_ids, expired.id)] = expired.run
    LEFT JOIN ${schema}.handler_policy ON handler_policy.id = expired.policy_id
    WHERE expired.position IS NOT NULL
  ), dead AS (
    DELETE FROM ${schema}.job USING expired LEFT JOIN owned ON owned.id = expired.id
    WHERE ${lookUp('job.id', 'expired.id')} AND expired.spent
    RETURNING job.*, expired.asked, expired.attempt AS attempts, coalesce(owned.given_seq, expired.seq) AS given_seq
  ), kept AS (${keepSpentJobs(schema, 'The lease of this run ended before the run did.')}
  ), waiting AS (
    UPDATE ${schema}.job
    SET
      run = job.run + 1,
      attempt = expired.attempt,
      seq = coalesce(owned.given_seq, expired.seq),
      suspect = true,
      due_at = clock_timestamp(),
      lease_ends_at = NULL,
      last_error = 'lease expired'
    FROM expired LEFT JOIN owned ON owned.id = expired.id
    WHERE ${lookUp('job.id', 'expired.id')} AND NOT expired.spent
    RETURNING job.id
  ), freed AS (
    UPDATE ${schema}.lane
    SET runner_id = NULL, lease = NULL, used_at = clock_timestamp(),
      last_seq = greatest(lane.last_seq, head.given_seq),
      blocked_by = head.blocker,
      head_position = head.head_position,
      ready_at = head.ready_at,
      priority = coalesce(head.head_priority, lane.priority),
      name = coalesce(head.head_name, lane.name)
    FROM (
      SELECT owned.channel, owned.key, owned.runner_id, owned.lease, owned.given_seq, owned.blocker,
        CASE WHEN owned.spent THEN next.position ELSE owned.position END AS head_position,
        CASE WHEN owned.spent THEN next.priority ELSE owned.priority END AS head_priority,
        CASE WHEN owned.spent THEN next.name ELSE owned.name END AS head_name,
        CASE WHEN next.held_until IS NULL AND NOT next.suspect THEN greatest(next.due_at, clock_timestamp()) END AS ready_at
      FROM owned
      LEFT JOIN LATERAL (${laneHead(schema, 'owned', 'AND job.id <> owned.id')}
      ) AS next ON owned.spent AND owned.blocker IS NULL
    ) AS head
    WHERE lane.channel = head.channel AND lane.key = head.key AND lane.runner_id = head.runner_id AND lane.lease = head.lease
    RETURNING ${laneMessage('lane')} AS message
  )
  SELECT state, NULL FROM kept
  UNION ALL
  SELECT 'waiting', NULL FROM waiting
  UNION ALL
  SELECT 'lane', message FROM freed`,
  values: rescueValues,
  row: ([outcome, message]) => ({ outcome: outcome as ExpiredRow['outcome'], message: message as string | null }),
});
