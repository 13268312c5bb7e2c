import { inFeed } from './job-columns.js';
import { lookUp } from './look-up.js';
import { defineStatement } from './statement.js';

export interface ClearParams {
  readonly channels: readonly string[];
  /** Nothing is deleted while a job of one of these is leased. */
  readonly idle: readonly string[];
  /** Highest id that is deleted, `null`: the highest that there is now. */
  readonly upTo: string | null;
  readonly limit: number;
}

export interface ClearedRow {
  /** Free jobs that it has come upon: fewer than the limit when there are no more. */
  readonly found: number;
  readonly cleared: number;
  readonly upTo: string;
  /** Those of `idle` that are not, and how many jobs run there. */
  readonly busy: readonly string[];
  readonly running: number;
}

/** Every live job is in one of them, and each has an index that leads to the jobs of a channel, or is small. */
const PARTS = [
  inFeed,
  'position IS NOT NULL',
  'position IS NULL AND suspect',
  'position IS NULL AND NOT suspect AND held_until IS NOT NULL',
];

/**
 * Deletes jobs of some channels that no lease names, waiting and held ones. Right only in a transaction that owns the
 * channels (`beginOwningAll`): nothing is claimed between its snapshot and its commit, so a deleted job was never
 * handed out, and one that was handed out is not deleted. A row that another transaction has locked is passed by: a
 * commit of a held job that is under way counts as done after the clear. An ordered job that its lease still names is
 * free once its lane is given back. `repairChannels`, behind it in the same transaction, sees to lanes that have lost
 * their head; their numbers go on where they were. `id + 0` keeps the planner from walking the primary key through all
 * channels. Indexes `job_feed`, `job_lane`, `job_suspect`, `job_held`, `job_pkey`, `lane_pkey`.
 */
export const clearJobs = defineStatement<ClearParams, ClearedRow>({
  name: 'clear_jobs_v3',
  text: (schema) => `
  WITH leased AS MATERIALIZED (
    SELECT lease.channel, held.id, held.run
    FROM ${schema}.lease CROSS JOIN LATERAL unnest(lease.job_ids, lease.runs, lease.keys) AS held (id, run, key)
    WHERE (lease.channel = ANY ($1::text[]) OR lease.channel = ANY ($2::text[]))
      AND (held.key IS NULL OR EXISTS (
        SELECT FROM ${schema}.lane
        WHERE lane.channel = lease.channel AND lane.key = held.key
          AND lane.runner_id = lease.runner_id AND lane.lease = lease.number
      ))
  ), busy AS MATERIALIZED (
    SELECT leased.channel, count(*) AS running
    FROM leased JOIN ${schema}.job ON ${lookUp('job.id', 'leased.id')} AND job.run = leased.run
    WHERE leased.channel = ANY ($2::text[])
    GROUP BY leased.channel
  ), newest AS MATERIALIZED (
    SELECT coalesce($3::bigint, (SELECT max(id) FROM ${schema}.job), 0) AS id
  ), found AS MATERIALIZED (
    SELECT part.id, part.run
    FROM (${PARTS.map(
      (part) => `
      SELECT id, run
      FROM ${schema}.job
      WHERE channel = ANY ($1::text[])
        AND ${part}
        AND id + 0 <= (SELECT newest.id FROM newest)
        AND (id, run) NOT IN (SELECT leased.id, leased.run FROM leased)
        AND NOT EXISTS (SELECT FROM busy)`,
    ).join(`
      UNION ALL`)}
    ) AS part
    LIMIT $4
  ), locked AS MATERIALIZED (
    SELECT job.id
    FROM found JOIN ${schema}.job ON ${lookUp('job.id', 'found.id')} AND job.run = found.run
    FOR UPDATE OF job SKIP LOCKED
  ), cleared AS (
    DELETE FROM ${schema}.job USING locked WHERE ${lookUp('job.id', 'locked.id')} RETURNING job.id
  ), progress AS (
    DELETE FROM ${schema}.job_progress USING cleared WHERE ${lookUp('job_progress.job_id', 'cleared.id')}
  )
  SELECT
    (SELECT count(*) FROM found),
    (SELECT count(*) FROM cleared),
    (SELECT newest.id FROM newest),
    (SELECT coalesce(json_agg(channel ORDER BY channel), '[]') FROM busy),
    (SELECT coalesce(sum(running), 0) FROM busy)`,
  values: (p) => [p.channels, p.idle, p.upTo, p.limit],
  row: ([found, cleared, upTo, busy, running]) => ({
    found: Number(found),
    cleared: Number(cleared),
    upTo: upTo as string,
    busy: busy as string[],
    running: Number(running),
  }),
});

/** Names of the channels that have live jobs. Reads all of them. */
export const listLiveChannels = defineStatement<Record<string, never>, string>({
  name: 'list_live_channels_v1',
  text: (schema) => `SELECT DISTINCT channel FROM ${schema}.job ORDER BY channel`,
  values: () => [],
  row: ([channel]) => channel as string,
});
