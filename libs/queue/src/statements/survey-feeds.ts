import type { Position } from '../job/job.js';
import { inFeed } from './job-columns.js';
import { defineStatement, micros } from './statement.js';

export interface FeedHead {
  readonly channel: string;
  readonly priority: number;
  readonly group: number;
  readonly name: string;
  /** The first job that is free and has one of the group's names. */
  readonly head: Position;
  /** The feed has jobs with a key. */
  readonly keyed: boolean;
}

export interface SurveyRow {
  readonly nowMicros: number;
  /** `null` in the one row that is always answered. */
  readonly feed: FeedHead | null;
  /** A job whose lease was lost is due. */
  readonly suspects: boolean;
  /** There are jobs whose hold has ended. */
  readonly endedHolds: boolean;
}

export interface SurveyParams {
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

/**
 * Polling: the first free job of every channel and priority for each group of handlers, in one statement that owns
 * nothing and writes nothing. It finds what no notification told of. A loose walk of the index, so its cost grows with
 * the channels, and with the jobs that it has to pass to find one of its own. Indexes `job_feed`, `job_key_feed`, `job_suspect`, `job_held`.
 */
export const surveyFeeds = defineStatement<SurveyParams, SurveyRow>({
  name: 'survey_feeds_v1',
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
  ), handlers AS (
    SELECT number, channel, array_agg(name) AS names
    FROM unnest($1::text[], $2::integer[], $3::text[]) AS handler (name, number, channel)
    GROUP BY number, channel
  )
  SELECT
    ${micros('statement_timestamp()')}, found.channel, found.priority, found.number, ${micros('found.due_at')}, found.id, found.name, found.keyed,
    EXISTS (SELECT FROM ${schema}.job WHERE suspect AND due_at <= statement_timestamp() AND name = ANY ($1::text[])
      AND (id, run) NOT IN (SELECT unnest(lease.job_ids), unnest(lease.runs) FROM ${schema}.lease)),
    EXISTS (SELECT FROM ${schema}.job WHERE held_until <= statement_timestamp())
  FROM (SELECT) AS always
  LEFT JOIN (
    SELECT feed.channel, feed.priority, handlers.number, head.due_at, head.id, head.name, (
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
        AND (candidate.id, candidate.run) NOT IN (SELECT unnest(lease.job_ids), unnest(lease.runs) FROM ${schema}.lease)
      ORDER BY candidate.due_at, candidate.id
      LIMIT 1
    ) AS head
    WHERE ($4::text[] IS NULL OR feed.channel = ANY ($4::text[]))
      AND NOT EXISTS (SELECT FROM ${schema}.paused_channel WHERE paused_channel.channel = feed.channel)
  ) AS found ON true`,
  values: ({ names, groups, groupChannels, channels }) => [names, groups, groupChannels, channels],
  row: ([now, channel, priority, group, due, id, name, keyed, suspects, endedHolds]) => ({
    nowMicros: Number(now),
    suspects: suspects as boolean,
    endedHolds: endedHolds as boolean,
    feed:
      channel === null
        ? null
        : {
            channel: channel as string,
            priority: priority as number,
            group: group as number,
            name: name as string,
            head: { micros: Number(due), id: id as string },
            keyed: keyed as boolean,
          },
  }),
});
