import {
  answered,
  claimedJob,
  feedNews,
  jobColumns,
  NEWS_COLUMN,
  type ClaimParams,
  type ClaimRow,
  type FeedNews,
  type FeedNewsColumn,
} from './claim-jobs.js';
import { inArrivals } from './job-columns.js';
import { isFree, lastSeqOf } from './lanes.js';
import { defineStatement, micros, timeOf } from './statement.js';
import { laneMessage } from './wake-up.js';

export interface ClaimLanesParams extends ClaimParams {
  /** Most jobs of one lane: they run one after another. */
  readonly run: number;
}

export interface ClaimLanesRow extends ClaimRow {
  /** What to wake runners with: lanes that were looked at and whose head must wait, or is for others. */
  readonly messages: readonly string[];
}

export interface ClaimArrivalsParams extends ClaimLanesParams {
  /** Arrivals to look at, most of which may belong to lanes that have an owner. */
  readonly arrivals: number;
}

const [RUNNER, LEASE, CHANNEL, PRIORITY, AFTER_MICROS, AFTER_ID, LIMIT, SLOTS, NAMES, RUN, ARRIVALS] = [
  ...['$1', '$2', '$3', '$4', '$5', '$6', '$7', '$8', '$9', '$10', '$11'],
];

const notPaused = (schema: string): string =>
  `NOT EXISTS (SELECT FROM ${schema}.paused_channel WHERE paused_channel.channel = ${CHANNEL})`;

interface Source {
  /**
   * CTEs, of which `candidate` has the lanes in question, in the order in which they are asked: key, last_seq, ordinal, and
   * used_at, by which the row is known again; null, where there is none.
   */
  readonly candidates: string;
  /** The place of the candidate with this ordinal, and how much had to be read to find it: place_at, place_id, seen. */
  readonly placeOf: (ordinal: string) => string;
  /** Where the next look begins when every candidate was looked at and there may be more. */
  readonly lastLooked: string;
  /** Whether nothing is left behind the candidates. */
  readonly complete: string;
  readonly nextDue: string;
}

/**
 * Leases lanes: of each candidate the first jobs of its order, up to the first that may not run now. The jobs of a lane
 * that already have a seq stand before those that have none, and those in the order of their positions.
 *
 * The lane that meets the demand is taken whole, so a claim may have up to a run more than was asked for.
 *
 * A job on its last attempt, like a suspect, is only taken as the head of a lane that starts at once; from the first
 * lane on for which there is no slot, the rest stays. A lane whose head must wait is written down with the time, so that
 * nobody has to look at it before. Lanes are written in the order of their keys, as whoever writes several of them does, so
 * that nobody waits for another crosswise. A lane that was written since it was read is left to whoever did that. Durable: a lane's owner and its last seq must outlive a crash of the server.
 */
