import type { Position } from '../job/job.js';
import type { Stream } from './wake-up.js';
import { inArrivals, inFeed } from './job-columns.js';
import { defineStatement, micros, timeOf } from './statement.js';
import { leasedRuns, unleased } from './unleased.js';

export interface FeedHead {
  readonly channel: string;
  readonly priority: number;
  readonly group: number;
  readonly stream: Stream;
  readonly name: string;
  /** The first job or lane that is free and has one of the group's names; `null` when nothing has arrived behind the position asked for. */
  readonly head: Position | null;
  /** The feed has jobs with a key. */
  readonly keyed: boolean;
}

export interface SurveyRow {
  readonly nowMicros: number;
  /** `null` in the one row that is always answered. */
  readonly feed: FeedHead | null;
  /** A job whose lease was lost is due. */
  readonly suspects: boolean;
  /** There are ordered jobs. */
  readonly ordered: boolean;
  /** There are jobs whose hold has ended. */
  readonly endedHolds: boolean;
  /** When the next hold will end, microseconds; `null`: there is none. */
  readonly nextHoldMicros: number | null;
}

/** How far arrivals have been looked at. */
export interface ArrivalPosition {
  readonly channel: string;
  readonly priority: number;
  readonly after: Position;
}

export interface SurveyParams {
  readonly arrivals: readonly ArrivalPosition[];
  /** What each entry asks for: a name… */
  readonly names: readonly string[];
  /** …the group that it belongs to… */
  readonly groups: readonly number[];
  /** …and the only channel in which that group is asked for, `null`: all. */
  readonly groupChannels: readonly (string | null)[];
  /** Channels that are served, `null`: every one. */
  readonly channels: readonly string[] | null;
}

/** Jobs of others that a survey walks over at most for a group with a channel of its own. */
const WINDOW = 50_000;

/** Every channel and priority that an index beginning with these two has, one step for each. */
const looseWalk = (name: string, table: string, predicate: string): string => `${name} AS (
    (SELECT channel, priority FROM ${table} WHERE ${predicate} ORDER BY channel, priority LIMIT 1)
    UNION ALL
    SELECT next.channel, next.priority
    FROM ${name} CROSS JOIN LATERAL (
      SELECT channel, priority
      FROM ${table}
      WHERE ${predicate} AND (channel, priority) > (${name}.channel, ${name}.priority)
      ORDER BY channel, priority
      LIMIT 1
    ) AS next`;

/**
 * Polling: the first free job of every channel and priority for each group of handlers, in one statement that owns
 * nothing and writes nothing. It finds what no notification told of. A loose walk of the index, so its cost grows with
 * the channels, and with the jobs that it has to pass to find one of its own. Of the arrivals it is the first of any name, behind the place that has been looked at: most may belong to
 * lanes that have an owner. Indexes `job_feed`, `job_key_feed`, `job_suspect`, `job_arrival`, `lane_ready`, `job_held`.
 */
