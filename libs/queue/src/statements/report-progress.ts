import type { Progress } from '../job/run-port.js';
import type { FencedRun } from './checkpoint-job.js';
import { lookUp } from './look-up.js';
import { defineStatement } from './statement.js';

/**
 * Writes how far a run is, in place of what was told before. Answers no row when the job is someone else's. Touches no
 * job: a transaction that has locked the row is not waited for. Indexes `job_pkey`, `lease_pkey`, `job_progress_pkey`.
 */
export const reportProgress = defineStatement<FencedRun & { progress: Progress }, true>({
  name: 'report_progress_v1',
  text: (schema) => `
  INSERT INTO ${schema}.job_progress AS told (job_id, percent, message)
  SELECT job.id, $5::real, $6::text
  FROM ${schema}.job
  WHERE job.id = $2::bigint
    AND job.run = $3::integer
    AND EXISTS (SELECT FROM ${schema}.lease WHERE lease.runner_id = $1::bigint AND lease.number = $4::integer)
  ON CONFLICT (job_id) DO UPDATE
  SET percent = EXCLUDED.percent, message = EXCLUDED.message, updated_at = clock_timestamp()
  RETURNING true`,
  values: ({ runner, fence, progress }) => [
    runner,
    fence.id,
    fence.run,
    fence.lease,
    progress.percent,
    progress.message,
  ],
  row: () => true,
});

/** Rows that one statement looks at. */
export const PROGRESS_PER_PRUNE = 1_000;

export interface PrunedProgress {
  /** The last row looked at, `null` when there was none behind `after`. */
  readonly last: string | null;
  readonly pruned: number;
}

/**
 * Deletes the progress of jobs that are gone, among the next rows behind a job. Several pruners at once share the work. Each job is
 * looked up by itself: as joins both tables could be walked whole (`look-up.ts`).
 * Indexes `job_progress_pkey`, `job_pkey`, `finished_job_pkey`.
 */
export const pruneProgress = defineStatement<{ after: string }, PrunedProgress>({
  name: 'prune_progress_v2',
  text: (schema) => `
  WITH looked AS MATERIALIZED (
    SELECT job_id
    FROM ${schema}.job_progress
    WHERE job_id > $1::bigint
    ORDER BY job_id
    LIMIT ${PROGRESS_PER_PRUNE}
    FOR UPDATE SKIP LOCKED
  ), pruned AS (
    DELETE FROM ${schema}.job_progress
    USING looked
    WHERE ${lookUp('job_progress.job_id', 'looked.job_id')}
      AND (SELECT true FROM ${schema}.job WHERE job.id = looked.job_id LIMIT 1) IS NULL
      AND (SELECT true FROM ${schema}.finished_job WHERE finished_job.id = looked.job_id LIMIT 1) IS NULL
    RETURNING looked.job_id
  )
  SELECT max(job_id), (SELECT count(*) FROM pruned) FROM looked`,
  values: ({ after }) => [after],
  row: ([last, pruned]) => ({ last: last as string | null, pruned: Number(pruned) }),
});
