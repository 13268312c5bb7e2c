import type { RescuedRow } from './rescue-jobs.js';
import { defineStatement } from './statement.js';
import { wakeUpMessage } from './wake-up.js';

/** Runs that one statement ends at most. */
export const RUNS_PER_RESCUE = 500;

/**
 * Ends runs whose lease had an end of its own that has passed, whether their process lives or not. The run has started,
 * so it is charged: the job is dead when it was the last, else it comes back at once as a suspect, under a new stamp by
 * which whatever the old run still writes is refused. The lease itself stays with its runner, who settles its others.
 *
 * Locked rows are passed by: a job that its handler's transaction completes or checkpoints is looked at again when that
 * has ended. Safe with several rescuers at once. Index `job_lease_end`.
 */
export const rescueExpired = defineStatement<Record<string, never>, RescuedRow>({
  name: 'rescue_expired_v1',
  text: (schema) => `
  WITH expired AS MATERIALIZED (
    SELECT id, attempt + 1 AS attempt, attempt + 1 >= coalesce(max_attempts, 2147483647) AS spent
    FROM ${schema}.job
    WHERE lease_ends_at <= statement_timestamp()
    ORDER BY lease_ends_at
    LIMIT ${RUNS_PER_RESCUE}
    FOR UPDATE SKIP LOCKED
  ), dead AS (
    DELETE FROM ${schema}.job USING expired WHERE job.id = expired.id AND expired.spent
    RETURNING job.*, expired.attempt AS attempts
  ), kept AS (
    INSERT INTO ${schema}.finished_job (
      id, state, attempt, max_attempts, priority, due_at, created_at, delete_at, policy_id, position, seq,
      channel, key, name, payload, payload_bytes, metadata, backoff, reason, last_error
    )
    SELECT
      dead.id, 'dead', attempts, max_attempts, priority, due_at, dead.created_at,
      clock_timestamp() + handler_policy.dead_retention_ms * interval '1 millisecond', policy_id, position, seq,
      channel, key, dead.name, payload, payload_bytes, metadata, dead.backoff, 'lease expired',
      coalesce(last_error, 'The lease of this run ended before the run did.')
    FROM dead LEFT JOIN ${schema}.handler_policy ON handler_policy.id = dead.policy_id
    RETURNING due_at, id, priority, channel, key, name
  ), waiting AS (
    UPDATE ${schema}.job
    SET
      run = job.run + 1,
      attempt = expired.attempt,
      suspect = true,
      due_at = clock_timestamp(),
      lease_ends_at = NULL,
      last_error = 'lease expired'
    FROM expired
    WHERE job.id = expired.id AND NOT expired.spent
    RETURNING job.due_at, job.id, job.priority, job.channel, job.key, job.name
  )
  SELECT 'dead', false, ${wakeUpMessage} FROM kept
  UNION ALL
  SELECT 'waiting', true, ${wakeUpMessage} FROM waiting`,
  values: () => [],
  row: ([outcome, suspect, message]) => ({
    outcome: outcome as RescuedRow['outcome'],
    suspect: suspect as boolean,
    message: message as string,
  }),
});