export const surveyFeeds = defineStatement<SurveyParams, SurveyRow>({
  name: 'survey_feeds_v4',
  text: (schema) => `
  WITH RECURSIVE ${looseWalk('feed', `${schema}.job`, inFeed)}
  ), ${looseWalk('arrival_feed', `${schema}.job`, inArrivals)}
  ), ${looseWalk('lane_feed', `${schema}.lane`, 'ready_at IS NOT NULL')}
  ), arrived AS (
    SELECT channel COLLATE "C" AS channel, priority, ${timeOf('micros')} AS at, id
    FROM unnest($5::text[], $6::smallint[], $7::bigint[], $8::bigint[]) AS arrived (channel, priority, micros, id)
  ), handlers AS (
    SELECT number, channel, array_agg(name) AS names
    FROM unnest($1::text[], $2::integer[], $3::text[]) AS handler (name, number, channel)
    GROUP BY number, channel
  )
  SELECT
    ${micros('statement_timestamp()')}, found.stream, found.channel, found.priority, found.number, ${micros('found.due_at')}, found.id, found.name, found.keyed,
    EXISTS (SELECT FROM ${schema}.job WHERE suspect AND due_at <= statement_timestamp() AND name = ANY ($1::text[])
      AND ${unleased(schema)}),
    EXISTS (SELECT FROM ${schema}.job WHERE held_until <= statement_timestamp()),
    (SELECT ${micros('held_until')} FROM ${schema}.job WHERE held_until > statement_timestamp() ORDER BY held_until LIMIT 1),
    (SELECT true FROM ${schema}.job WHERE position IS NOT NULL ORDER BY channel, key LIMIT 1)
  FROM (SELECT) AS always
  LEFT JOIN (
    SELECT 'jobs' AS stream, feed.channel, feed.priority, handlers.number, head.due_at, head.id, head.name, (
      SELECT true FROM ${schema}.job
      WHERE channel = feed.channel AND priority = feed.priority AND ${inFeed} AND key <> ''
      ORDER BY key
      LIMIT 1
    ) IS NOT NULL AS keyed
    FROM feed JOIN handlers ON handlers.channel IS NULL OR handlers.channel = feed.channel
    CROSS JOIN LATERAL (
      SELECT candidate.due_at, candidate.id, candidate.name
      FROM (
        SELECT due_at, id, run, name
        FROM ${schema}.job
        WHERE channel = feed.channel AND priority = feed.priority AND ${inFeed}
        ORDER BY due_at, id
        LIMIT CASE WHEN handlers.channel IS NOT NULL THEN ${WINDOW} END
      ) AS candidate
      WHERE candidate.name = ANY (handlers.names)
        AND (candidate.id, candidate.run) NOT IN ${leasedRuns(schema)}
      ORDER BY candidate.due_at, candidate.id
      LIMIT 1
    ) AS head
    WHERE ($4::text[] IS NULL OR feed.channel = ANY ($4::text[]))
      AND NOT EXISTS (SELECT FROM ${schema}.paused_channel WHERE paused_channel.channel = feed.channel)
    UNION ALL
    SELECT 'arrivals', feed.channel, feed.priority, 0, head.due_at, head.id, head.name, false
    FROM arrival_feed AS feed
    LEFT JOIN arrived ON arrived.channel = feed.channel AND arrived.priority = feed.priority
    LEFT JOIN LATERAL (
      SELECT due_at, id, name
      FROM ${schema}.job
      WHERE channel = feed.channel AND priority = feed.priority AND ${inArrivals}
        AND (due_at, id) > (coalesce(arrived.at, 'epoch'), coalesce(arrived.id, 0))
      ORDER BY due_at, id
      LIMIT 1
    ) AS head ON true
    WHERE ($4::text[] IS NULL OR feed.channel = ANY ($4::text[]))
      AND NOT EXISTS (SELECT FROM ${schema}.paused_channel WHERE paused_channel.channel = feed.channel)
    UNION ALL
    SELECT 'lanes', feed.channel, feed.priority, handlers.number, head.ready_at, head.head_position, head.name, false
    FROM lane_feed AS feed JOIN handlers ON handlers.channel IS NULL OR handlers.channel = feed.channel
    CROSS JOIN LATERAL (
      SELECT ready_at, head_position, name
      FROM ${schema}.lane
      WHERE channel = feed.channel AND priority = feed.priority AND ready_at IS NOT NULL AND name = ANY (handlers.names)
      ORDER BY ready_at, head_position
      LIMIT 1
    ) AS head
    WHERE ($4::text[] IS NULL OR feed.channel = ANY ($4::text[]))
      AND NOT EXISTS (SELECT FROM ${schema}.paused_channel WHERE paused_channel.channel = feed.channel)
  ) AS found ON true`,
  values: ({ names, groups, groupChannels, channels, arrivals }) => [
    ...[names, groups, groupChannels, channels],
    arrivals.map(({ channel }) => channel),
    arrivals.map(({ priority }) => priority),
    arrivals.map(({ after }) => after.micros),
    arrivals.map(({ after }) => after.id),
  ],
  row: ([now, stream, channel, priority, group, due, id, name, keyed, suspects, endedHolds, nextHold, ordered]) => ({
    nowMicros: Number(now),
    suspects: suspects as boolean,
    ordered: ordered === true,
    endedHolds: endedHolds as boolean,
    nextHoldMicros: nextHold === null ? null : Number(nextHold),
    feed:
      channel === null
        ? null
        : {
            stream: stream as Stream,
            channel: channel as string,
            priority: priority as number,
            group: group as number,
            name: name as string,
            head: id === null ? null : { micros: Number(due), id: id as string },
            keyed: keyed as boolean,
          },
  }),
});