const leaseLanes = (schema: string, { candidates, placeOf, lastLooked, complete, nextDue }: Source): string => `
  WITH ${candidates}, lane_job AS MATERIALIZED (
    SELECT candidate.key AS lane_key, candidate.ordinal AS lane_ordinal, candidate.last_seq, candidate.used_at, job.*,
      coalesce(seq, last_seq + unnumbered) AS given_seq, row_number() OVER () AS place, coalesce(step_, 1) AS step
    FROM candidate LEFT JOIN LATERAL (
      SELECT *,
        row_number() OVER lane AS step_,
        count(*) FILTER (WHERE seq IS NULL) OVER lane AS unnumbered,
        lead(id) OVER lane IS NULL AS last,
        CASE row_number() OVER lane WHEN 1 THEN fits AND priority = ${PRIORITY}
          ELSE bool_and(fits AND attempt + 1 < coalesce(max_attempts, 2147483647)) OVER lane END AS takes
      FROM (
        SELECT ${jobColumns.join(', ')}, priority, position, seq, held_until, suspect,
          due_at <= statement_timestamp() AND held_until IS NULL AND NOT suspect AND name = ANY(${NAMES}::text[]) AS fits
        FROM ${schema}.job
        WHERE channel = ${CHANNEL} AND key = candidate.key AND position IS NOT NULL
        ORDER BY seq, position
        LIMIT ${RUN}::bigint + 1
      ) AS next
      WINDOW lane AS (ORDER BY seq, position ROWS UNBOUNDED PRECEDING)
      LIMIT ${RUN}
    ) AS job ON true
    LIMIT ${LIMIT}::bigint + ${RUN}::bigint - 1
  ), cut AS MATERIALIZED (
    SELECT coalesce(min(lane_ordinal) FILTER (
        WHERE step = 1 AND (place > ${LIMIT} OR takes AND lane_ordinal > ${SLOTS} AND attempt + 1 >= max_attempts)
      ), 2147483647) AS at,
      coalesce(max(lane_ordinal), 0) AS reached
    FROM lane_job
  ), leased_to AS MATERIALIZED (
    SELECT array_agg(leased_seq ORDER BY lane_ordinal) AS seqs
    FROM (
      SELECT lane_ordinal, last_seq + coalesce(max(unnumbered), 0) AS leased_seq FROM lane_job GROUP BY lane_ordinal, last_seq
    ) AS numbered
  ), written AS (
    INSERT INTO ${schema}.lane AS lane (channel, key, last_seq, leased_seq, used_at, runner_id, lease, priority, name, ready_at, head_position)
    SELECT ${CHANNEL}, lane_key, last_seq, (SELECT seqs FROM leased_to)[lane_ordinal], coalesce(used_at, clock_timestamp()),
      CASE WHEN takes THEN ${RUNNER}::bigint END, CASE WHEN takes THEN ${LEASE}::integer END, coalesce(priority, ${PRIORITY}), name,
      CASE WHEN takes IS NOT TRUE AND held_until IS NULL AND NOT suspect THEN greatest(due_at, statement_timestamp()) END,
      CASE WHEN takes IS NOT TRUE THEN position END
    FROM lane_job, cut
    WHERE step = 1 AND lane_ordinal < cut.at
    ORDER BY lane_key
    ON CONFLICT (channel, key) DO UPDATE
    SET last_seq = excluded.last_seq, leased_seq = excluded.leased_seq, used_at = clock_timestamp(), runner_id = excluded.runner_id, lease = excluded.lease, priority = excluded.priority, name = excluded.name,
      ready_at = excluded.ready_at, head_position = excluded.head_position
    WHERE lane.used_at = excluded.used_at
    RETURNING key, runner_id IS NOT NULL AS owned, ${laneMessage('lane')} AS message
  ), granted AS MATERIALIZED (
    SELECT lane_job.*, row_number() OVER () AS ordinal, step = 1 AND lane_ordinal <= ${SLOTS} AS starts
    FROM lane_job, cut
    WHERE takes AND lane_ordinal < cut.at AND coalesce(lane_key IN (SELECT key FROM written WHERE owned), false)
  ), leased AS (
    INSERT INTO ${schema}.lease (runner_id, number, channel, priority, job_ids, runs, keys, seqs, started, hi_due_at, hi_id)
    SELECT ${RUNNER}, ${LEASE}, ${CHANNEL}, ${PRIORITY},
      array_agg(id ORDER BY starts DESC, ordinal), array_agg(run ORDER BY starts DESC, ordinal),
      array_agg(lane_key ORDER BY starts DESC, ordinal), array_agg(given_seq ORDER BY starts DESC, ordinal), count(*) FILTER (WHERE starts), 'epoch', 0
    FROM granted
    HAVING count(*) > 0
  ), looked AS MATERIALIZED (
    SELECT at = 2147483647 AND reached < ${LIMIT} AND NOT EXISTS (SELECT FROM candidate WHERE ordinal = reached + 1) AS all_looked,
      least(reached, at - 1) AS last_ordinal
    FROM cut
  ), news AS MATERIALIZED (
    SELECT ${micros('statement_timestamp()')} AS now_micros, all_looked AND (${complete}) AS exhausted, NOT ${notPaused(schema)} AS paused,
      ${micros('place.place_at')} AS last_micros, place.place_id AS last_id, place.seen
    FROM looked LEFT JOIN LATERAL (
      (SELECT place_at, place_id, seen FROM (${placeOf('last_ordinal')}) AS place WHERE NOT all_looked LIMIT 1)
      UNION ALL
      (SELECT place_at, place_id, NULL FROM (${lastLooked}) AS place WHERE all_looked)
    ) AS place ON true
  )
  SELECT
    ${answered({
      nextDue,
      besides: ['seen', 'paused', '(SELECT json_agg(message) FROM written WHERE message IS NOT NULL)'],
    })},
    given_seq::text,
    last
  FROM news LEFT JOIN granted AS job ON true
  ORDER BY ordinal`;

const lanesValues = (p: ClaimLanesParams): unknown[] => [
  ...[p.runner, p.lease, p.channel, p.priority, p.after.micros, p.after.id, p.limit, p.slots, p.names, p.run],
];

/**
 * Leases lanes whose head's time has come, in the order in which they became ready: so lanes take turns. Right only in a
 * transaction that owns the channel. Indexes `lane_ready`, `job_lane`.
 */
