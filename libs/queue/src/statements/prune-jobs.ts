import { defineStatement } from './statement.js';

/** Jobs that one statement prunes at most. */
export const JOBS_PER_PRUNE = 1_000;

/**
 * Deletes finished jobs whose retention is over, a chunk at a time; answers how many. Several pruners at once share the
 * work. Never touches a live job. Index `finished_job_delete_at`.
 */
export const pruneJobs = defineStatement<Record<string, never>, number>({
  name: 'prune_jobs_v1',
  text: (schema) => `
  WITH over AS MATERIALIZED (
    SELECT id
    FROM ${schema}.finished_job
    WHERE delete_at <= statement_timestamp()
    ORDER BY delete_at
    LIMIT ${JOBS_PER_PRUNE}
    FOR UPDATE SKIP LOCKED
  ), pruned AS (
    DELETE FROM ${schema}.finished_job USING over WHERE finished_job.id = over.id RETURNING finished_job.id
  )
  SELECT count(*) FROM pruned`,
  values: () => [],
  row: ([count]) => Number(count),
});
