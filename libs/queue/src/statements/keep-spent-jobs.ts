import { KEEP_CANCELLED_MS } from './job-columns.js';

export interface RescueParams {
  /** How long a cancelled job is kept, 7 days by default. */
  readonly keepCancelledMs?: number;
}

export const rescueValues = ({ keepCancelledMs = KEEP_CANCELLED_MS }: RescueParams): unknown[] => [keepCancelledMs];

/**
 * The INSERT of two rescues: jobs that were lost in their last run, or after they were asked to be cancelled, become dead or
 * cancelled ones. They stand in a relation `dead`, with the columns of `job` and `asked`, `attempts` and `given_seq`. A
 * dead one for which its lane waits is kept until a person has decided. Parameter 1 is that of {@link rescueValues}.
 *
 * @param error of those that have none
 */
export const keepSpentJobs = (schema: string, error: string): string => `
    INSERT INTO ${schema}.finished_job (
      id, run, state, attempt, max_attempts, priority, due_at, created_at, delete_at, policy_id, position, seq,
      channel, key, name, payload, payload_bytes, metadata, backoff, reason, last_error, idempotency_key, idempotency_hash
    )
    SELECT
      dead.id, dead.run, CASE WHEN asked THEN 'cancelled' ELSE 'dead' END, attempts, max_attempts, priority, due_at, dead.created_at,
      CASE
        WHEN asked THEN clock_timestamp() + $1::bigint * interval '1 millisecond'
        WHEN position IS NULL OR on_dead = 'skip' THEN clock_timestamp() + dead_retention_ms * interval '1 millisecond'
      END, policy_id, position, given_seq,
      channel, key, dead.name, payload, payload_bytes, metadata, dead.backoff, CASE WHEN asked THEN cancel_reason ELSE 'lease expired' END,
      coalesce(last_error, '${error}'), idempotency_key, idempotency_hash
    FROM dead LEFT JOIN ${schema}.handler_policy ON handler_policy.id = dead.policy_id
    RETURNING id, state`;
