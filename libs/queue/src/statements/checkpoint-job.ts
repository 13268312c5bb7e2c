import type { Checkpoint, RunFacts } from '../job/run-port.js';
import { contentHashOf } from './job-content.js';
import type { RunFence } from './run-fence.js';
import { defineStatement } from './statement.js';

export interface FencedRun {
  readonly runner: string;
  readonly fence: RunFence;
}

const fenceValues = ({ runner, fence }: FencedRun): unknown[] => [runner, fence.id, fence.run, fence.lease];

/** The job has the run's stamp, and the run's lease is there. Parameters 1 to 4. */
const isRunning = (schema: string): string => `job.id = $2::bigint
    AND job.run = $3::integer
    AND EXISTS (SELECT FROM ${schema}.lease WHERE lease.runner_id = $1::bigint AND lease.number = $4::integer)`;

const runFacts = `max_attempts, date_part('epoch', lease_ends_at - clock_timestamp()) * 1000`;

const factsRow = ([maxAttempts, leaseLeftMs]: unknown[]): RunFacts => ({
  maxAttempts: maxAttempts as number | null,
  leaseLeftMs: leaseLeftMs as number | null,
});

/**
 * Writes what a run stores of itself: payload, bytes, what its payload's version is, further runs, the end of its lease. Of
 * a job with an idempotency key it is kept what was sent, with which a strict spawn compares. Answers no row when the job is
 * someone else's, or its lease has passed and only the rescuer has not come yet. Gives no run by itself, and locks this
 * job's row only. Indexes `job_pkey`, `lease_pkey`.
 */
export const checkpointJob = defineStatement<FencedRun & { checkpoint: Checkpoint }, RunFacts>({
  name: 'checkpoint_job_v3',
  text: (schema) => `
  UPDATE ${schema}.job
  SET
    payload = CASE WHEN $5::boolean THEN $6::json ELSE payload END,
    payload_bytes = CASE WHEN $7::boolean THEN $8::bytea ELSE payload_bytes END,
    idempotency_hash = CASE
      WHEN idempotency_key IS NOT NULL AND ($5::boolean OR $7::boolean) THEN ${contentHashOf('job')}
      ELSE idempotency_hash
    END,
    policy_id = coalesce($11::bigint, policy_id),
    max_attempts = CASE WHEN max_attempts IS NOT NULL THEN least(max_attempts::bigint + $9::integer, 2147483647)::integer END,
    lease_ends_at = CASE
      WHEN $10::bigint IS NULL THEN lease_ends_at
      ELSE greatest(lease_ends_at, clock_timestamp() + $10::bigint * interval '1 millisecond')
    END
  WHERE ${isRunning(schema)}
    AND (lease_ends_at IS NULL OR lease_ends_at > clock_timestamp())
  RETURNING ${runFacts}`,
  values: ({ checkpoint, ...run }) => [
    ...fenceValues(run),
    checkpoint.payload !== undefined,
    checkpoint.payload ?? null,
    checkpoint.bytes !== undefined,
    checkpoint.bytes ?? null,
    checkpoint.extraRetries,
    checkpoint.keepAliveMs,
    checkpoint.policy?.id ?? null,
  ],
  row: factsRow,
});

/** What is committed of a run, without waiting for whoever has locked its job. Indexes `job_pkey`, `lease_pkey`. */
export const findRun = defineStatement<FencedRun, RunFacts>({
  name: 'find_run_v1',
  text: (schema) => `
  SELECT ${runFacts}
  FROM ${schema}.job
  WHERE ${isRunning(schema)}`,
  values: fenceValues,
  row: factsRow,
});
