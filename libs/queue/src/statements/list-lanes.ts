import type { JobId } from '../job/job.js';
import { isFree, lastSeqOf } from './lanes.js';
import { defineStatement } from './statement.js';

/** Why the head of a lane does not run; nothing behind it can. */
export type LaneBlock =
  /** It is dead, and its handler says `onDead: 'block'`: until somebody requeues, resolves or discards it. */
  | 'dead'
  /** It waits for its next run. */
  | 'retry'
  /** It is to run later. */
  | 'delayed'
  /** It was spawned under two-phase commit, and is not committed. */
  | 'held'
  /** Its channel is paused. */
  | 'paused'
  /** No handler of this application has its name. */
  | 'unknown name';

/** A lane as it is read: a channel and key with ordered jobs, or with a dead one that blocks it. */
export interface LaneRecord {
  /** Its channel. */
  readonly channel: string;
  /** Its key. */
  readonly key: string;
  /** `running`: leased by a runner; `ready`: it will be as soon as somebody has room; `blocked`: see `reason`. */
  readonly state: 'running' | 'ready' | 'blocked';
  /** Why it is blocked, `null` when it is not. */
  readonly reason: LaneBlock | null;
  /** The last number given to a job of it. */
  readonly lastSeq: number;
  /** Its first job: the one that runs, is next, or died and blocks it. */
  readonly headId: JobId | null;
  /** Name of the head's handler. */
  readonly headName: string | null;
  /** When the head may run; `null` when that is not a matter of time. */
  readonly dueAt: Date | null;
  /** Text of the head's last error. */
  readonly lastError: string | null;
  /** The runner that has the lane. */
  readonly runner: string | null;
}

export interface ListLanesParams {
  readonly channel: string;
  /** Lanes behind this key; `null`: from the first one on. */
  readonly after: string | null;
  readonly limit: number;
  /** Names that this application handles. */
  readonly names: readonly string[];
}

/**
 * Lanes of a channel that have jobs, or are blocked by a dead one, in the order of their keys. A loose walk, so that its
 * cost grows with the page, not with the jobs. Indexes `job_lane`, `lane_blocked`, `lane_pkey`.
 */
export const listLanes = defineStatement<ListLanesParams, LaneRecord>({
  name: 'list_lanes_v2',
  text: (schema) => `
  WITH RECURSIVE walk AS (
    (SELECT key, 1 AS step
      FROM ${schema}.job
      WHERE position IS NOT NULL AND channel = $1 AND ($2::text IS NULL OR key > $2)
      ORDER BY key
      LIMIT 1)
    UNION ALL
    SELECT next.key, walk.step + 1
    FROM walk CROSS JOIN LATERAL (
      SELECT key
      FROM ${schema}.job
      WHERE position IS NOT NULL AND channel = $1 AND key > walk.key
      ORDER BY key
      LIMIT 1
    ) AS next
    WHERE walk.step < $3
  ), blocked AS (
    SELECT key
    FROM ${schema}.lane
    WHERE channel = $1 AND blocked_by IS NOT NULL AND ($2::text IS NULL OR key > $2)
    ORDER BY key
    LIMIT $3
  ), page AS (
    SELECT key FROM walk UNION SELECT key FROM blocked ORDER BY key LIMIT $3
  )
  SELECT page.key, CASE WHEN NOT ${isFree(schema)} THEN lane.runner_id END, lane.blocked_by IS NOT NULL, coalesce(${lastSeqOf('lane')}, 0), coalesce(lane.blocked_by, head.id),
    coalesce(dead.name, head.name), head.due_at, coalesce(dead.last_error, head.last_error), head.attempt, head.held_until IS NOT NULL,
    head.due_at > statement_timestamp(), coalesce(dead.name, head.name) <> ALL ($4::text[]),
    EXISTS (SELECT FROM ${schema}.paused_channel WHERE paused_channel.channel = $1)
  FROM page
  LEFT JOIN ${schema}.lane ON lane.channel = $1 AND lane.key = page.key
  LEFT JOIN ${schema}.finished_job AS dead ON dead.id = lane.blocked_by
  LEFT JOIN LATERAL (
    SELECT job.*
    FROM ${schema}.job
    WHERE job.channel = $1 AND job.key = page.key AND job.position IS NOT NULL
    ORDER BY job.seq, job.position
    LIMIT 1
  ) AS head ON true
  ORDER BY page.key`,
  values: ({ channel, after, limit, names }) => [channel, after, limit, names],
  row: ([key, runner, dead, lastSeq, headId, headName, dueAt, lastError, ...facts], { channel }) => {
    const reason = runner === null ? blockOf(dead as boolean, facts) : null;
    return {
      channel,
      key: key as string,
      state: runner !== null ? 'running' : reason === null ? 'ready' : 'blocked',
      reason,
      lastSeq: Number(lastSeq),
      headId: headId as JobId | null,
      headName: headName as string | null,
      dueAt: reason === 'dead' || reason === 'held' ? null : (dueAt as Date | null),
      lastError: lastError as string | null,
      runner: runner as string | null,
    };
  },
});

function blockOf(dead: boolean, [attempt, held, future, unknown, paused]: unknown[]): LaneBlock | null {
  if (dead) return 'dead';
  if (held) return 'held';
  if (future) return (attempt as number) > 0 ? 'retry' : 'delayed';
  if (unknown) return 'unknown name';
  return paused ? 'paused' : null;
}
