import type { Backoff } from '../job/backoff.js';
import type { ClaimedJob, JobId, Position } from '../job/job.js';
import { inFeed } from './job-columns.js';
import { defineStatement, micros, timeOf } from './statement.js';
import { unleased } from './unleased.js';

export interface ClaimParams {
  readonly runner: string;
  /** Number of the lease that the claim is to make, unique in the runner. */
  readonly lease: number;
  readonly channel: string;
  readonly priority: number;
  /** Look behind this place only. */
  readonly after: Position;
  readonly names: readonly string[];
  readonly limit: number;
  /** How many of them start at once: their start is recorded with the lease. */
  readonly slots: number;
}

/** A job as it was leased; the first row of an answer also carries what is known of the feed, and may have no job. */
export interface ClaimRow {
  readonly job: ClaimedJob | null;
  readonly feed: FeedNews | null;
}

export interface FeedNews {
  /** The database's clock, microseconds. */
  readonly nowMicros: number;
  /** Place of the last leased job, `null` when none was. */
  readonly last: Position | null;
  /** Everything due behind `after` is leased now. */
  readonly exhausted: boolean;
  /** Nothing was looked at: the channel is paused. Told of ordered jobs only, whose places are not surveyed from the start. */
  readonly paused?: boolean;
  /** A lane was written meanwhile by somebody who may have seen less of it, and was left alone. Told of ordered jobs only. */
  readonly refused?: boolean;
  /** How many arrivals had to be read for the demand to be met, `null` when it was not. Told of arrivals only. */
  readonly arrivals?: number | null;
  /** When the next job of the feed will be due, microseconds; known only when the feed is exhausted. */
  readonly nextDueMicros: number | null;
  /** The last key that had its turn, `null` when there was none. */
  readonly lastKey: string | null;
}

/** The claim's parameters that all its statements share. */
const [RUNNER, LEASE, CHANNEL, PRIORITY, LIMIT, SLOTS, NAMES] = ['$1', '$2', '$3', '$4', '$7', '$8', '$9'];

/** A lease of the same feed. */
const ofFeed = `lease.channel = ${CHANNEL} AND lease.priority = ${PRIORITY}`;

export const jobColumns = [
  ...['id', 'run', 'attempt', 'max_attempts', 'key', 'name', 'policy_id', 'backoff'],
  ...['payload', 'payload_bytes', 'metadata', 'created_at', 'due_at'],
];

/**
 * Times go out as floating point, which is cheap and good to the microsecond for display; positions are exact. An id goes
 * out as text, since pg would look at each whether it is a number; JSON as it stands (`jsonAsText`), since the server
 * takes as long to cast a large payload as to answer it.
 */
export const answeredColumns = jobColumns.map((column) => {
  if (column === 'id') return `job.${column}::text`;
  return column.endsWith('_at') ? `date_part('epoch', job.${column}) * 1000000` : `job.${column}`;
});

interface News {
  readonly nextDue: string;
  readonly besides: readonly string[];
}

/** What is known of the feed, as one value, since each column costs every row. */
export const newsColumn = ({ nextDue, besides }: News): string => `json_build_array(
      now_micros, last_micros, last_id::text, exhausted, CASE WHEN exhausted THEN (${nextDue}) END, ${besides.join(', ')}
    )`;

/** What a claim answers: the jobs, and with the first of them, or alone, what is known of the feed. */
const answered = (news: News): string => `
    ${answeredColumns.join(', ')},
    CASE WHEN coalesce(ordinal, 1) = 1 THEN ${newsColumn(news)} END`;

/**
 * A job of one of these names, of which there may be hundreds: in a plan that is kept, `= ANY` would compare each row with all
 * of them, one by one. `IS TRUE` keeps the planner from making a join of it.
 */
const isNamed = (names: string): string => `(name IN (SELECT unnest(${names}::text[]))) IS TRUE`;

/**
 * The candidates, numbered, and what a claim does with them.
 *
 * A job on its last attempt is never taken ahead of a slot: from the first such one on, the rest stays. A lease that
 * must outlive a crash of the server, because it records a last start, is the only durable one: to forget any other
 * means that its jobs are free again, which saves an fsync for each claim.
 */
