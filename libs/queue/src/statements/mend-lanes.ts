import {
  channelsOf,
  freedLane,
  isFree,
  laneHead,
  lastSeqOf,
  readyAt,
  type FreedLaneRow,
  type LaneName,
} from './lanes.js';
import { defineStatement } from './statement.js';
import { laneMessage } from './wake-up.js';

/** The columns of a lane without an owner, from its head. */
const resting = `priority, name, ready_at, head_position`;
const restingOf = (head: string): string =>
  `coalesce(${head}.priority, 0) AS priority, ${head}.name, ${readyAt(head)} AS ready_at, ${head}.position AS head_position`;

/** Whether what is written of a free lane, `known`, is no longer so: it has another head, or what that one waited for is over. */
const isMistaken = (schema: string): string => `known.blocked_by IS NULL AND ${isFree(schema, 'known')}
      AND (known.head_position IS DISTINCT FROM head.position OR known.ready_at IS NULL AND head.held_until IS NULL AND NOT head.suspect)`;

export interface RecheckedLaneRow extends FreedLaneRow {
  /** Somebody was writing it, or has: it is as it was, and is to be looked at once more. */
  readonly passedBy: boolean;
}

/**
 * Looks again at lanes that came to rest without a job that can be leased. What was committed meanwhile, a job or the end of a
 * hold, was passed by because the lane had an owner, and was not seen by the owner either: only a look behind the owner's
 * commit finds it. Writes and locks only what is to be mended. Answers also what somebody else was writing, who may have seen
 * less. Indexes `job_lane`, `lane_pkey`.
 */
export const recheckLanes = defineStatement<{ lanes: readonly LaneName[] }, RecheckedLaneRow>({
  name: 'recheck_lanes_v4',
  text: (schema) => `
  WITH asked AS MATERIALIZED (
    SELECT ($1::text[])[channel] COLLATE "C" AS channel, key COLLATE "C" AS key
    FROM unnest($2::integer[], $3::text[]) AS asked (channel, key)
  ), found AS MATERIALIZED (
    SELECT asked.*
    FROM asked CROSS JOIN LATERAL (${laneHead(schema, 'asked')}
    ) AS head
    LEFT JOIN LATERAL (
      SELECT * FROM ${schema}.lane WHERE lane.channel = asked.channel AND lane.key = asked.key LIMIT 1
    ) AS known ON true
    WHERE ${isMistaken(schema)}
  ), ${repair(schema, 'found')}
  SELECT channel, key, message, false FROM told
  UNION ALL
  SELECT channel, key, NULL, true
  FROM found
  WHERE (channel, key) NOT IN (SELECT channel, key FROM held UNION ALL SELECT channel, key FROM made)`,
  values: ({ lanes }) => [...channelsOf(lanes), lanes.map(({ key }) => key)],
  row: ([channel, key, message, passedBy]) => ({
    ...freedLane([channel, key, message]),
    passedBy: passedBy as boolean,
  }),
});

/** Writes down the heads of free lanes as they are, of one that is named twice once. Indexes `job_lane`, `lane_pkey`, `lease_pkey`. */
export const repairLanes = defineStatement<{ lanes: readonly LaneName[] }, FreedLaneRow>({
  name: 'repair_lanes_v5',
  text: (schema) => `
  WITH asked AS MATERIALIZED (
    SELECT DISTINCT channel COLLATE "C" AS channel, key COLLATE "C" AS key FROM unnest($1::text[], $2::text[]) AS asked (channel, key)
  ), ${repair(schema, 'asked')}
  SELECT channel, key, message FROM told`,
  values: ({ lanes }) => [lanes.map(({ channel }) => channel), lanes.map(({ key }) => key)],
  row: freedLane,
});

/**
 * The same for all lanes of some channels whose heads are gone: jobs were deleted. Reads every lane of them. Index `lane_pkey`.
 */
export const repairChannels = defineStatement<{ channels: readonly string[] }, FreedLaneRow>({
  name: 'repair_channels_v3',
  text: (schema) => `
  WITH headless AS MATERIALIZED (
    SELECT lane.channel, lane.key
    FROM ${schema}.lane
    WHERE lane.channel = ANY ($1::text[]) AND lane.head_position IS NOT NULL
      AND lane.head_position IS DISTINCT FROM (SELECT position FROM (${laneHead(schema, 'lane')}) AS head)
  ), ${repair(schema, 'headless')}
  SELECT channel, key, message FROM told`,
  values: ({ channels }) => [channels],
  row: freedLane,
});

/**
 * CTEs that write down the heads of the free lanes of a relation, of which `told` has channel, key and message.
 *
 * What they read may be old by the time that they write: a lane that was written since is left alone, its `used_at` tells.
 * Lanes that nobody has met so far come first, in the order in which everybody writes lanes, and the others, which others may
 * wait for, behind them; of those what somebody has locked is passed by. So nobody waits for this crosswise.
 */
