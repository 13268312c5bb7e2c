import type { JobId } from '../job/job.js';
import { defineStatement } from './statement.js';
import { laneMessage } from './wake-up.js';

/** A lane: the jobs of one channel and key, in their order. */
export interface LaneName {
  readonly channel: string;
  readonly key: string;
}

/** The first job of a lane's order; `lane` names a row with channel and key. Index `job_lane`. */
export const laneHead = (schema: string, lane: string, besides = ''): string => `
    SELECT job.position, job.due_at, job.priority, job.name, job.held_until, job.suspect
    FROM ${schema}.job
    WHERE job.channel = ${lane}.channel AND job.key = ${lane}.key AND job.position IS NOT NULL ${besides}
    ORDER BY job.seq, job.position
    LIMIT 1`;

/**
 * Whether nobody owns a lane: a lane is its owner's as long as the owner's lease is there. A lane that ends together with
 * its lease is not written again, so the row may still name both. Index `lease_pkey`.
 */
export const isFree = (schema: string, lane = 'lane'): string => `(${lane}.runner_id IS NULL OR NOT EXISTS (
      SELECT FROM ${schema}.lease WHERE lease.runner_id = ${lane}.runner_id AND lease.number = ${lane}.lease
    ))`;

/** The number given out last in a lane that is free: that of its last owner's last job, where the lease has ended the lane. */
export const lastSeqOf = (lane: string): string =>
  `CASE WHEN ${lane}.runner_id IS NULL THEN ${lane}.last_seq ELSE greatest(${lane}.last_seq, ${lane}.leased_seq) END`;

/** When a lane with this head can be leased; null when something else has to happen before, or there is none. */
export const readyAt = (head: string): string =>
  `CASE WHEN ${head}.held_until IS NULL AND NOT ${head}.suspect THEN greatest(${head}.due_at, clock_timestamp()) END`;

/**
 * Gives lanes back: those that a relation with the columns channel, key, runner_id and lease names, and that are still
 * under that lease; it also has `last_seq`, the number given out last, and `blocker`, the dead job for which the lane is
 * to wait. A lane with a head queues up behind those that are ready, however long its jobs have been due; without one it
 * is idle. Of one whose head is held nobody is told: who ends the hold says so.
 *
 * Each lane is read by its index and written by its place in the table: an UPDATE that joins them by their names is
 * planned the wrong way round where the table has grown since. Always in the same order, so that two of them never wait
 * for each other.
 */
export const freeLanes = (schema: string, relation: string): string => `
  WITH owned AS MATERIALIZED (
    SELECT owned.place, done.runner_id, done.lease, done.last_seq, done.blocker, head.position AS next_position,
      head.priority AS next_priority, head.name AS next_name, ${readyAt('head')} AS next_ready_at, head.suspect AS next_suspect
    FROM ${relation} AS done
    CROSS JOIN LATERAL (
      SELECT lane.ctid AS place
      FROM ${schema}.lane
      WHERE lane.channel = done.channel AND lane.key = done.key AND lane.runner_id = done.runner_id AND lane.lease = done.lease
      LIMIT 1
    ) AS owned
    LEFT JOIN LATERAL (${laneHead(schema, 'done')}
    ) AS head ON done.blocker IS NULL
    ORDER BY done.channel, done.key
  )
  UPDATE ${schema}.lane
  SET runner_id = NULL, lease = NULL, used_at = clock_timestamp(),
    last_seq = greatest(lane.last_seq, owned.last_seq),
    blocked_by = owned.blocker,
    head_position = owned.next_position,
    ready_at = owned.next_ready_at,
    priority = coalesce(owned.next_priority, lane.priority),
    name = coalesce(owned.next_name, lane.name)
  FROM owned
  WHERE lane.ctid = owned.place AND lane.runner_id = owned.runner_id AND lane.lease = owned.lease
  RETURNING lane.channel, lane.key, coalesce(lane.ready_at <= clock_timestamp(), false) AS ready,
    CASE WHEN lane.ready_at IS NOT NULL OR owned.next_suspect THEN ${laneMessage('lane')} END AS message`;

export interface LaneEnd extends LaneName {
  readonly runner: string;
  readonly lease: number;
  /** Number of the last job of it that has started. */
  readonly lastSeq: number;
  /** The job that died, where its handler wants the lane to wait for a person. */
  readonly blockedBy: JobId | null;
  /** All jobs that it was leased for are completed, and none stood behind them: the end of the lease is enough. */
  readonly atRest: boolean;
}

/** The channels of some lanes, each once, and for each lane which of them is its: a name a lane would be the dearest of all. */
export function channelsOf(lanes: readonly LaneName[]): [string[], number[]] {
  const places = new Map<string, number>();
  const indexes = lanes.map(({ channel }) => {
    const known = places.get(channel);
    if (known === undefined) places.set(channel, places.size + 1);
    return known ?? places.size;
  });
  return [[...places.keys()], indexes];
}

export interface FreedLaneRow extends LaneName {
  /** What to wake runners with; `null` when the lane is empty, or waits for somebody. */
  readonly message: string | null;
}

export const freedLane = ([channel, key, message]: unknown[]): FreedLaneRow => ({
  channel: channel as string,
  key: key as string,
  message: message as string | null,
});

export interface EndedLaneRow extends FreedLaneRow {
  /** It can be leased now, whatever else has been committed in it: whoever does that reads it anew. */
  readonly ready: boolean;
}

/**
 * Ends runs of lanes: in the transaction of the settlement and behind it, so that it sees which job comes next. Leaves a
 * lane alone that has another owner by now. A job that was cancelled instead of dying blocks nothing. Indexes `lane_pkey`, `job_lane`.
 */
export const endLanes = defineStatement<{ runner: string; lanes: readonly Omit<LaneEnd, 'atRest'>[] }, EndedLaneRow>({
  name: 'end_lanes_v5',
  text: (schema) => `
  WITH done AS MATERIALIZED (
    SELECT ($1::text[])[channel] COLLATE "C" AS channel, key COLLATE "C" AS key, $3::bigint AS runner_id, lease, last_seq,
      CASE WHEN blocker IS NOT NULL THEN (
        SELECT id FROM ${schema}.finished_job WHERE finished_job.id = blocker AND (state || '') IN ('dead', 'reprocessing')
      ) END AS blocker
    FROM unnest($2::integer[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[]) AS done (channel, key, lease, last_seq, blocker)
  ), freed AS (${freeLanes(schema, 'done')}
  )
  SELECT channel, key, message, ready FROM freed WHERE message IS NOT NULL`,
  values: ({ runner, lanes }) => [
    ...channelsOf(lanes),
    runner,
    lanes.map(({ key }) => key),
    lanes.map(({ lease }) => lease),
    lanes.map(({ lastSeq }) => lastSeq),
    lanes.map(({ blockedBy }) => blockedBy),
  ],
  row: ([channel, key, message, ready]) => ({ ...freedLane([channel, key, message]), ready: ready as boolean }),
});
