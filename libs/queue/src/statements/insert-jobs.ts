import type { Backoff } from '../job/backoff.js';
import type { JobId } from '../job/job.js';
import { defineStatement, micros, timeOf } from './statement.js';
import { wakeUpMessage } from './wake-up.js';

/** A job as it is written. `payload` and `metadata` are JSON text. */
export interface NewJob {
  readonly channel: string;
  readonly key: string;
  readonly name: string;
  readonly priority: number;
  /** `null`: no limit. */
  readonly maxAttempts: number | null;
  readonly policyId: string | null;
  readonly backoff: Backoff | null;
  /** Milliseconds from the insert, by the database's clock. */
  readonly delayMs: number;
  /** Milliseconds since 1970; the later of both counts. */
  readonly runAtMs: number | null;
  /** Not to be run before it is committed, and gone after so many milliseconds; `null`: free at once. */
  readonly holdMs: number | null;
  readonly payload: string | null;
  readonly bytes: Buffer | null;
  readonly metadata: string | null;
  /** Runs in the order of its lane. */
  readonly ordered: boolean;
  readonly idempotency: Idempotency | null;
}

/** What keeps a job from being made twice. */
export interface Idempotency {
  /** Unique in the channel, among the live jobs at least. */
  readonly key: string;
  /** Of the job's name, payload and bytes, by `contentHash`. */
  readonly hash: string;
  /** The key outlives the job: for so many milliseconds from the insert, or for ever. `null`: it ends with the job. */
  readonly lastsMs: number | null;
  /** An earlier job with other content is an error. */
  readonly strict: boolean;
}

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

/**
 * One JSON array is the fastest way in (a third faster than `unnest` of columns): the payload's text stands in it as it
 * is, and type `json` keeps it to the last digit. Where that would not come through (`asText`) it stands in `js` or `ms`
 * as a string. `ORDER BY ordinal` makes the ids ascend in call order. An ordered job's position is its id, which is why
 * the id is drawn here.
 */
const inserted = (schema: string): string => `
    INSERT INTO ${schema}.job (${COLUMNS})
    SELECT ${values('clock_timestamp()')}
    FROM (
      SELECT nextval('${schema}.job_id_seq') AS id, item.*
      FROM ROWS FROM (
        json_to_recordset($1) AS (${FIELDS})
      ) WITH ORDINALITY AS item (${NAMES}, ordinal)
      ORDER BY ordinal
    ) AS numbered
    RETURNING ${RETURNED}`;

export const COLUMNS =
  'id, position, channel, key, name, priority, max_attempts, policy_id, backoff, due_at, held_until, payload, payload_bytes, metadata';

/** Fields of the JSON, as `encodeJob` writes them. */
export const FIELDS =
  'c text, k text, n text, p smallint, a integer, h bigint, b json, d bigint, t bigint, u bigint, j json, js text, x text, m json, ms text, o boolean';

export const NAMES = 'c, k, n, p, a, h, b, d, t, u, j, js, x, m, ms, o';

export const values = (
  now: string,
): string => `id, CASE WHEN o THEN id END, c, coalesce(k, ''), n, coalesce(p, 0), a, h, b,
      CASE WHEN d IS NULL AND t IS NULL THEN ${now}
        ELSE greatest(${now} + coalesce(d, 0) * interval '1 millisecond', ${timeOf('t')}) END,
      ${now} + u * interval '1 millisecond',
      coalesce(j, js::json), decode(x, 'base64'), coalesce(m, ms::json)`;

/** What `wakeUps` wants to know of a job. */
export const RETURNED = 'id, channel, key, name, priority, due_at, held_until, position IS NOT NULL AS ordered';

/** Lowest position of each feed, as `parseWakeUp` reads it; told of once, not of every row. */
export const wakeUps = (jobs: string): string => `
    SELECT concat_ws('|', ordered::integer, priority, channel) AS feed, ${micros('due_at')} AS due_micros, ${wakeUpMessage} AS message
    FROM (
      SELECT DISTINCT ON (channel, priority, ordered) channel, priority, ordered, due_at, id, key, name
      FROM ${jobs}
      ORDER BY channel, priority, ordered, due_at, id
    ) AS lowest`;

/**
 * CTEs that send what `wake_up` has, to the notification channel `$2`. A transaction notifies once per channel and
 * priority (ordered jobs apart): what it has told is remembered in a setting local to it, which the rollback of a savepoint undoes together
 * with the jobs and the notification. A lower position is told again.
 */
