import { inFeed } from './job-columns.js';
import { leasedJobs } from './leased-jobs.js';
import { defineStatement } from './statement.js';

/** Up to here a count is exact. */
export const EXACT = 10_000;

/** What is counted of each channel. */
export type StatsCell = 'scheduled' | 'ready' | 'blocked' | 'retrying' | 'held' | 'running' | 'dead';

/** A part of what stands in one channel; parts of one channel are added up. */
export interface ChannelPart {
  readonly channel: string;
  readonly paused?: boolean;
  readonly counts: Partial<Record<StatsCell, number>>;
  /** Cells of which there may be more. */
  readonly cut: readonly StatsCell[];
  readonly oldestReadyMs?: number | null;
  readonly unknownNames?: readonly string[];
}

export interface CountParams {
  /** Names that this application handles; those that living runners tell of are added. */
  readonly names: readonly string[];
  /** `null`: all. */
  readonly channels: readonly string[] | null;
}

/** Jobs in front of a feed, the longest due ones, among which unknown names are looked for. */
const NAMES_WINDOW = 1_000;

/** Retries of a channel that are counted at most, to tell the jobs scheduled for their first run from them. */
const MOST_RETRIES = 50_000;

const values = ({ names, channels }: CountParams): unknown[] => [names, channels];

const isWanted = '($2::text[] IS NULL OR channel = ANY ($2::text[]))';

const unknownName = (schema: string): string => `name <> ALL ($1::text[])
      AND name NOT IN (SELECT unnest(runner.names) FROM ${schema}.runner WHERE runner.dead_at IS NULL)`;

const age = (time: string): string => `date_part('epoch', statement_timestamp() - ${time}) * 1000`;

/** Every value of the first column of an index, one step for each. */
const channelWalk = (table: string, predicate: string, order: string): string => `walk AS (
    (SELECT channel FROM ${table} WHERE ${predicate} ORDER BY ${order} LIMIT 1)
    UNION ALL
    SELECT next.channel
    FROM walk CROSS JOIN LATERAL (
      SELECT channel FROM ${table} WHERE ${predicate} AND channel > walk.channel ORDER BY ${order} LIMIT 1
    ) AS next
  )`;

/** How many rows, looking at so many at most. */
export const countUpTo = (rows: string, limit: number | string): string =>
  `(SELECT count(*) FROM (${rows} LIMIT ${limit}) AS seen)`;

/**
 * Unordered jobs that are in no doubt, of every channel and priority. Due ones, less those that run, are ready; later ones
 * are scheduled, less those that have run before. Indexes `job_feed`, `job_retrying`, `job_pkey`.
 */
