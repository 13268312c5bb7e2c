import { inFeed } from './job-columns.js';

/**
 * The jobs that run: those that a lease names under their stamp, and of a lane its head. As a relation with the columns
 * runner_id, number, channel, id and run, and of the job priority, due_at and whether it stands in a feed. Few rows: what the
 * fleet has in hand. Indexes `lease_pkey`, `job_pkey`, `lane_pkey`, `job_lane`.
 */
export const leasedJobs = (schema: string): string => `
    SELECT lease.runner_id, lease.number, lease.channel, held.id, held.run, present.priority, present.due_at, present.in_feed
    FROM ${schema}.lease
    CROSS JOIN LATERAL unnest(lease.job_ids, lease.runs, lease.keys) AS held (id, run, key)
    CROSS JOIN LATERAL (
      SELECT priority, due_at, ${inFeed} AS in_feed FROM ${schema}.job WHERE job.id = held.id AND job.run = held.run LIMIT 1
    ) AS present
    WHERE held.key IS NULL OR held.id = (
      SELECT head.id
      FROM ${schema}.lane
      JOIN ${schema}.job AS head ON head.channel = lane.channel AND head.key = lane.key AND head.position IS NOT NULL
      WHERE lane.channel = lease.channel AND lane.key = held.key
        AND lane.runner_id = lease.runner_id AND lane.lease = lease.number AND head.id = ANY (lease.job_ids)
      ORDER BY head.seq, head.position
      LIMIT 1
    )`;
