import type { StatsCell, CountParams } from './count-channels.js';
import { inFeed } from './job-columns.js';
import { leasedJobs } from './leased-jobs.js';
import { defineStatement, micros } from './statement.js';

/** A channel, and what of it is known without counting. */
export interface FoundChannel {
  readonly channel: string;
  /** The database's clock, younger than what was read. */
  readonly nowMicros: string;
  readonly paused: boolean;
  /** Priorities of its unordered jobs, and how many of each run. */
  readonly feeds: readonly { readonly priority: number; readonly running: number }[];
  /** What there is to be counted. */
  readonly has: { readonly lanes: boolean; readonly held: boolean; readonly dead: boolean };
  /** Running jobs, and those that wait and whose lease was lost. */
  readonly counts: Partial<Record<StatsCell, number>>;
  /** Of those whose lease was lost there may be more. */
  readonly suspectsCut: boolean;
  readonly oldestReadyMs: number | null;
  readonly unknownNames: readonly string[];
}

/** Suspects that are looked at. */
const MOST_SUSPECTS = 10_000;

/** Jobs in front of a feed, the longest due ones, among which unknown names are looked for: shared by the channels. */
const NAMES_WINDOW = { shared: 1_000, least: 100 };

export const unknownName = (schema: string): string => `name <> ALL ($1::text[])
      AND name NOT IN (SELECT unnest(runner.names) FROM ${schema}.runner WHERE runner.dead_at IS NULL)`;

/** Every value of the first column of an index, one step for each. */
const channelWalk = (name: string, table: string, predicate: string, order: string): string => `${name} AS (
    (SELECT channel FROM ${table} WHERE ${predicate} AND $2::text[] IS NULL ORDER BY ${order} LIMIT 1)
    UNION ALL
    SELECT next.channel
    FROM ${name} CROSS JOIN LATERAL (
      SELECT channel FROM ${table} WHERE ${predicate} AND channel > ${name}.channel ORDER BY ${order} LIMIT 1
    ) AS next
  )`;

const exists = (table: string, condition: string): string =>
  `(SELECT true FROM ${table} WHERE channel = known.channel AND ${condition} LIMIT 1) IS NOT NULL`;

const NOW = '(SELECT at FROM moment)';

const age = (time: string): string => `date_part('epoch', ${NOW} - ${time}) * 1000`;

/** Steps from one channel to the next, and within it from priority to priority. */
const feeds = (schema: string): string => `
    WITH RECURSIVE grade AS (
      (SELECT priority FROM ${schema}.job WHERE channel = known.channel AND ${inFeed} ORDER BY channel, priority LIMIT 1)
      UNION ALL
      SELECT next.priority
      FROM grade CROSS JOIN LATERAL (
        SELECT priority
        FROM ${schema}.job
        WHERE channel = known.channel AND priority > grade.priority AND ${inFeed}
        ORDER BY channel, priority
        LIMIT 1
      ) AS next
    )
    SELECT
      json_agg(json_build_array(grade.priority, coalesce(running.jobs, 0))) AS feeds,
      min(first.due_at) AS oldest,
      (SELECT json_agg(DISTINCT name) FROM grade CROSS JOIN LATERAL (
        SELECT name FROM ${schema}.job
        WHERE channel = known.channel AND job.priority = grade.priority AND ${inFeed}
        ORDER BY due_at, id
        LIMIT (SELECT greatest(${NAMES_WINDOW.shared} / count(*), ${NAMES_WINDOW.least}) FROM known)
      ) AS front WHERE ${unknownName(schema)}) AS unknown
    FROM grade
    LEFT JOIN running ON running.channel = known.channel AND running.priority = grade.priority
    LEFT JOIN LATERAL (
      SELECT due_at
      FROM ${schema}.job
      WHERE channel = known.channel AND job.priority = grade.priority AND ${inFeed} AND due_at <= ${NOW}
        AND (id, run) NOT IN (SELECT id, run FROM leased)
      ORDER BY due_at, id
      LIMIT 1
    ) AS first ON true
    LIMIT 1`;

/**
 * Every channel of which there is something, or those asked for: pauses, running jobs by their leases, those whose lease was
 * lost, the longest due job and unknown names. The cost is that of the channels and of what runs. Indexes `job_feed`, `job_lane`,
 * `job_held_channel`, `finished_job_channel`, `job_suspect`, `lease_pkey`, `job_pkey`.
 */
