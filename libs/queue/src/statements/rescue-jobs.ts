import { keepSpentJobs, rescueValues, type RescueParams } from './keep-spent-jobs.js';
import { freedLane, freeLanes, type FreedLaneRow } from './lanes.js';
import { lookUp } from './look-up.js';
import { defineStatement } from './statement.js';
import { wakeUpMessage } from './wake-up.js';

export interface RescuedRow {
  readonly outcome: 'waiting' | 'dead' | 'cancelled';
  readonly suspect: boolean;
  /** What to wake runners with; `null` for an ordered job, of which its lane tells. */
  readonly message: string | null;
}

/** Leases that one statement rescues at most. */
export const LEASES_PER_RESCUE = 50;

/**
 * Ends the leases of dead runners. A job that is known to have started (from its claim, or from a heartbeat) is charged
 * that run, and is dead when it was the last; the others keep their count. Both come back as suspects, who run alone
 * and are counted exactly. The jobs of a runner that was shutting down get their attempt back instead: a deploy never
 * makes a job dead. One that was asked to be cancelled is cancelled.
 *
 * Locked rows are passed by: a job that its handler's transaction completes stays leased until that ends, and with it
 * its lease, and of an ordered one the lane. All jobs of a lost lane keep their numbers, since each of them may have
 * started. `rescueLanes`, in the same transaction and behind this, gives the lanes back and ends their leases. Safe with several rescuers at once. Indexes `job_pkey`, `lease_pkey`, `lane_pkey`.
 */
export const rescueJobs = defineStatement<RescueParams, RescuedRow>({
  name: 'rescue_jobs_v5',
  text: (schema) => `
  WITH lost AS MATERIALIZED (
    SELECT lease.runner_id, lease.number, lease.channel, lease.job_ids, lease.runs, lease.keys, lease.seqs, lease.started,
      coalesce(runner.stopping, false) AS stopping, coalesce(runner.running, '{}') AS running
    FROM ${schema}.lease
    LEFT JOIN ${schema}.runner ON runner.id = lease.runner_id
    WHERE runner.id IS NULL OR runner.dead_at IS NOT NULL
    ORDER BY lease.runner_id, lease.number
    LIMIT ${LEASES_PER_RESCUE}
    FOR UPDATE OF lease SKIP LOCKED
  ), entry AS MATERIALIZED (
    SELECT lost.runner_id, lost.number, lost.channel, lost.stopping, job.*,
      NOT stopping AND (ordinal <= started OR job_id = ANY (running)) AS charged
    FROM lost, unnest(job_ids, runs, keys, seqs) WITH ORDINALITY AS job (job_id, run, key, seq, ordinal)
  ), present AS MATERIALIZED (
    SELECT entry.*
    FROM entry JOIN ${schema}.job ON ${lookUp('job.id', 'entry.job_id')} AND job.run = entry.run
    WHERE entry.key IS NULL OR EXISTS (
      SELECT FROM ${schema}.lane
      WHERE lane.channel = entry.channel AND lane.key = entry.key AND lane.runner_id = entry.runner_id AND lane.lease = entry.number
    )
  ), lockable AS MATERIALIZED (
    SELECT present.*, job.attempt + charged::integer AS attempt, job.cancel_requested_at IS NOT NULL AS asked,
      job.cancel_requested_at IS NOT NULL OR NOT stopping AND job.attempt + charged::integer >= coalesce(job.max_attempts, 2147483647) AS spent
    FROM present JOIN ${schema}.job ON ${lookUp('job.id', 'present.job_id')} AND job.run = present.run
    FOR UPDATE OF job SKIP LOCKED
  ), busy AS MATERIALIZED (
    SELECT runner_id, number, key FROM present WHERE job_id NOT IN (SELECT job_id FROM lockable)
  ), locked AS MATERIALIZED (
    SELECT * FROM lockable
    WHERE key IS NULL OR (runner_id, number, key) NOT IN (SELECT runner_id, number, key FROM busy WHERE key IS NOT NULL)
  ), dead AS (
    DELETE FROM ${schema}.job USING locked WHERE ${lookUp('job.id', 'locked.job_id')} AND locked.spent
    RETURNING job.*, locked.attempt AS attempts, locked.asked, locked.runner_id, locked.number, locked.seq AS given_seq
  ), kept AS (${keepSpentJobs(schema, 'The process that ran this job ended, or lost its connection, in the middle of it.')}
  ), waiting AS (
    UPDATE ${schema}.job
    SET
      run = job.run + 1,
      attempt = locked.attempt,
      seq = locked.seq,
      suspect = NOT locked.stopping,
      lease_ends_at = NULL,
      due_at = CASE WHEN locked.stopping THEN job.due_at ELSE clock_timestamp() END,
      last_error = CASE WHEN locked.stopping THEN job.last_error ELSE 'lease expired' END
    FROM locked
    WHERE ${lookUp('job.id', 'locked.job_id')} AND NOT locked.spent
    RETURNING job.due_at, job.id, job.priority, job.channel, job.key, job.name, job.suspect, job.position IS NOT NULL AS ordered
  ), ended AS (
    DELETE FROM ${schema}.lease USING lost
    WHERE lease.runner_id = lost.runner_id
      AND lease.number = lost.number
      AND lease.keys IS NULL
      AND NOT EXISTS (SELECT FROM busy WHERE busy.runner_id = lost.runner_id AND busy.number = lost.number)
  )
  SELECT state, false, NULL FROM kept
  UNION ALL
  SELECT 'waiting', suspect, CASE WHEN NOT ordered THEN ${wakeUpMessage()} END FROM waiting`,
  values: rescueValues,
  row: ([outcome, suspect, message]) => ({
    outcome: outcome as RescuedRow['outcome'],
    suspect: suspect as boolean,
    message: message as string | null,
  }),
});