export const telling = (schema: string): string => `told AS (
    SELECT coalesce(nullif(current_setting('${schema}.told', true), ''), '{}')::jsonb AS positions
  ), news AS (
    SELECT feed, due_micros, message
    FROM wake_up, told
    WHERE coalesce((told.positions ->> feed)::bigint > due_micros, true)
  ), sent AS (
    SELECT pg_notify($2, message) FROM news
  ), remembered AS (
    SELECT set_config('${schema}.told', (told.positions || fresh.positions)::text, true)
    FROM told, (SELECT jsonb_object_agg(feed, due_micros) AS positions FROM news) AS fresh
    WHERE fresh.positions IS NOT NULL
  )`;

/** Held jobs wake nobody. */
export const FREE = 'inserted WHERE held_until IS NULL';

/**
 * Inserts jobs outside of a caller's transaction, and answers the wake-ups that are to be sent after its commit: NOTIFY
 * inside a transaction takes a lock over the whole cluster until the commit is durable, which halves the rate of small
 * ones. Writes job rows only, so it waits for nobody.
 */
export const insertJobs = defineStatement<InsertParams, InsertedRow>({
  name: 'insert_jobs_v1',
  text: (schema) => `
  WITH inserted AS (${inserted(schema)}
  ), wake_up AS (${wakeUps(FREE)}
  )
  SELECT (SELECT string_agg(id::text, ',') FROM inserted), (SELECT json_agg(message) FROM wake_up)`,
  values: ({ jobs }) => [encodeJobs(jobs)],
  row: ([ids, messages]) => ({ ids: splitIds(ids), wakeUps: (messages as string[] | null) ?? [] }),
});

/** Inserts jobs inside the caller's transaction; the notification becomes visible with its commit. */
export const insertJobsInTransaction = defineStatement<InsertParams & { notifyChannel: string }, InsertedRow>({
  name: 'insert_jobs_in_tx_v1',
  text: (schema) => `
  WITH inserted AS (${inserted(schema)}
  ), wake_up AS (${wakeUps(FREE)}
  ), ${telling(schema)}
  SELECT (SELECT string_agg(id::text, ',') FROM inserted), (SELECT count(*) FROM sent), (SELECT count(*) FROM remembered)`,
  values: ({ jobs, notifyChannel }) => [encodeJobs(jobs), notifyChannel],
  row: ([ids]) => ({ ids: splitIds(ids), wakeUps: [] }),
});

export function splitIds(ids: unknown): JobId[] {
  return typeof ids === 'string' ? ids.split(',') : [];
}

/** JSON array, of the fields `FIELDS`. */
export function encodeJobs(jobs: readonly NewJob[]): string {
  return `[${jobs.map((job) => `${encodeJob(job)}}`).join(',')}]`;
}

/** An object that is still to be closed. Fields at their default are left out, which is most of them: the server parses less. */
export function encodeJob(job: NewJob): string {
  let text = `{"c":${JSON.stringify(job.channel)},"n":${JSON.stringify(job.name)}`;
  if (job.key !== '') text += `,"k":${JSON.stringify(job.key)}`;
  if (job.priority !== 0) text += `,"p":${job.priority}`;
  if (job.maxAttempts !== null) text += `,"a":${job.maxAttempts}`;
  if (job.policyId !== null) text += `,"h":${job.policyId}`;
  if (job.backoff !== null) text += `,"b":${JSON.stringify(job.backoff)}`;
  if (job.delayMs !== 0) text += `,"d":${job.delayMs}`;
  if (job.runAtMs !== null) text += `,"t":${job.runAtMs * 1_000}`;
  if (job.holdMs !== null) text += `,"u":${job.holdMs}`;
  if (job.payload !== null)
    text += asText(job.payload) ? `,"js":${JSON.stringify(job.payload)}` : `,"j":${job.payload}`;
  if (job.ordered) text += ',"o":true';
  if (job.bytes !== null) text += `,"x":"${job.bytes.toString('base64')}"`;
  if (job.metadata !== null)
    text += asText(job.metadata) ? `,"ms":${JSON.stringify(job.metadata)}` : `,"m":${job.metadata}`;
  return text;
}

/**
 * The server decodes every string of the array, which fails for the escapes of NUL and of lone surrogates, and takes a
 * JSON null for no value.
 */
function asText(json: string): boolean {
  return json === 'null' || json.includes('\\u');
}
