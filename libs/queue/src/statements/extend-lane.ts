import type { ClaimedJob } from '../job/job.js';
import { newsIn, type LeaseName } from './claim-jobs.js';
import { LANE_JOB_LISTS, laneJobs, rowsAt, toldFirst, type LaneJobLists } from './lane-jobs.js';
import { defineStatement } from './statement.js';

export interface ExtendLaneParams extends LeaseName {
  readonly key: string;
  readonly names: readonly string[];
  /** Most jobs to take. */
  readonly run: number;
}

const [RUNNER, LEASE, CHANNEL, KEY, NAMES, RUN] = ['$1', '$2', '$3', '$4', '$5', '$6'];

/**
 * Leases the next jobs of a lane that this lease owns, and owns alone: while the jobs before them run, so that a long lane
 * does not wait for a claim behind each of its runs. They get the numbers behind those of the lease, in whose row they are
 * written down behind the others. Of these the row keeps what is left to be settled, whatever its place in the lane, and one
 * more, which may be the dead one for which the lane is to wait. As a claim does, it ends at the first job that may not run
 * now or is on its last attempt; a job that was committed late stands before those that are behind it.
 *
 * The lane's row stays as it is: a settlement that gives the lane back meanwhile would not find what it has read. So such a
 * lane cannot end with its lease, whose number it does not have. Answers none when the lane is not this lease's any more, or
 * not its only one, and while jobs stand in it that had their numbers before. Right only in a transaction that owns the
 * channel. Locks the lane before the lease, as settlements do. Indexes `lane_pkey`, `lease_pkey`, `job_lane`, `job_pkey`.
 */
export const extendLane = defineStatement<ExtendLaneParams, ClaimedJob>({
  name: 'extend_lane_v2',
  jsonAsText: true,
  text: (schema) => `
  WITH owned AS MATERIALIZED (
    SELECT last_seq
    FROM ${schema}.lane
    WHERE channel = ${CHANNEL} AND key = ${KEY} AND runner_id = ${RUNNER}::bigint AND lease = ${LEASE}::integer
      AND NOT EXISTS (SELECT FROM ${schema}.paused_channel WHERE paused_channel.channel = ${CHANNEL})
    FOR UPDATE
  ), held AS MATERIALIZED (
    SELECT lease.ctid AS place, job_ids, seqs[cardinality(seqs)] AS last_seq
    FROM owned, ${schema}.lease
    WHERE runner_id = ${RUNNER}::bigint AND number = ${LEASE}::integer AND ${KEY} = ALL (keys)
      AND seqs[cardinality(seqs)] >= owned.last_seq
    FOR UPDATE OF lease SKIP LOCKED
  ), standing AS MATERIALIZED (
    SELECT job.place, id, run, goes_on, id IN (SELECT unnest(job_ids) FROM held) AS leased, row_number() OVER () AS ordinal
    FROM held CROSS JOIN LATERAL (
      SELECT job.ctid AS place, id, run,
        due_at <= statement_timestamp() AND held_until IS NULL AND NOT suspect AND name = ANY(${NAMES}::text[])
          AND attempt + 1 < coalesce(max_attempts, 2147483647) AS goes_on
      FROM ${schema}.job
      WHERE channel = ${CHANNEL} AND key = ${KEY} AND position IS NOT NULL
      ORDER BY seq, position
      LIMIT cardinality(held.job_ids) + ${RUN}::integer + 1
    ) AS job
  ), fresh AS MATERIALIZED (
    SELECT place, id, run, goes_on, row_number() OVER (ORDER BY ordinal) AS turn FROM standing WHERE NOT leased
  ), next AS MATERIALIZED (
    SELECT array_agg(fresh.place ORDER BY turn) AS places, array_agg(id ORDER BY turn) AS ids, array_agg(run ORDER BY turn) AS runs,
      array_agg(last_seq + turn ORDER BY turn) AS given_seqs,
      array_agg(turn = (SELECT count(*) FROM fresh) ORDER BY turn) AS lasts,
      count(*)::integer AS jobs
    FROM fresh, held
    WHERE turn <= ${RUN}::integer AND turn < coalesce((SELECT min(turn) FROM fresh WHERE NOT goes_on), 2147483647)
  ), kept AS MATERIALIZED (
    SELECT held.place, greatest(1, coalesce((
        SELECT min(ordinal)
        FROM unnest(job_ids) WITH ORDINALITY AS named (id, ordinal)
        CROSS JOIN LATERAL (SELECT FROM ${schema}.job WHERE job.id = named.id LIMIT 1) AS unsettled
      ), cardinality(job_ids) + 1)::integer - 1) AS first
    FROM held
  ), extended AS (
    UPDATE ${schema}.lease
    SET job_ids = job_ids[first:] || ids, runs = lease.runs[first:] || next.runs, keys = keys[first:] || array_fill(${KEY}::text, ARRAY[jobs]),
      seqs = seqs[first:] || given_seqs, started = CASE WHEN first = 1 THEN started ELSE 0 END
    FROM kept, next
    WHERE lease.ctid = kept.place AND jobs > 0
  )
  SELECT ${toldFirst(`json_build_array(${LANE_JOB_LISTS.join(', ')})`)}
  FROM next
  UNION ALL
  ${rowsAt(schema, 'SELECT places FROM next')}`,
  values: ({ runner, lease, channel, key, names, run }) => [runner, lease, channel, key, names, run],
  rows: ([first, ...rows], params) => laneJobs(rows, newsIn<LaneJobLists>(first!)!, params),
});