/**
 * Gives back the lanes of dead runners whose jobs `rescueJobs` has put back, and ends their leases. What it finds as it
 * was is locked by somebody: that lane, and its lease, stay. Right only behind `rescueJobs`, in its transaction. Indexes
 * `lane_pkey`, `job_pkey`, `job_lane`.
 */
export const rescueLanes = defineStatement<Record<string, never>, FreedLaneRow>({
  name: 'rescue_lanes_v4',
  text: (schema) => `
  WITH lost AS MATERIALIZED (
    SELECT lease.runner_id, lease.number, lease.channel, lease.job_ids, lease.runs, lease.keys, lease.seqs
    FROM ${schema}.lease
    LEFT JOIN ${schema}.runner ON runner.id = lease.runner_id
    WHERE (runner.id IS NULL OR runner.dead_at IS NOT NULL) AND lease.keys IS NOT NULL
    ORDER BY lease.runner_id, lease.number
    LIMIT ${LEASES_PER_RESCUE}
    FOR UPDATE OF lease SKIP LOCKED
  ), entry AS MATERIALIZED (
    SELECT lost.runner_id, lost.number, lost.channel, job.*
    FROM lost, unnest(job_ids, runs, keys, seqs) AS job (job_id, run, key, seq)
  ), owned AS MATERIALIZED (
    SELECT entry.*, EXISTS (SELECT FROM ${schema}.job WHERE job.id = entry.job_id AND job.run = entry.run) AS untouched
    FROM entry JOIN ${schema}.lane
      ON ${lookUp('lane.channel', 'entry.channel')} AND ${lookUp('lane.key', 'entry.key')} AND lane.runner_id = entry.runner_id AND lane.lease = entry.number
  ), done AS MATERIALIZED (
    SELECT owned.channel, owned.key, owned.runner_id, owned.number AS lease, max(owned.seq) AS last_seq,
      min(finished_job.id) FILTER (WHERE handler_policy.on_dead = 'block') AS blocker
    FROM owned
    LEFT JOIN ${schema}.finished_job ON ${lookUp('finished_job.id', 'owned.job_id')} AND (finished_job.state || '') IN ('dead', 'reprocessing')
    LEFT JOIN ${schema}.handler_policy ON handler_policy.id = finished_job.policy_id
    GROUP BY owned.channel, owned.key, owned.runner_id, owned.number
    HAVING NOT bool_or(untouched)
  ), freed AS (${freeLanes(schema, 'done')}
  ), ended AS (
    DELETE FROM ${schema}.lease USING lost
    WHERE lease.runner_id = lost.runner_id
      AND lease.number = lost.number
      AND NOT EXISTS (SELECT FROM owned WHERE untouched AND owned.runner_id = lost.runner_id AND owned.number = lost.number)
  )
  SELECT channel, key, message FROM freed`,
  values: () => [],
  row: freedLane,
});
