import type { JobId } from '../job/job.js';
import { fenceColumns, heldLeases, type Fenced, type RunFence } from './run-fence.js';
import { defineStatement } from './statement.js';

/**
 * Deletes the jobs of runs, as `completed`. Their ids are one condition of the index and their stamps are hashed: that is a
 * fifth less than to join them, and leaves the planner nothing to turn round (`look-up.ts`). `IS TRUE` keeps the list from
 * being made a join after all.
 */
const completing = (schema: string): string => `
  WITH ${heldLeases(schema)}, completed AS (
    DELETE FROM ${schema}.job
    WHERE id = ANY ($2::bigint[])
      AND ((id, run) IN (
        SELECT done.id, done.run
        FROM unnest($2::bigint[], $3::integer[], $4::integer[]) AS done (id, run, lease)
        WHERE EXISTS (SELECT FROM held_lease WHERE held_lease.number = done.lease)
      )) IS TRUE
    RETURNING id
  )`;

/** The ids of the jobs that were still this runner's, and are written. */
export type TakenRow = JobId;

/**
 * Completes runs of jobs that are not kept, and drops the leases of which nothing is left. Answers the ids as one text,
 * a job left out was someone else's to finish. Locks job rows only, so that a completion inside a long transaction
 * holds up nothing but its own job. Sent twice, it does nothing twice. Indexes `job_pkey`, `lease_pkey`.
 */
export const completeJobs = defineStatement<
  Fenced<unknown> & { endedLeases: readonly number[] },
  readonly TakenRow[] | 'all'
>({
  name: 'complete_jobs_v2',
  text: (schema) => `${completing(schema)}, ended AS (
    DELETE FROM ${schema}.lease WHERE runner_id = $1 AND number = ANY($5::integer[])
  )
  SELECT count(*), CASE WHEN count(*) < cardinality($2::bigint[]) THEN string_agg(id::text, ',') END FROM completed`,
  values: ({ runner, entries, endedLeases }) => [runner, ...fenceColumns(entries), endedLeases],
  row: ([count, ids], { entries }) =>
    Number(count) === entries.length ? 'all' : typeof ids === 'string' ? ids.split(',') : [],
});

/** A division by zero unless all are taken: the COMMIT that is sent behind it without waiting is refused then. */
export const allOrError = (taken: string): string =>
  `SELECT 1 / (count(*) = cardinality($2::bigint[]))::integer FROM ${taken}`;

/**
 * Completes runs of jobs that are not kept, all of them or with an error (division by zero), as the last statement of the
 * runs' own transaction. Locks job rows only. Indexes `job_pkey`, `lease_pkey`.
 */
export const completeAllJobs = defineStatement<Fenced<unknown>, true>({
  name: 'complete_all_jobs_v2',
  text: (schema) => `${completing(schema)}
  ${allOrError('completed')}`,
  values: ({ runner, entries }) => [runner, ...fenceColumns(entries)],
  row: () => true,
});

/** The same for one job, at less than half the cost. Indexes `job_pkey`, `lease_pkey`. */
export const completeOneJob = defineStatement<{ runner: string; fence: RunFence }, true>({
  name: 'complete_one_job_v1',
  text: (schema) => `
  WITH completed AS (
    DELETE FROM ${schema}.job
    WHERE id = $2::bigint
      AND run = $3::integer
      AND EXISTS (SELECT FROM ${schema}.lease WHERE runner_id = $1::bigint AND number = $4::integer)
    RETURNING id
  )
  SELECT 1 / count(*) FROM completed`,
  values: ({ runner, fence: { id, run, lease } }) => [runner, id, run, lease],
  row: () => true,
});