export const findChannels = defineStatement<CountParams, FoundChannel>({
  name: 'find_channels_v1',
  text: (schema) => `
  WITH RECURSIVE ${channelWalk('feed_walk', `${schema}.job`, inFeed, 'channel, priority')}
  , ${channelWalk('lane_walk', `${schema}.job`, 'position IS NOT NULL', 'channel, key')}
  , ${channelWalk('held_walk', `${schema}.job`, 'held_until IS NOT NULL', 'channel, held_until')}
  , ${channelWalk('finished_walk', `${schema}.finished_job`, 'true', 'channel, state')}
  , moment AS MATERIALIZED (
    SELECT clock_timestamp() AS at
  ), leased AS MATERIALIZED (${leasedJobs(schema)}
  ), running AS MATERIALIZED (
    SELECT channel, priority, count(*) AS jobs FROM leased WHERE in_feed AND due_at <= ${NOW} GROUP BY channel, priority
  ), suspect AS MATERIALIZED (
    SELECT channel, count(*) FILTER (WHERE free) AS jobs,
      count(*) FILTER (WHERE free AND due_at <= ${NOW}) AS ready,
      count(*) FILTER (WHERE free AND due_at > ${NOW} AND attempt = 0) AS scheduled,
      count(*) FILTER (WHERE free AND due_at > ${NOW} AND attempt > 0) AS retrying,
      min(due_at) FILTER (WHERE free AND due_at <= ${NOW}) AS oldest,
      json_agg(DISTINCT name) FILTER (WHERE free AND ${unknownName(schema)}) AS unknown
    FROM (
      SELECT channel, name, attempt, due_at, position IS NULL AND (id, run) NOT IN (SELECT id, run FROM leased) AS free
      FROM (SELECT * FROM ${schema}.job WHERE suspect ORDER BY due_at, id LIMIT ${MOST_SUSPECTS}) AS job
    ) AS job
    GROUP BY channel
  ), known AS MATERIALIZED (
    SELECT channel FROM (
      SELECT channel FROM feed_walk UNION SELECT channel FROM lane_walk UNION SELECT channel FROM held_walk
      UNION SELECT channel FROM finished_walk UNION SELECT channel FROM suspect UNION SELECT channel FROM leased
      UNION SELECT channel FROM ${schema}.paused_channel
    ) AS every
    WHERE $2::text[] IS NULL
    UNION
    SELECT channel COLLATE "C" FROM unnest($2::text[]) AS given (channel)
  )
  SELECT known.channel, ${micros(NOW)},
    ${exists(`${schema}.paused_channel`, 'true')},
    of_feeds.feeds,
    ${exists(`${schema}.job`, 'position IS NOT NULL')},
    ${exists(`${schema}.job`, 'held_until IS NOT NULL')},
    ${exists(`${schema}.finished_job`, `state = 'dead'`)},
    (SELECT count(*) FROM leased WHERE leased.channel = known.channel),
    suspect.ready, suspect.scheduled, suspect.retrying,
    (SELECT count(*) = ${MOST_SUSPECTS} FROM (SELECT FROM ${schema}.job WHERE job.suspect LIMIT ${MOST_SUSPECTS}) AS every),
    ${age('least(suspect.oldest, of_feeds.oldest)')},
    of_feeds.unknown, suspect.unknown
  FROM known
  LEFT JOIN suspect ON suspect.channel = known.channel
  CROSS JOIN LATERAL (${feeds(schema)}
  ) AS of_feeds`,
  values: ({ names, channels }) => [names, channels],
  row: (columns) => found(columns),
});

function found(columns: unknown[]): FoundChannel {
  const [
    channel,
    nowMicros,
    paused,
    feedsOf,
    lanes,
    held,
    dead,
    running,
    ready,
    scheduled,
    retrying,
    cut,
    oldest,
    front,
    lost,
  ] = columns;
  return {
    channel: channel as string,
    nowMicros: nowMicros as string,
    paused: paused as boolean,
    feeds: ((feedsOf as [number, number][] | null) ?? []).map(([priority, jobs]) => ({ priority, running: jobs })),
    has: { lanes: lanes as boolean, held: held as boolean, dead: dead as boolean },
    counts: {
      running: Number(running),
      ready: Number(ready ?? 0),
      scheduled: Number(scheduled ?? 0),
      retrying: Number(retrying ?? 0),
    },
    suspectsCut: cut as boolean,
    oldestReadyMs: oldest as number | null,
    unknownNames: [...((front as string[] | null) ?? []), ...((lost as string[] | null) ?? [])],
  };
}
