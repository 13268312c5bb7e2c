import { isFree } from './lanes.js';
import { lookUp } from './look-up.js';
import { defineStatement } from './statement.js';

/** Days for which an idle lane keeps its count. */
const LANE_RETENTION_DAYS = 90;

/** Jobs that one statement prunes at most. */
export const JOBS_PER_PRUNE = 1_000;

/**
 * Deletes finished jobs whose retention is over, a chunk at a time; answers how many. Several pruners at once share the
 * work. Never touches a live job. Index `finished_job_delete_at`.
 */
export const pruneJobs = defineStatement<Record<string, never>, number>({
  name: 'prune_jobs_v2',
  text: (schema) => `
  WITH over AS MATERIALIZED (
    SELECT id
    FROM ${schema}.finished_job
    WHERE delete_at <= statement_timestamp()
    ORDER BY delete_at
    LIMIT ${JOBS_PER_PRUNE}
    FOR UPDATE SKIP LOCKED
  ), pruned AS (
    DELETE FROM ${schema}.finished_job USING over WHERE ${lookUp('finished_job.id', 'over.id')} RETURNING finished_job.id
  )
  SELECT count(*) FROM pruned`,
  values: () => [],
  row: ([count]) => Number(count),
});

/**
 * Deletes lanes that have long been idle; the next job of such a lane is its number 1 again. Answers how many. Reads the
 * whole table, so it is for a rare turn. A lane whose job has just arrived may be deleted: nobody has begun with it.
 */
export const pruneLanes = defineStatement<Record<string, never>, number>({
  name: 'prune_lanes_v3',
  text: (schema) => `
  WITH idle AS MATERIALIZED (
    SELECT channel, key
    FROM ${schema}.lane
    WHERE used_at < statement_timestamp() - interval '${LANE_RETENTION_DAYS} days'
      AND head_position IS NULL AND ready_at IS NULL AND blocked_by IS NULL AND ${isFree(schema)}
    LIMIT ${JOBS_PER_PRUNE}
    FOR UPDATE OF lane SKIP LOCKED
  ), pruned AS (
    DELETE FROM ${schema}.lane USING idle WHERE ${lookUp('lane.channel', 'idle.channel')} AND ${lookUp('lane.key', 'idle.key')} RETURNING lane.key
  )
  SELECT count(*) FROM pruned`,
  values: () => [],
  row: ([count]) => Number(count),
});

/**
 * Deletes idempotency keys whose time is over, a chunk at a time; answers how many. One that a spawn is taking over is
 * passed by. Index `idempotency_key_expires_at`.
 */
export const pruneKeys = defineStatement<Record<string, never>, number>({
  name: 'prune_keys_v2',
  text: (schema) => `
  WITH over AS MATERIALIZED (
    SELECT channel, key
    FROM ${schema}.idempotency_key
    WHERE expires_at <= statement_timestamp()
    ORDER BY expires_at
    LIMIT ${JOBS_PER_PRUNE}
    FOR UPDATE SKIP LOCKED
  ), pruned AS (
    DELETE FROM ${schema}.idempotency_key AS lasting USING over
    WHERE ${lookUp('lasting.channel', 'over.channel')} AND ${lookUp('lasting.key', 'over.key')}
    RETURNING lasting.key
  )
  SELECT count(*) FROM pruned`,
  values: () => [],
  row: ([count]) => Number(count),
});
