import type { JobId, JobState } from '../job/job.js';
import { defineStatement } from './statement.js';

/** How a job that is waited for stands, once it is not live any more. */
export interface EndedJobRow {
  readonly id: JobId;
  /** `null`: there is no such job, or none any more. */
  readonly state: JobState | null;
  /** JSON text, `null` when there is none. */
  readonly result: string | null;
  readonly reason: string | null;
  readonly lastError: string | null;
}

/**
 * Those of the given jobs that are not live: finished, or nowhere. Both tables are read in one snapshot, so a job that
 * is being moved from one to the other is in exactly one of them. The LIMITs keep the planner from joining whole
 * tables. Indexes `job_pkey`, `finished_job_pkey`.
 */
export const findEnded = defineStatement<{ ids: readonly JobId[] }, EndedJobRow>({
  name: 'find_ended_v1',
  text: (schema) => `
  SELECT wanted.id, finished.state, finished.result::text, finished.reason, finished.last_error
  FROM unnest($1::bigint[]) AS wanted (id)
  LEFT JOIN LATERAL (SELECT true AS live FROM ${schema}.job WHERE job.id = wanted.id LIMIT 1) AS job ON true
  LEFT JOIN LATERAL (
    SELECT state, result, reason, last_error FROM ${schema}.finished_job WHERE finished_job.id = wanted.id LIMIT 1
  ) AS finished ON true
  WHERE job.live IS NULL`,
  values: ({ ids }) => [ids],
  row: ([id, state, result, reason, lastError]) => ({
    id: id as JobId,
    state: state as JobState | null,
    result: result as string | null,
    reason: reason as string | null,
    lastError: lastError as string | null,
  }),
});
