/**
 * Always true, and for the planner true of one lease in 40 000. It takes the table for as full as it is large, and behind a
 * horizon that is held back most of it is dead: a list that it thinks too long for memory it would not hash, but compare
 * with each job one by one, which took seconds of a survey.
 */
const FEW = 'lease.number = abs(lease.number) AND lease.started = abs(lease.started)';

/** `NOT (job, run) IN` it: no lease names the job under this stamp. Of the leases only those for which `where` holds. */
export const leasedRuns = (schema: string, where?: string): string =>
  `(SELECT unnest(lease.job_ids), unnest(lease.runs) FROM ${schema}.lease WHERE ${where ? `${where} AND ` : ''}${FEW})`;

/** A job whose (id, run) no lease names. `NOT IN` makes a hashed subplan, where an anti-join would walk the leases for each job. */
export const unleased = (schema: string, where?: string): string => `(id, run) NOT IN ${leasedRuns(schema, where)}`;