const leaseCandidates = (
  schema: string,
  { candidates, nextDue, lastKey }: { candidates: string; nextDue: string; lastKey: string },
): string => `free AS MATERIALIZED (
    SELECT candidate.*, row_number() OVER () AS ordinal
    FROM (${candidates}
    ) AS candidate
  ), cut AS MATERIALIZED (
    SELECT coalesce(min(ordinal), 2147483647) AS at FROM free WHERE ordinal > ${SLOTS} AND attempt + 1 >= max_attempts
  ), batch AS MATERIALIZED (
    SELECT
      count(*) AS jobs,
      array_agg(id ORDER BY ordinal) AS job_ids,
      array_agg(run ORDER BY ordinal) AS runs,
      max(due_at) AS hi_due_at,
      max(id) AS hi_id,
      coalesce(bool_or(attempt + 1 >= max_attempts), false) AS last_attempts
    FROM free, cut
    WHERE ordinal < cut.at
  ), leased AS (
    INSERT INTO ${schema}.lease (runner_id, number, channel, priority, job_ids, runs, started, hi_due_at, hi_id)
    SELECT ${RUNNER}, ${LEASE}, ${CHANNEL}, ${PRIORITY}, job_ids, runs, least(jobs, ${SLOTS}), hi_due_at, hi_id
    FROM batch
    WHERE jobs > 0
  ), news AS MATERIALIZED (
    SELECT
      cut.at,
      ${micros('statement_timestamp()')} AS now_micros,
      ${micros('hi_due_at')} AS last_micros,
      job_ids[jobs] AS last_id,
      jobs < ${LIMIT} AND cut.at = 2147483647 AS exhausted,
      CASE WHEN NOT last_attempts THEN set_config('synchronous_commit', 'off', true) END AS durability
    FROM batch, cut
  )
  SELECT
    ${answered({ nextDue, besides: [`(${lastKey})`, 'durability'] })}
  FROM news LEFT JOIN free AS job ON job.ordinal < news.at`;

/**
 * Leases the next due jobs of one channel and priority, in due order, behind a position. Writes one lease row and
 * touches no job. Right only in a transaction that owns the channel (`beginOwning`). Index `job_feed`.
 */
export const claimJobs = defineStatement<ClaimParams, ClaimRow>({
  name: 'claim_jobs_v5',
  jsonAsText: true,
  text: (schema) => `
  WITH ${leaseCandidates(schema, {
    candidates: `
      SELECT ${jobColumns.join(', ')}
      FROM ${schema}.job
      WHERE channel = ${CHANNEL}
        AND priority = ${PRIORITY}
        AND ${inFeed}
        AND (due_at, id) > (${timeOf('$5')}, $6::bigint)
        AND due_at <= statement_timestamp()
        AND ${isNamed(NAMES!)}
        AND ${unleased(schema, `${ofFeed} AND (lease.hi_due_at, lease.hi_id) > (${timeOf('$5')}, $6::bigint)`)}
        AND NOT EXISTS (SELECT FROM ${schema}.paused_channel WHERE paused_channel.channel = ${CHANNEL})
      ORDER BY due_at, id
      LIMIT ${LIMIT}`,
    nextDue: `
      SELECT ${micros('due_at')}
      FROM ${schema}.job
      WHERE channel = ${CHANNEL} AND priority = ${PRIORITY} AND ${inFeed}
        AND due_at > statement_timestamp() AND name = ANY(${NAMES}::text[])
      ORDER BY due_at, id
      LIMIT 1`,
    lastKey: 'SELECT NULL::text',
  })}`,
  values: (p) => [p.runner, p.lease, p.channel, p.priority, p.after.micros, p.after.id, p.limit, p.slots, p.names],
  row: claimRow,
});

export interface ClaimByKeyParams extends Omit<ClaimParams, 'after'> {
  /** The key that had its turn last. */
  readonly afterKey: string;
  /** Most jobs of one key. */
  readonly share: number;
}

/** Keys that one claim visits at most, so that keys which have future jobs only cannot hold it up. */
export const KEYS_PER_CLAIM = 64;

/**
 * Leases due jobs of the next keys in turn, a share of each, so that a key with a long backlog holds up no other. Not in
 * due order, so jobs on their last attempt are left out when it takes ahead of the slots. Right only in a transaction
 * that owns the channel. Index `job_key_feed`: a range of keys and their order stand in for an equality, since where the
 * table has grown since its last ANALYZE the planner takes `job_feed` for as good, and that walks the channel for each key.
 */