export const countFeeds = defineStatement<CountParams, ChannelPart>({
  name: 'count_feeds_v1',
  text: (schema) => `
  WITH RECURSIVE feed AS (
    (SELECT channel, priority FROM ${schema}.job WHERE ${inFeed} ORDER BY channel, priority LIMIT 1)
    UNION ALL
    SELECT next.channel, next.priority
    FROM feed CROSS JOIN LATERAL (
      SELECT channel, priority
      FROM ${schema}.job
      WHERE ${inFeed} AND (channel, priority) > (feed.channel, feed.priority)
      ORDER BY channel, priority
      LIMIT 1
    ) AS next
  ), wanted AS MATERIALIZED (
    SELECT channel, array_agg(priority) AS priorities FROM feed WHERE ${isWanted} GROUP BY channel
  ), leased AS MATERIALIZED (
    SELECT held.id, held.run, found.channel, found.priority
    FROM ${schema}.lease CROSS JOIN LATERAL unnest(lease.job_ids, lease.runs) AS held (id, run)
    CROSS JOIN LATERAL (
      SELECT channel, priority FROM ${schema}.job WHERE job.id = held.id AND job.run = held.run AND ${inFeed} AND due_at <= statement_timestamp() LIMIT 1
    ) AS found
    WHERE lease.keys IS NULL
  ), running AS MATERIALIZED (
    SELECT channel, priority, count(*) AS jobs FROM leased GROUP BY channel, priority
  ), part AS (
    SELECT wanted.channel, due.*, retrying.jobs AS retrying, retrying.jobs >= ${MOST_RETRIES} AS retries_cut, later.jobs AS later
    FROM wanted
    CROSS JOIN LATERAL (
      SELECT ${countUpTo(
        `SELECT FROM ${schema}.job WHERE channel = wanted.channel AND attempt > 0 AND ${inFeed} AND due_at > statement_timestamp()`,
        MOST_RETRIES,
      )} AS jobs
      LIMIT 1
    ) AS retrying
    CROSS JOIN LATERAL (
      SELECT
        sum(greatest(counted.due - coalesce(running.jobs, 0), 0)) AS ready,
        bool_or(counted.due > ${EXACT} + coalesce(running.jobs, 0)) AS ready_cut,
        min(first.due_at) AS oldest,
        (SELECT json_agg(DISTINCT name) FROM unnest(wanted.priorities) AS of_priority (priority) CROSS JOIN LATERAL (
          SELECT name FROM ${schema}.job
          WHERE channel = wanted.channel AND job.priority = of_priority.priority AND ${inFeed}
          ORDER BY due_at, id
          LIMIT ${NAMES_WINDOW}
        ) AS front WHERE ${unknownName(schema)}) AS unknown
      FROM unnest(wanted.priorities) AS grade (priority)
      LEFT JOIN running ON running.channel = wanted.channel AND running.priority = grade.priority
      CROSS JOIN LATERAL (
        SELECT ${countUpTo(
          `SELECT FROM ${schema}.job WHERE channel = wanted.channel AND job.priority = grade.priority AND ${inFeed} AND due_at <= statement_timestamp()`,
          `${EXACT + 1} + coalesce(running.jobs, 0)`,
        )} AS due
        LIMIT 1
      ) AS counted
      LEFT JOIN LATERAL (
        SELECT due_at
        FROM ${schema}.job
        WHERE channel = wanted.channel AND job.priority = grade.priority AND ${inFeed} AND due_at <= statement_timestamp()
          AND (id, run) NOT IN (SELECT id, run FROM leased)
        ORDER BY due_at, id
        LIMIT 1
      ) AS first ON true
      LIMIT 1
    ) AS due
    CROSS JOIN LATERAL (
      SELECT sum(${countUpTo(
        `SELECT FROM ${schema}.job WHERE channel = wanted.channel AND job.priority = grade.priority AND ${inFeed} AND due_at > statement_timestamp()`,
        `${EXACT + 1} + retrying.jobs`,
      )}) AS jobs
      FROM unnest(wanted.priorities) AS grade (priority)
      LIMIT 1
    ) AS later
  )
  SELECT channel, ready, ready_cut, ${age('oldest')}, unknown, retrying, CASE WHEN retries_cut THEN 0 ELSE later - retrying END, retries_cut
  FROM part`,
  values,
  row: ([channel, ready, readyCut, oldest, unknown, retrying, scheduled, retriesCut]) => ({
    channel: channel as string,
    counts: { ready: Number(ready), retrying: Number(retrying), scheduled: Number(scheduled) },
    cut: [...(readyCut ? (['ready'] as const) : []), ...(retriesCut ? (['scheduled', 'retrying'] as const) : [])],
    oldestReadyMs: oldest === null ? null : Number(oldest),
    unknownNames: (unknown as string[] | null) ?? [],
  }),
});

/** Jobs behind the heads of a channel's lanes that are counted at most. */
const MOST_BEHIND = EXACT;

/**
 * Ordered jobs: the heads of a channel's lanes are ready, scheduled, waiting for a retry or running; what stands behind
 * them, or behind a dead job, is blocked. A loose walk over the lanes. Indexes `job_lane`, `lane_blocked`, `lane_pkey`,
 * `job_held_channel`.
 */
