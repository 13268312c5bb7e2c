import type { JobId, JobState } from '../job/job.js';
import { inFeed, notReleased } from './job-columns.js';
import { leasedJobs } from './leased-jobs.js';
import { defineStatement } from './statement.js';

/** Jobs that one look goes through at most, so that a filter which fits few of millions costs no more than this. */
export const JOBS_PER_LOOK = 10_000;

export interface FindJobsParams {
  readonly states: readonly JobState[];
  readonly channel: string | null;
  readonly name: string | null;
  readonly key: string | null;
  /** Spawned before this time, and at it or later. */
  readonly before: Date | null;
  readonly since: Date | null;
  /** Only ids below this one. */
  readonly below: JobId;
  /** How many to look at. */
  readonly window: number;
  /** How many to answer. */
  readonly limit: number;
  /** Whether the filter may fit so few that it is worth asking another index for all of them. */
  readonly rare: boolean;
}

export interface FoundJobsRow {
  /** The newest that fit. */
  readonly ids: readonly JobId[];
  /** The lowest id that was looked at, `null`: all have been. */
  readonly floor: JobId | null;
}

const values = (p: FindJobsParams): unknown[] => [
  ...[p.states, p.channel, p.name, p.key, p.before, p.since],
  ...[p.below, p.window, p.limit, p.rare],
];

const row = ([ids, floor]: unknown[]): FoundJobsRow => ({
  ids: (ids as JobId[] | null) ?? [],
  floor: floor as JobId | null,
});

const fits = (state: string): string => `${state} = ANY ($1::text[])
        AND ($2::text IS NULL OR channel = $2)
        AND ($3::text IS NULL OR name = $3)
        AND ($4::text IS NULL OR key = $4)
        AND ($5::timestamptz IS NULL OR created_at < $5)
        AND ($6::timestamptz IS NULL OR created_at >= $6)`;

/** Looks at the few jobs that another index has found, where they are few, else at the next window by id, the newest first. */
const look = (table: string, state: string, few: string): string => `few AS MATERIALIZED (
    ${few}
    LIMIT ${JOBS_PER_LOOK + 1}
  ), many AS MATERIALIZED (
    SELECT NOT $10::boolean OR count(*) > ${JOBS_PER_LOOK} AS jobs FROM few
  ), looked AS MATERIALIZED (
    (SELECT id, ${fits(state)} AS fits
      FROM ${table} AS job
      WHERE (SELECT jobs FROM many) AND id < $7::bigint
      ORDER BY id DESC
      LIMIT $8)
    UNION ALL
    SELECT found.id, found.fits
    FROM few CROSS JOIN LATERAL (
      SELECT id, ${fits(state)} AS fits FROM ${table} AS job WHERE job.id = few.id LIMIT 1
    ) AS found
    WHERE (SELECT NOT jobs FROM many) AND few.id < $7::bigint
  )
  SELECT
    (SELECT json_agg(id::text ORDER BY id DESC) FROM (SELECT id FROM looked WHERE fits ORDER BY id DESC LIMIT $9) AS page),
    CASE WHEN (SELECT jobs FROM many) AND count(*) = $8 THEN min(id)::text END
  FROM looked`;

/** Every live job is in one of them, and each has an index that leads to the jobs of a channel, or is small. */
const PARTS = [
  inFeed,
  'position IS NOT NULL',
  'position IS NULL AND held_until IS NOT NULL',
  'position IS NULL AND held_until IS NULL AND suspect',
];

/**
 * The newest live jobs that fit a filter, by id. Of a channel with few jobs all are looked at, else the next ones by id,
 * up to a bound. Indexes `job_pkey`, `job_feed`, `job_lane`, `job_held_channel`, `job_suspect`, `lease_pkey`.
 */
export const findLiveJobs = defineStatement<FindJobsParams, FoundJobsRow>({
  name: 'find_live_jobs_v1',
  text: (schema) => `
  WITH leased AS MATERIALIZED (${leasedJobs(schema)}
  ), ${look(
    `${schema}.job`,
    `${notReleased} AND CASE WHEN held_until IS NOT NULL THEN 'held' WHEN id IN (SELECT leased.id FROM leased) THEN 'running' ELSE 'waiting' END`,
    `SELECT id FROM (${PARTS.map(
      (part) => `
      (SELECT id FROM ${schema}.job WHERE $10::boolean AND channel = $2 AND ${part} LIMIT ${JOBS_PER_LOOK + 1})`,
    ).join(`
      UNION ALL`)}
    ) AS part`,
  )}`,
  values,
  row,
});

/** The newest running jobs that fit a filter: leases name them. Indexes `lease_pkey`, `job_pkey`, `lane_pkey`, `job_lane`. */
export const findRunningJobs = defineStatement<FindJobsParams, FoundJobsRow>({
  name: 'find_running_jobs_v1',
  text: (schema) => `
  WITH leased AS MATERIALIZED (${leasedJobs(schema)}
  ), ${look(`${schema}.job`, `CASE WHEN id IN (SELECT leased.id FROM leased) THEN 'running' END`, 'SELECT id FROM leased')}`,
  values: (params) => values({ ...params, rare: true }),
  row,
});

/**
 * The newest finished jobs that fit a filter, by id. Of states that few have all are looked at, else the next ones by id, up to a
 * bound. Indexes `finished_job_pkey`, `finished_job_channel`.
 */
export const findFinishedJobs = defineStatement<FindJobsParams, FoundJobsRow>({
  name: 'find_finished_jobs_v1',
  text: (schema) => `
  WITH RECURSIVE walk AS (
    (SELECT channel FROM ${schema}.finished_job WHERE $10::boolean AND $2::text IS NULL ORDER BY channel, state LIMIT 1)
    UNION ALL
    SELECT next.channel
    FROM walk CROSS JOIN LATERAL (
      SELECT channel FROM ${schema}.finished_job WHERE channel > walk.channel ORDER BY channel, state LIMIT 1
    ) AS next
  ), ${look(
    `${schema}.finished_job`,
    'state',
    `SELECT found.id
    FROM (SELECT channel FROM walk UNION ALL SELECT $2::text COLLATE "C" WHERE $10::boolean AND $2::text IS NOT NULL) AS asked
    CROSS JOIN unnest($1::text[]) AS wanted (state)
    CROSS JOIN LATERAL (
      SELECT id FROM ${schema}.finished_job
      WHERE finished_job.channel = asked.channel AND finished_job.state = wanted.state COLLATE "C"
      LIMIT ${JOBS_PER_LOOK + 1}
    ) AS found`,
  )}`,
  values,
  row,
});
