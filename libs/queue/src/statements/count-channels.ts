import { inFeed } from './job-columns.js';
import { defineStatement, timeOf } from './statement.js';

/** Up to here a count is exact, where one channel is read. */
export const EXACT = 10_000;

/** What is counted of each channel. */
export type StatsCell = 'scheduled' | 'ready' | 'blocked' | 'retrying' | 'held' | 'running' | 'dead';

export interface CountParams {
  /** Names that this application handles; those that living runners tell of are added. */
  readonly names: readonly string[];
  /** `null`: all. */
  readonly channels: readonly string[] | null;
}

/** How many rows, looking at so many at most. */
export const countUpTo = (rows: string, limit: number | string): string =>
  `(SELECT count(*) FROM (${rows} LIMIT ${limit}) AS seen)`;

/** One scan: the jobs of a channel in one state, and of one priority where that is how they are indexed. */
export interface Count {
  readonly channel: string;
  readonly cell: 'ready' | 'scheduled' | 'retrying' | 'held' | 'dead';
  /** Of the ready ones; those of one priority are a feed. */
  readonly priority: number;
  /** Of the jobs counted: not to be told of. Due ones that run are among the ready ones. */
  readonly less: number;
}

export interface CountJobsParams {
  readonly counts: readonly Count[];
  readonly limit: number;
  /** Which jobs are due; of all statements of one reading the same. */
  readonly nowMicros: string;
}

/**
 * How many jobs there are of each kind, up to one more than the limit. A count is one scan of an index that holds nothing
 * else, without a look at the rows where vacuum has been. Indexes `job_feed`, `job_scheduled`, `job_retrying`,
 * `job_held_channel`, `finished_job_channel`.
 */
export const countJobs = defineStatement<CountJobsParams, { index: number; jobs: number }>({
  name: 'count_jobs_v1',
  text: (schema) => {
    const now = timeOf('$6');
    const jobs = (condition: string): string =>
      countUpTo(`SELECT FROM ${schema}.job WHERE job.channel = asked.channel AND ${condition}`, 'asked.most');
    return `
  SELECT ordinal, CASE cell
    WHEN 'ready' THEN ${jobs(`job.priority = asked.priority AND ${inFeed} AND due_at <= ${now}`)}
    WHEN 'scheduled' THEN ${jobs(`attempt = 0 AND due_at > created_at AND ${inFeed} AND due_at > ${now}`)}
    WHEN 'retrying' THEN ${jobs(`attempt > 0 AND ${inFeed} AND due_at > ${now}`)}
    WHEN 'held' THEN ${jobs(`held_until IS NOT NULL AND held_until > '-infinity'`)}
    ELSE ${countUpTo(`SELECT FROM ${schema}.finished_job WHERE finished_job.channel = asked.channel AND state = 'dead'`, 'asked.most')}
    END
  FROM ROWS FROM (
    unnest($1::text[]), unnest($2::text[]), unnest($3::smallint[]), unnest($4::bigint[])
  ) WITH ORDINALITY AS given (channel, cell, priority, less, ordinal)
  CROSS JOIN LATERAL (SELECT given.channel, given.priority, $5::bigint + 1 + given.less AS most OFFSET 0) AS asked`;
  },
  values: ({ counts, limit, nowMicros }) => [
    counts.map(({ channel }) => channel),
    counts.map(({ cell }) => cell),
    counts.map(({ priority }) => priority),
    counts.map(({ less }) => less),
    limit,
    nowMicros,
  ],
  row: ([ordinal, jobs]) => ({ index: Number(ordinal) - 1, jobs: Number(jobs) }),
});
