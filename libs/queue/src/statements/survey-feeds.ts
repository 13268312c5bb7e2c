import type { Position } from '../job/job.js';
import { defineStatement, micros } from './statement.js';

export interface FeedHead {
  readonly channel: string;
  readonly priority: number;
  readonly group: number;
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
}

export interface SurveyParams {
  /** Names of the jobs that are looked for… */
  readonly names: readonly string[];
  /** …and the group of handlers that each belongs to. */
  readonly groups: readonly number[];
  /** `null`: every channel. */
  readonly channels: readonly string[] | null;
}

/**
 * Polling: the first free job of every channel and priority for each group of handlers, in one statement that owns nothing and writes nothing. It
 * finds what no notification told of. A loose walk of the index, so its cost grows with the channels, not with the jobs.
 * Indexes `job_feed`, `job_key_feed`, `job_suspect`.
 */
export const surveyFeeds = defineStatement<SurveyParams, SurveyRow>({
  name: 'survey_feeds_v1',
  text: (schema) => `
  WITH RECURSIVE feed AS (
    (SELECT channel, priority FROM ${schema}.job WHERE NOT suspect ORDER BY channel, priority LIMIT 1)
    UNION ALL
    SELECT next.channel, next.priority
    FROM feed CROSS JOIN LATERAL (
      SELECT channel, priority
      FROM ${schema}.job
      WHERE NOT suspect AND (channel, priority) > (feed.channel, feed.priority)
      ORDER BY channel, priority
      LIMIT 1
    ) AS next
  ), handlers AS (
    SELECT number, array_agg(name) AS names FROM unnest($1::text[], $2::integer[]) AS handler (name, number) GROUP BY number
  )
  SELECT
    ${micros('statement_timestamp()')}, found.channel, found.priority, found.number, ${micros('found.due_at')}, found.id, found.keyed,
    EXISTS (SELECT FROM ${schema}.job WHERE suspect AND due_at <= statement_timestamp() AND name = ANY ($1::text[])
      AND (id, run) NOT IN (SELECT unnest(lease.job_ids), unnest(lease.runs) FROM ${schema}.lease))
  FROM (SELECT) AS always
  LEFT JOIN (
    SELECT feed.channel, feed.priority, handlers.number, head.due_at, head.id, EXISTS (
      SELECT FROM ${schema}.job AS keyed
      WHERE keyed.channel = feed.channel AND keyed.priority = feed.priority AND NOT keyed.suspect AND keyed.key <> ''
    ) AS keyed
    FROM feed CROSS JOIN handlers CROSS JOIN LATERAL (
      SELECT job.due_at, job.id
      FROM ${schema}.job
      WHERE job.channel = feed.channel AND job.priority = feed.priority AND NOT job.suspect AND job.name = ANY (handlers.names)
        AND (job.id, job.run) NOT IN (SELECT unnest(lease.job_ids), unnest(lease.runs) FROM ${schema}.lease)
      ORDER BY job.due_at, job.id
      LIMIT 1
    ) AS head
    WHERE ($3::text[] IS NULL OR feed.channel = ANY ($3::text[]))
      AND NOT EXISTS (SELECT FROM ${schema}.paused_channel WHERE paused_channel.channel = feed.channel)
  ) AS found ON true`,
  values: ({ names, groups, channels }) => [names, groups, channels],
  row: ([now, channel, priority, group, due, id, keyed, suspects]) => ({
    nowMicros: Number(now),
    suspects: suspects as boolean,
    feed:
      channel === null
        ? null
        : {
            channel: channel as string,
            priority: priority as number,
            group: group as number,
            head: { micros: Number(due), id: id as string },
            keyed: keyed as boolean,
          },
  }),
});