export const claimJobsByKey = defineStatement<ClaimByKeyParams, ClaimRow>({
  name: 'claim_jobs_by_key_v5',
  jsonAsText: true,
  text: (schema) => {
    const nextKey = (after: string): string => `
      SELECT next.key
      FROM ${schema}.job AS next
      WHERE next.channel = ${CHANNEL} AND next.priority = ${PRIORITY} AND ${inFeed} AND next.key <> ''
        AND next.key > ${after}
      ORDER BY next.key
      LIMIT 1`;
    return `
  WITH RECURSIVE walk AS (
    (${nextKey('$5::text COLLATE "C"')})
    UNION ALL
    SELECT (${nextKey('walk.key')}) FROM walk WHERE walk.key IS NOT NULL
  ), turn AS MATERIALIZED (
    SELECT key FROM walk WHERE key IS NOT NULL LIMIT ${KEYS_PER_CLAIM}
  ), ${leaseCandidates(schema, {
    candidates: `
      SELECT job.*
      FROM turn CROSS JOIN LATERAL (
        SELECT ${jobColumns.join(', ')}
        FROM ${schema}.job
        WHERE channel = ${CHANNEL}
          AND priority = ${PRIORITY}
          AND key >= turn.key AND key <= turn.key
          AND key <> ''
          AND ${inFeed}
          AND due_at <= statement_timestamp()
          AND name = ANY(${NAMES}::text[])
          AND (${SLOTS}::bigint >= ${LIMIT}::bigint OR attempt + 1 < coalesce(max_attempts, 2147483647))
          AND ${unleased(schema, ofFeed)}
          AND NOT EXISTS (SELECT FROM ${schema}.paused_channel WHERE paused_channel.channel = ${CHANNEL})
        ORDER BY key, due_at, id
        LIMIT $6
      ) AS job
      LIMIT ${LIMIT}`,
    nextDue: 'SELECT NULL::bigint',
    lastKey: 'SELECT max(key) FROM turn',
  })}`;
  },
  values: (p) => [p.runner, p.lease, p.channel, p.priority, p.afterKey, p.share, p.limit, p.slots, p.names],
  row: claimRow,
});

/** Under what a job is leased. */
export type LeaseName = Pick<ClaimedJob, 'runner' | 'lease' | 'channel' | 'priority'>;

const UNORDERED = { suspect: false, seq: null, closesLane: false } as const;

function claimRow(columns: unknown[], params: LeaseName): ClaimRow {
  const news = newsIn<FeedNewsColumn>(columns);
  return {
    job: columns[0] === null ? null : claimedJob(columns, params, UNORDERED),
    feed: news === null ? null : { ...feedNews(news), lastKey: news[5] as string | null },
  };
}

/** What the column behind those of the job tells, if anything. */
export function newsIn<News>(columns: readonly unknown[]): News | null {
  const text = columns[jobColumns.length] as string | null;
  return text === null ? null : (JSON.parse(text) as News);
}

/** How many of its places are the same for all claims. */
export const FEED_NEWS = 5;

/** As {@link answered} has built it; what stands behind these is the statement's own. */
export type FeedNewsColumn = [
  now: number,
  lastMicros: number | null,
  lastId: JobId | null,
  exhausted: boolean,
  nextDue: number | null,
  ...unknown[],
];

export function feedNews([now, lastMicros, lastId, exhausted, nextDue]: FeedNewsColumn): Omit<FeedNews, 'lastKey'> {
  return {
    nowMicros: now,
    last: lastId === null ? null : { micros: lastMicros!, id: lastId },
    exhausted,
    nextDueMicros: nextDue,
  };
}

/** Columns in the order of `jobColumns`. */
export function claimedJob(
  columns: unknown[],
  { runner, lease, channel, priority }: LeaseName,
  { suspect, seq, closesLane }: Pick<ClaimedJob, 'suspect' | 'seq' | 'closesLane'>,
): ClaimedJob {
  // Field by field: a spread would cost more than all the rest.
  return {
    id: columns[0] as JobId,
    run: columns[1] as number,
    runner,
    lease,
    channel,
    priority,
    suspect,
    seq,
    closesLane,
    attempt: (columns[2] as number) + 1,
    maxAttempts: columns[3] as number | null,
    key: columns[4] as string,
    name: columns[5] as string,
    policyId: columns[6] as string | null,
    backoff: columns[7] === null ? null : (JSON.parse(columns[7] as string) as Backoff),
    payload: columns[8] as string | null,
    bytes: columns[9] as Buffer | null,
    metadata: columns[10] as string | null,
    createdAtMicros: columns[11] as number,
    dueAtMicros: columns[12] as number,
  };
}