export const countLanes = defineStatement<CountParams, ChannelPart>({
  name: 'count_lanes_v1',
  text: (schema) => `
  WITH RECURSIVE ${channelWalk(`${schema}.job`, 'position IS NOT NULL', 'channel, key')}
  , leased AS MATERIALIZED (
    SELECT held.id, held.run
    FROM ${schema}.lease CROSS JOIN LATERAL unnest(lease.job_ids, lease.runs, lease.keys) AS held (id, run, key)
    WHERE lease.keys IS NOT NULL AND EXISTS (
      SELECT FROM ${schema}.lane
      WHERE lane.channel = lease.channel AND lane.key = held.key AND lane.runner_id = lease.runner_id AND lane.lease = lease.number
    )
  )
  SELECT walk.channel, head.*, stands.jobs, stands.followers, held.jobs
  FROM walk
  CROSS JOIN LATERAL (
    WITH RECURSIVE lane_head AS (
      (SELECT 1 AS step, channel, key, id, run, due_at, attempt, name, held_until
        FROM ${schema}.job
        WHERE channel = walk.channel AND position IS NOT NULL
        ORDER BY key, seq, position
        LIMIT 1)
      UNION ALL
      SELECT lane_head.step + 1, next.*
      FROM lane_head CROSS JOIN LATERAL (
        SELECT channel, key, id, run, due_at, attempt, name, held_until
        FROM ${schema}.job
        WHERE channel = walk.channel AND position IS NOT NULL AND key > lane_head.key
        ORDER BY key, seq, position
        LIMIT 1
      ) AS next
      WHERE lane_head.step <= ${EXACT}
    ), known AS (
      SELECT *, (id, run) IN (SELECT id, run FROM leased) AS running,
        (channel, key) NOT IN (SELECT channel, key FROM ${schema}.lane WHERE blocked_by IS NOT NULL) AND held_until IS NULL AS free
      FROM lane_head
    )
    SELECT
      count(*) AS heads,
      count(*) FILTER (WHERE running) AS running,
      count(*) FILTER (WHERE NOT running AND free AND due_at <= statement_timestamp()) AS ready,
      count(*) FILTER (WHERE NOT running AND free AND due_at > statement_timestamp() AND attempt = 0) AS scheduled,
      count(*) FILTER (WHERE NOT running AND free AND due_at > statement_timestamp() AND attempt > 0) AS retrying,
      ${age('min(due_at) FILTER (WHERE NOT running AND free AND due_at <= statement_timestamp())')} AS oldest,
      json_agg(DISTINCT name) FILTER (WHERE NOT running AND held_until IS NULL AND ${unknownName(schema)}) AS unknown
    FROM known
    LIMIT 1
  ) AS head
  CROSS JOIN LATERAL (
    SELECT ${countUpTo(
      `SELECT FROM ${schema}.job WHERE channel = walk.channel AND held_until IS NOT NULL AND position IS NOT NULL`,
      EXACT,
    )} AS jobs
    LIMIT 1
  ) AS held
  CROSS JOIN LATERAL (
    SELECT sum(of_lane.jobs) AS jobs, sum(of_lane.jobs - 1) AS followers
    FROM (
      SELECT count(*) AS jobs
      FROM (
        SELECT key FROM ${schema}.job WHERE channel = walk.channel AND position IS NOT NULL ORDER BY key LIMIT ${MOST_BEHIND + 1} + head.heads + held.jobs
      ) AS seen
      GROUP BY key
    ) AS of_lane
    LIMIT 1
  ) AS stands
  WHERE ${isWanted}`,
  values,
  row: ([channel, heads, running, ready, scheduled, retrying, oldest, unknown, jobs, followers, held]) =>
    laneCounts(
      {
        channel: channel as string,
        counts: {
          running: Number(running),
          ready: Number(ready),
          scheduled: Number(scheduled),
          retrying: Number(retrying),
        },
        oldestReadyMs: oldest === null ? null : Number(oldest),
        unknownNames: (unknown as string[] | null) ?? [],
      },
      { heads: Number(heads), jobs: Number(jobs), followers: Number(followers), held: Number(held) },
    ),
});

interface LaneNumbers {
  readonly heads: number;
  readonly jobs: number;
  /** Of these jobs: behind a head. */
  readonly followers: number;
  /** Held ones, wherever they stand. */
  readonly held: number;
}

