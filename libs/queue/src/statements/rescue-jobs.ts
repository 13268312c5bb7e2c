import { defineStatement } from './statement.js';
import { wakeUpMessage } from './wake-up.js';

export interface RescuedRow {
  readonly outcome: 'waiting' | 'dead';
  readonly suspect: boolean;
  /** What to wake runners with. */
  readonly message: string;
}

/** Leases that one statement rescues at most. */
export const LEASES_PER_RESCUE = 50;

/**
 * Ends the leases of dead runners. A job that is known to have started (from its claim, or from a heartbeat) is charged
 * that run, and is dead when it was the last; the others keep their count. Both come back as suspects, who run alone
 * and are counted exactly. The jobs of a runner that was shutting down get their attempt back instead: a deploy never
 * makes a job dead.
 *
 * Locked rows are passed by: a job that its handler's transaction completes stays leased until that ends, and with it
 * its lease. Safe with several rescuers at once. Indexes `job_pkey`, `lease_pkey`.
 */
export const rescueJobs = defineStatement<Record<string, never>, RescuedRow>({
  name: 'rescue_jobs_v2',
  text: (schema) => `
  WITH lost AS MATERIALIZED (
    SELECT lease.runner_id, lease.number, lease.job_ids, lease.runs, lease.started,
      coalesce(runner.stopping, false) AS stopping, coalesce(runner.running, '{}') AS running
    FROM ${schema}.lease
    LEFT JOIN ${schema}.runner ON runner.id = lease.runner_id
    WHERE runner.id IS NULL OR runner.dead_at IS NOT NULL
    LIMIT ${LEASES_PER_RESCUE}
    FOR UPDATE OF lease SKIP LOCKED
  ), entry AS MATERIALIZED (
    SELECT runner_id, number, stopping, job_id, run,
      NOT stopping AND (ordinal <= started OR job_id = ANY (running)) AS charged
    FROM lost, unnest(job_ids, runs) WITH ORDINALITY AS job (job_id, run, ordinal)
  ), present AS MATERIALIZED (
    SELECT entry.runner_id, entry.number, job.id
    FROM entry JOIN ${schema}.job ON job.id = entry.job_id AND job.run = entry.run
  ), locked AS MATERIALIZED (
    SELECT job.id, entry.stopping, job.attempt + entry.charged::integer AS attempt,
      NOT entry.stopping AND job.attempt + entry.charged::integer >= coalesce(job.max_attempts, 2147483647) AS spent
    FROM entry JOIN ${schema}.job ON job.id = entry.job_id AND job.run = entry.run
    FOR UPDATE OF job SKIP LOCKED
  ), dead AS (
    DELETE FROM ${schema}.job USING locked WHERE job.id = locked.id AND locked.spent
    RETURNING job.*, locked.attempt AS attempts
  ), kept AS (
    INSERT INTO ${schema}.finished_job (
      id, state, attempt, max_attempts, priority, due_at, created_at, delete_at, policy_id,
      channel, key, name, payload, payload_bytes, metadata, backoff, reason, last_error
    )
    SELECT
      dead.id, 'dead', attempts, max_attempts, priority, due_at, dead.created_at,
      clock_timestamp() + handler_policy.dead_retention_ms * interval '1 millisecond', policy_id,
      channel, key, dead.name, payload, payload_bytes, metadata, dead.backoff, 'lease expired',
      coalesce(last_error, 'The process that ran this job ended, or lost its connection, in the middle of it.')
    FROM dead LEFT JOIN ${schema}.handler_policy ON handler_policy.id = dead.policy_id
    RETURNING due_at, id, priority, channel, key, name
  ), waiting AS (
    UPDATE ${schema}.job
    SET
      run = job.run + 1,
      attempt = locked.attempt,
      suspect = NOT locked.stopping,
      lease_ends_at = NULL,
      due_at = CASE WHEN locked.stopping THEN job.due_at ELSE clock_timestamp() END,
      last_error = CASE WHEN locked.stopping THEN job.last_error ELSE 'lease expired' END
    FROM locked
    WHERE job.id = locked.id AND NOT locked.spent
    RETURNING job.due_at, job.id, job.priority, job.channel, job.key, job.name, job.suspect
  ), ended AS (
    DELETE FROM ${schema}.lease USING lost
    WHERE lease.runner_id = lost.runner_id
      AND lease.number = lost.number
      AND NOT EXISTS (
        SELECT FROM present
        WHERE present.runner_id = lost.runner_id AND present.number = lost.number
          AND NOT EXISTS (SELECT FROM locked WHERE locked.id = present.id)
      )
  )
  SELECT 'dead', false, ${wakeUpMessage} FROM kept
  UNION ALL
  SELECT 'waiting', suspect, ${wakeUpMessage} FROM waiting`,
  values: () => [],
  row: ([outcome, suspect, message]) => ({
    outcome: outcome as RescuedRow['outcome'],
    suspect: suspect as boolean,
    message: message as string,
  }),
});
