import type { JobId } from '../job/job.js';
import { lookUp } from './look-up.js';
import { fence, fenceColumns, heldLeases, type Fenced } from './run-fence.js';
import { defineStatement } from './statement.js';

export interface UnsettledRow {
  readonly id: JobId;
  /** `false`: it was put back or given up by a rescuer. */
  readonly mine: boolean;
}

/**
 * Which of these runs are still unsettled, and which are somebody else's, without waiting for whoever has locked them.
 * What is left out was completed. Indexes `job_pkey`, `finished_job_pkey`.
 */
export const findUnsettled = defineStatement<Fenced<unknown>, UnsettledRow>({
  name: 'find_unsettled_v4',
  text: (schema) => `
  WITH ${heldLeases(schema)}, done AS MATERIALIZED (
    SELECT * FROM unnest($2::bigint[], $3::integer[], $4::integer[]) AS done (id, run, lease)
  )
  SELECT job.id, ${fence}
  FROM done JOIN ${schema}.job ON ${lookUp('job.id', 'done.id')}
  UNION ALL
  SELECT finished_job.id, false
  FROM done JOIN ${schema}.finished_job ON ${lookUp('finished_job.id', 'done.id')}
  WHERE finished_job.state <> 'completed'`,
  values: ({ runner, entries }) => [runner, ...fenceColumns(entries)],
  row: ([id, mine]) => ({ id: id as JobId, mine: mine as boolean }),
});