function laneCounts(part: Omit<ChannelPart, 'cut'>, { heads, jobs, followers, held }: LaneNumbers): ChannelPart {
  const manyLanes = heads > EXACT;
  const manyJobs = jobs > MOST_BEHIND + heads + held;
  const { running = 0, ready = 0, scheduled = 0, retrying = 0 } = part.counts;
  const blocked = manyLanes ? followers - held : jobs - held - running - ready - scheduled - retrying;
  const lanesCut = manyLanes ? (['ready', 'scheduled', 'retrying', 'blocked'] as const) : [];
  return {
    ...part,
    counts: { ...part.counts, running: 0, blocked: Math.max(0, blocked) },
    cut: [...lanesCut, ...(manyJobs && !manyLanes ? (['blocked'] as const) : [])],
  };
}

/**
 * What is counted channel by channel without a difference of order: running jobs by their leases, held ones, those whose
 * lease was lost, dead ones, and pauses. Indexes `lease_pkey`, `job_pkey`, `job_held_channel`, `job_suspect`,
 * `finished_job_channel`.
 */
export const countOthers = defineStatement<CountParams, ChannelPart>({
  name: 'count_others_v1',
  text: (schema) => `
  WITH RECURSIVE ${channelWalk(`${schema}.finished_job`, 'true', 'channel, state')}
  , held_channel AS (
    (SELECT channel FROM ${schema}.job WHERE held_until IS NOT NULL ORDER BY channel LIMIT 1)
    UNION ALL
    SELECT next.channel
    FROM held_channel CROSS JOIN LATERAL (
      SELECT channel FROM ${schema}.job WHERE held_until IS NOT NULL AND channel > held_channel.channel ORDER BY channel LIMIT 1
    ) AS next
  ), leased AS MATERIALIZED (${leasedJobs(schema)}
  ), suspect AS MATERIALIZED (
    SELECT channel, name, attempt, due_at
    FROM (
      SELECT * FROM ${schema}.job WHERE suspect ORDER BY due_at, id LIMIT ${EXACT + 1}
    ) AS job
    WHERE position IS NULL AND (id, run) NOT IN (SELECT id, run FROM leased)
  ), part AS MATERIALIZED (
    SELECT channel, 'running' AS cell, count(*) AS jobs, NULL::double precision AS oldest, NULL::json AS unknown
    FROM leased GROUP BY channel
    UNION ALL
    SELECT held_channel.channel, 'held', ${countUpTo(
      `SELECT FROM ${schema}.job WHERE channel = held_channel.channel AND held_until IS NOT NULL AND held_until > '-infinity'`,
      EXACT + 1,
    )}, NULL, NULL
    FROM held_channel
    UNION ALL
    SELECT channel, CASE WHEN due_at <= statement_timestamp() THEN 'ready' WHEN attempt > 0 THEN 'retrying' ELSE 'scheduled' END, count(*),
      ${age('min(due_at) FILTER (WHERE due_at <= statement_timestamp())')}, json_agg(DISTINCT name) FILTER (WHERE ${unknownName(schema)})
    FROM suspect GROUP BY 1, 2
    UNION ALL
    SELECT walk.channel, 'dead', ${countUpTo(`SELECT FROM ${schema}.finished_job WHERE channel = walk.channel AND state = 'dead'`, EXACT + 1)}, NULL, NULL
    FROM walk
    UNION ALL
    SELECT channel, 'paused', 1, NULL, NULL FROM ${schema}.paused_channel
  )
  SELECT channel, cell, jobs, oldest, unknown FROM part WHERE jobs > 0 AND ${isWanted}`,
  values,
  row: ([channel, cell, jobs, oldest, unknown]) => ({
    channel: channel as string,
    paused: cell === 'paused',
    counts: cell === 'paused' ? {} : { [cell as StatsCell]: Number(jobs) },
    cut: [],
    oldestReadyMs: oldest as number | null,
    unknownNames: (unknown as string[] | null) ?? [],
  }),
});
