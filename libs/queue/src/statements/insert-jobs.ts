import type { JobId } from '../job/job.js';
import { COLUMNS, forItems, itemColumns } from './job-items.js';
import type { NewJob } from './new-job.js';
import { defineStatement, micros } from './statement.js';
import { wakeUpMessage } from './wake-up.js';

/** Jobs that one statement inserts at most: a parameter of Postgres has a limit of 1 GB. */
export const JOBS_PER_INSERT = 5_000;

/** A call's jobs as its statements take them; more than one only beyond the limit. */
export function chunksOf<Job extends NewJob>(jobs: readonly Job[]): (readonly Job[])[] {
  if (jobs.length <= JOBS_PER_INSERT) return [jobs];
  return Array.from({ length: Math.ceil(jobs.length / JOBS_PER_INSERT) }, (_, chunk) =>
    jobs.slice(chunk * JOBS_PER_INSERT, (chunk + 1) * JOBS_PER_INSERT),
  );
}

interface InsertParams {
  readonly jobs: readonly NewJob[];
}

/** Ids in the order of the jobs, so ascending; and what to wake the runners with. */
export interface InsertedRow {
  readonly ids: JobId[];
  readonly wakeUps: string[];
}

/** `ORDER BY ordinal` makes the ids ascend in call order. An ordered job's position is its id, which is why the id is drawn here. */
const inserted = (schema: string, items: string, returned = RETURNED): string => `
    INSERT INTO ${schema}.job (${COLUMNS})
    SELECT ${itemColumns('clock_timestamp()')}
    FROM (
      SELECT nextval('${schema}.job_id_seq') AS id, item.*
      FROM ${items}
      ORDER BY ordinal
    ) AS numbered
    RETURNING ${returned}`;

/** What `wakeUps` wants to know of a job. */
export const RETURNED = 'id, channel, key, name, priority, due_at, held_until, position IS NOT NULL AS ordered';

/** Lowest position of each feed, as `parseWakeUp` reads it; told of once, not of every row. @param alone there is one job */
export const wakeUps = (jobs: string, alone = false): string => `
    SELECT concat_ws('|', ordered::integer, priority, channel) AS feed, jsonb_build_array(${micros('due_at')}, id) AS place, ${wakeUpMessage()} AS message
    FROM ${alone ? jobs : lowestOf(jobs)}`;

const lowestOf = (jobs: string): string => `(
      SELECT DISTINCT ON (channel, priority, ordered) channel, priority, ordered, due_at, id, key, name
      FROM ${jobs}
      ORDER BY channel, priority, ordered, due_at, id
    ) AS lowest`;

/**
 * CTEs that send what `wake_up` has, to the notification channel that is a parameter. A transaction notifies once per channel and
 * priority (ordered jobs apart): what it has told is remembered in a setting local to it, which the rollback of a savepoint undoes together
 * with the jobs and the notification. A lower position is told again.
 */
export const telling = (schema: string, notifyChannel: string): string => `told AS (
    SELECT coalesce(nullif(current_setting('${schema}.told', true), ''), '{}')::jsonb AS positions
  ), news AS (
    SELECT feed, place, message
    FROM wake_up, told
    WHERE coalesce(told.positions -> feed > place, true)
  ), sent AS (
    SELECT pg_notify(${notifyChannel}, message) FROM news
  ), remembered AS (
    SELECT set_config('${schema}.told', (told.positions || fresh.positions)::text, true)
    FROM told, (SELECT jsonb_object_agg(feed, place) AS positions FROM news) AS fresh
    WHERE fresh.positions IS NOT NULL
  )`;

/** Held jobs wake nobody. */
const IS_FREE = 'held_until IS NULL';
export const FREE = `inserted WHERE ${IS_FREE}`;

/** Of a job by itself nothing is to be gathered. */
const ANSWER_OF_ONE = `id::text, CASE WHEN ${IS_FREE} THEN json_build_array(${wakeUpMessage('position IS NOT NULL')}) END`;

/**
 * Inserts jobs outside of a caller's transaction, and answers the wake-ups that are to be sent after its commit: NOTIFY
 * inside a transaction takes a lock over the whole cluster until the commit is durable, which halves the rate of small
 * ones. Writes job rows only, so it waits for nobody.
 */
export const insertJobs = forItems<InsertParams, InsertedRow>((items) =>
  defineStatement({
    name: `insert_jobs_${items.name}_v3`,
    text: (schema) =>
      items.alone
        ? inserted(schema, items.rows(1), ANSWER_OF_ONE)
        : `
  WITH inserted AS (${inserted(schema, items.rows(1))}
  ), wake_up AS (${wakeUps(FREE)}
  )
  SELECT (SELECT string_agg(id::text, ',') FROM inserted), (SELECT json_agg(message) FROM wake_up)`,
    values: ({ jobs }, arrays) => items.values(jobs, arrays),
    row: ([ids, messages]) => ({ ids: splitIds(ids), wakeUps: (messages as string[] | null) ?? [] }),
  }),
);

/** Inserts jobs inside the caller's transaction; the notification becomes visible with its commit. */
export const insertJobsInTransaction = forItems<InsertParams & { notifyChannel: string }, InsertedRow>((items) =>
  defineStatement({
    name: `insert_jobs_tx_${items.name}_v3`,
    text: (schema) => `
  WITH inserted AS (${inserted(schema, items.rows(2))}
  ), wake_up AS (${wakeUps(FREE, items.alone)}
  ), ${telling(schema, '$1')}
  SELECT (SELECT string_agg(id::text, ',') FROM inserted), (SELECT count(*) FROM sent), (SELECT count(*) FROM remembered)`,
    values: ({ jobs, notifyChannel }, arrays) => [notifyChannel, ...items.values(jobs, arrays)],
    row: ([ids]) => ({ ids: splitIds(ids), wakeUps: [] }),
  }),
);

export function splitIds(ids: unknown): JobId[] {
  return typeof ids === 'string' ? ids.split(',') : [];
}