const repair = (schema: string, relation: string): string => `met AS MATERIALIZED (
    SELECT asked.channel, asked.key, stored.place, stored.used_at, ${restingOf('head')}
    FROM ${relation} AS asked
    LEFT JOIN LATERAL (${laneHead(schema, 'asked')}
    ) AS head ON true
    LEFT JOIN LATERAL (
      SELECT lane.ctid AS place, used_at
      FROM ${schema}.lane
      WHERE lane.channel = asked.channel AND lane.key = asked.key
      LIMIT 1
    ) AS stored ON true
    WHERE stored.place IS NOT NULL OR head.position IS NOT NULL
  ), made AS (
    INSERT INTO ${schema}.lane AS lane (channel, key, ${resting})
    SELECT channel, key, ${resting} FROM met WHERE place IS NULL
    ORDER BY channel, key
    ON CONFLICT (channel, key) DO NOTHING
    RETURNING lane.channel, lane.key, ${laneMessage('lane')} AS message
  ), held AS MATERIALIZED (
    SELECT met.*
    FROM met CROSS JOIN LATERAL (
      SELECT
      FROM ${schema}.lane
      WHERE lane.channel = met.channel AND lane.key = met.key AND lane.used_at = met.used_at
        AND lane.blocked_by IS NULL AND ${isFree(schema)}
      LIMIT 1
      FOR UPDATE OF lane SKIP LOCKED
    ) AS locked
    WHERE (SELECT count(*) FROM made) >= 0
  ), mended AS (
    UPDATE ${schema}.lane
    SET runner_id = NULL, lease = NULL, last_seq = ${lastSeqOf('lane')}, used_at = clock_timestamp(), priority = held.priority,
      name = coalesce(held.name, lane.name), ready_at = held.ready_at, head_position = held.head_position
    FROM held
    WHERE lane.ctid = held.place AND lane.used_at = held.used_at
      AND (lane.head_position IS DISTINCT FROM held.head_position OR lane.ready_at IS NULL AND held.ready_at IS NOT NULL)
    RETURNING lane.channel, lane.key, ${laneMessage('lane')} AS message
  ), told AS (
    SELECT channel, key, message FROM made
    UNION ALL
    SELECT channel, key, message FROM mended
  )`;

export interface SweptRow {
  /** The last lane of the window, where the next one begins; `null` at the end of all. */
  readonly last: LaneName | null;
  /** What to wake runners with. */
  readonly messages: readonly string[];
}

/** Lanes that one sweep looks at. */
export const LANES_PER_SWEEP = 1_000;

/**
 * Looks at lane after lane for jobs of which nobody knows: told of by a notification that was lost, and committed behind
 * the places to which claims have gone, left by a process that died, or behind a head that somebody has deleted. A lane
 * that ended with its owner's lease is given a head again, and one that waits for a hold which is over goes on. Window by
 * window, without the claims' lock. A loose walk: its cost grows with the lanes that have jobs, not with their jobs. Indexes `job_lane`, `lane_pkey`.
 */
export const sweepLanes = defineStatement<{ after: LaneName | null }, SweptRow>({
  name: 'sweep_lanes_v7',
  text: (schema) => `
  WITH RECURSIVE walk AS (
    (SELECT channel, key, 1 AS step
      FROM ${schema}.job
      WHERE position IS NOT NULL AND (channel, key) > ($1::text, $2::text)
      ORDER BY channel, key
      LIMIT 1)
    UNION ALL
    SELECT next.channel, next.key, walk.step + 1
    FROM walk CROSS JOIN LATERAL (
      SELECT channel, key
      FROM ${schema}.job
      WHERE position IS NOT NULL AND (channel, key) > (walk.channel, walk.key)
      ORDER BY channel, key
      LIMIT 1
    ) AS next
    WHERE walk.step < ${LANES_PER_SWEEP}
  ), known AS MATERIALIZED (
    SELECT walk.channel, walk.key, lane.runner_id, lane.lease, lane.blocked_by, lane.head_position, lane.ready_at
    FROM walk LEFT JOIN LATERAL (
      SELECT * FROM ${schema}.lane WHERE lane.channel = walk.channel AND lane.key = walk.key LIMIT 1
    ) AS lane ON true
  ), forgotten AS MATERIALIZED (
    SELECT known.channel, known.key
    FROM known CROSS JOIN LATERAL (${laneHead(schema, 'known')}
    ) AS head
    WHERE ${isMistaken(schema)}
  ), ${repair(schema, 'forgotten')}, last AS (
    SELECT channel, key FROM walk WHERE step = ${LANES_PER_SWEEP}
  )
  SELECT last.channel, last.key, (
      SELECT json_agg(message) FROM told WHERE message IS NOT NULL
    )
  FROM (SELECT) AS always LEFT JOIN last ON true`,
  values: ({ after }) => [after?.channel ?? '', after?.key ?? ''],
  row: ([channel, key, messages]) => ({
    last: channel === null ? null : { channel: channel as string, key: key as string },
    messages: (messages as string[] | null) ?? [],
  }),
});