export const claimLanes = defineStatement<ClaimLanesParams, ClaimLanesRow>({
  name: 'claim_lanes_v5',
  text: (schema) =>
    leaseLanes(schema, {
      candidates: `candidate AS MATERIALIZED (
    SELECT key, last_seq, used_at, ready_at AS place_at, head_position AS place_id, row_number() OVER () AS ordinal
    FROM (
      SELECT key, last_seq, used_at, ready_at, head_position
      FROM ${schema}.lane
      WHERE channel = ${CHANNEL}
        AND priority = ${PRIORITY}
        AND (ready_at, head_position) > (${timeOf(AFTER_MICROS!)}, ${AFTER_ID}::bigint)
        AND ready_at <= statement_timestamp()
        AND name = ANY(${NAMES}::text[])
        AND ${notPaused(schema)}
      ORDER BY ready_at, head_position
      LIMIT ${LIMIT}
    ) AS ready
  )`,
      placeOf: (ordinal) => `SELECT place_at, place_id, NULL::bigint AS seen FROM candidate WHERE ordinal = ${ordinal}`,
      lastLooked: 'SELECT place_at, place_id FROM candidate ORDER BY ordinal DESC LIMIT 1',
      complete: 'true',
      nextDue: `
      SELECT ${micros('ready_at')}
      FROM ${schema}.lane
      WHERE channel = ${CHANNEL} AND priority = ${PRIORITY} AND ready_at > statement_timestamp() AND name = ANY(${NAMES}::text[])
      ORDER BY ready_at, head_position
      LIMIT 1`,
    }),
  values: lanesValues,
  row: claimLanesRow,
});

/**
 * Leases lanes that nobody cares for, by the jobs that have arrived in them behind a position. A lane that is leased, or
 * written down with a time, is passed by: its owner, or that time, will see to the job. But for jobs that have come
 * to stand before its head. Right only in a transaction that owns the channel. Indexes `job_arrival`, `lane_pkey`, `job_lane`.
 */
export const claimArrivals = defineStatement<ClaimArrivalsParams, ClaimLanesRow>({
  name: 'claim_arrivals_v5',
  text: (schema) =>
    leaseLanes(schema, {
      candidates: `arrival AS MATERIALIZED (
    SELECT due_at, id, key, position, row_number() OVER () AS ordinal
    FROM (
      SELECT due_at, id, key, position
      FROM ${schema}.job
      WHERE channel = ${CHANNEL}
        AND priority = ${PRIORITY}
        AND ${inArrivals}
        AND (due_at, id) > (${timeOf(AFTER_MICROS!)}, ${AFTER_ID}::bigint)
        AND due_at <= statement_timestamp()
        AND name = ANY(${NAMES}::text[])
        AND ${notPaused(schema)}
      ORDER BY due_at, id
      LIMIT ${ARRIVALS}
    ) AS due
  ), met AS MATERIALIZED (
    SELECT key, min(position) AS lowest, min(ordinal) AS first FROM arrival GROUP BY key ORDER BY first
  ), candidate AS MATERIALIZED (
    SELECT free.*, row_number() OVER () AS ordinal
    FROM (
      SELECT met.key, coalesce(${lastSeqOf('lane')}, 0) AS last_seq, lane.used_at, met.first AS seen
      FROM met LEFT JOIN LATERAL (
        SELECT * FROM ${schema}.lane WHERE lane.channel = ${CHANNEL} AND lane.key = met.key LIMIT 1
      ) AS lane ON true
      WHERE lane.key IS NULL OR (
        lane.blocked_by IS NULL
        AND (
          lane.head_position IS NULL
          OR lane.head_position >= met.lowest AND coalesce(lane.ready_at > statement_timestamp(), true)
        )
        AND (
          ${isFree(schema)}
        )
      )
      LIMIT ${LIMIT}
    ) AS free
  )`,
      placeOf: (ordinal) => `
        SELECT arrival.due_at AS place_at, arrival.id AS place_id, candidate.seen
        FROM candidate JOIN arrival ON arrival.ordinal = candidate.seen
        WHERE candidate.ordinal = ${ordinal}`,
      lastLooked: 'SELECT due_at AS place_at, id AS place_id FROM arrival ORDER BY due_at DESC, id DESC LIMIT 1',
      complete: `(SELECT count(*) FROM arrival) < ${ARRIVALS}`,
      nextDue: `
      SELECT ${micros('due_at')}
      FROM ${schema}.job
      WHERE channel = ${CHANNEL} AND priority = ${PRIORITY}
        AND ${inArrivals}
        AND due_at > statement_timestamp() AND name = ANY(${NAMES}::text[])
      ORDER BY due_at, id
      LIMIT 1`,
    }),
  values: (params) => [...lanesValues(params), params.arrivals],
  row: claimLanesRow,
});

function claimLanesRow(columns: unknown[], params: ClaimLanesParams): ClaimLanesRow {
  const [column, seq, closesLane] = columns.slice(NEWS_COLUMN);
  const news = column as FeedNewsColumn | null;
  const place = { suspect: false, seq: Number(seq), closesLane: closesLane as boolean };
  return {
    job: columns[0] === null ? null : claimedJob(columns, params, place),
    feed: news === null ? null : { ...feedNews(news), lastKey: null, ...laneNews(news) },
    messages: (news?.[7] as string[] | null | undefined) ?? [],
  };
}

const laneNews = ([, , , , , seen, paused]: FeedNewsColumn): Pick<FeedNews, 'arrivals' | 'paused'> => ({
  arrivals: seen as number | null,
  paused: paused as boolean,
});
