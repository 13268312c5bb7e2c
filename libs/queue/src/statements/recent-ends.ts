import { countUpTo, EXACT, type CountParams } from './count-channels.js';
import { leasedJobs } from './leased-jobs.js';
import { defineStatement } from './statement.js';

/** What is kept of the jobs of one state, in all channels asked for. */
export interface FinishedCounts {
  readonly state: string;
  /** Of every channel up to 10 000. */
  readonly jobs: number;
  readonly pastHour: number;
  readonly today: number;
  readonly past24Hours: number;
  readonly past7Days: number;
  /** From when they were due to their end, all of the past seven days together. */
  readonly sumMs: number;
  readonly lastAt: Date | null;
  /** There are more jobs than were counted; and more in the past seven days. */
  readonly cut: boolean;
  readonly recentCut: boolean;
}

/** One step for each channel that has finished jobs. */
const channels = (schema: string): string => `walk AS (
    (SELECT channel FROM ${schema}.finished_job ORDER BY channel, state LIMIT 1)
    UNION ALL
    SELECT next.channel
    FROM walk CROSS JOIN LATERAL (
      SELECT channel FROM ${schema}.finished_job WHERE channel > walk.channel ORDER BY channel, state LIMIT 1
    ) AS next
  ), asked AS (
    SELECT channel, state COLLATE "C" AS state
    FROM walk CROSS JOIN unnest('{completed,cancelled,dead,reprocessing,resolved,discarded}'::text[]) AS every (state)
    WHERE $2::text[] IS NULL OR channel = ANY ($2::text[])
  ), recent AS MATERIALIZED (
    SELECT asked.channel, asked.state, latest.finished_at, latest.due_at
    FROM asked CROSS JOIN LATERAL (
      SELECT finished_at, due_at
      FROM ${schema}.finished_job
      WHERE finished_job.channel = asked.channel AND finished_job.state = asked.state
        AND finished_at > statement_timestamp() - interval '7 days'
      ORDER BY finished_at DESC
      LIMIT ${EXACT + 1}
    ) AS latest
  )`;

const values = ({ names, channels: wanted }: CountParams): unknown[] => [names, wanted];

const within = (time: string): string => `count(*) FILTER (WHERE finished_at > ${time})`;

/**
 * Finished jobs that are kept, by state: how many, and how many ended lately. Reads the latest 10 000 of each channel and
 * state at most. Index `finished_job_channel`.
 */
export const countFinished = defineStatement<CountParams, FinishedCounts>({
  name: 'count_finished_v1',
  text: (schema) => `
  WITH RECURSIVE ${channels(schema)}
  , total AS MATERIALIZED (
    SELECT asked.channel, asked.state, ${countUpTo(
      `SELECT FROM ${schema}.finished_job WHERE finished_job.channel = asked.channel AND finished_job.state = asked.state`,
      EXACT + 1,
    )} AS jobs
    FROM asked
  ), lately AS (
    SELECT channel, state, count(*) AS jobs, max(finished_at) AS last_at,
      ${within(`statement_timestamp() - interval '1 hour'`)} AS hour,
      ${within(`date_trunc('day', statement_timestamp(), 'UTC')`)} AS today,
      ${within(`statement_timestamp() - interval '24 hours'`)} AS day,
      sum(date_part('epoch', finished_at - due_at) * 1000) AS sum_ms
    FROM recent
    GROUP BY channel, state
  )
  SELECT state, sum(least(total.jobs, ${EXACT})), sum(hour), sum(today), sum(day), sum(least(lately.jobs, ${EXACT})), sum(sum_ms), max(last_at),
    bool_or(total.jobs > ${EXACT}), bool_or(lately.jobs > ${EXACT})
  FROM total LEFT JOIN lately USING (channel, state)
  WHERE $1::text[] IS NULL OR total.jobs > 0
  GROUP BY state`,
  values,
  row: ([state, jobs, hour, today, day, week, sumMs, lastAt, cut, recentCut]) => ({
    state: state as string,
    jobs: Number(jobs),
    pastHour: Number(hour),
    today: Number(today),
    past24Hours: Number(day),
    past7Days: Number(week),
    sumMs: Number(sumMs),
    lastAt: lastAt as Date | null,
    cut: cut === true,
    recentCut: recentCut === true,
  }),
});

/** What has no place in a channel's counts. */
export interface QueueFacts {
  /** Running for longer than an hour. */
  readonly stale: number;
  /** How long the longest run goes on, `null` when nothing runs. */
  readonly longestMs: number | null;
  /** Of the past 24 hours, the most jobs that ended within one hour of the clock. */
  readonly peakHour: number;
  /** What the tables and indexes take, bytes. */
  readonly bytes: number;
}

/** The same sample, and what runs. Indexes `finished_job_channel`, `lease_pkey`, `job_pkey`. */
export const readFacts = defineStatement<CountParams, QueueFacts>({
  name: 'read_facts_v1',
  text: (schema) => `
  WITH RECURSIVE ${channels(schema)}
  , leased AS MATERIALIZED (
    SELECT age.ms
    FROM (${leasedJobs(schema)}
    ) AS held
    CROSS JOIN LATERAL (
      SELECT date_part('epoch', statement_timestamp() - lease.created_at) * 1000 AS ms
      FROM ${schema}.lease
      WHERE lease.runner_id = held.runner_id AND lease.number = held.number
      LIMIT 1
    ) AS age
    WHERE $2::text[] IS NULL OR held.channel = ANY ($2::text[])
  )
  SELECT
    (SELECT count(*) FROM leased WHERE ms > 3600000),
    (SELECT max(ms) FROM leased),
    (SELECT max(hour.jobs) FROM (
      SELECT count(*) AS jobs FROM recent WHERE finished_at > statement_timestamp() - interval '24 hours' GROUP BY date_trunc('hour', finished_at)
    ) AS hour),
    (SELECT sum(pg_total_relation_size(pg_class.oid)) FROM pg_class WHERE relnamespace = '${schema}'::regnamespace AND relkind = 'r')
  WHERE $1::text[] IS NULL OR true`,
  values,
  row: ([stale, longest, peak, bytes]) => ({
    stale: Number(stale),
    longestMs: longest as number | null,
    peakHour: Number(peak),
    bytes: Number(bytes),
  }),
});
