import {
  feedNews,
  newsColumn,
  newsIn,
  FEED_NEWS,
  type ClaimParams,
  type ClaimRow,
  type FeedNewsColumn,
} from './claim-jobs.js';
import { inArrivals } from './job-columns.js';
import { LANE_JOB_LISTS, laneJobs, rowsAt, toldFirst, type LaneJobLists } from './lane-jobs.js';
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
 * A lane's jobs go through the steps as arrays, and only where they stand: the rows themselves are read once more where they
 * are answered. To copy each whole row from step to step took half of a claim's time.
 *
 * The lane that meets the demand is taken whole, so a claim may have up to a run more than was asked for. Lanes behind it
 * are not even read: `turn` counts the jobs, and the LIMIT ends the reading.
 *
 * A job on its last attempt, like a suspect, is only taken as the head of a lane that starts at once; from the first
 * lane on for which there is no slot, the rest stays. A lane whose head must wait is written down with the time, so that
 * nobody has to look at it before. Lanes are written in the order of their keys, as whoever writes several of them does, so
 * that nobody waits for another crosswise: those that nobody has met so far first, which is cheapest by far, and refuses the
 * claim where somebody has written one meanwhile (`lane_pkey`). A lane that was written since it was read is left alone, and
 * the look begins again (`refused`), since whoever did that may have seen less. Durable: a lane's owner and its last seq
 * must outlive a crash of the server.
 */
const leaseLanes = (schema: string, { candidates, placeOf, lastLooked, complete, nextDue }: Source): string => `
  WITH ${candidates}, lane_run AS MATERIALIZED (
    SELECT key, ordinal, last_seq, used_at, places, ids, runs, seqs, numbered, taken, found = taken AS whole,
      last_seq + greatest(least(found, ${RUN}::bigint) - numbered, 0) AS leased_seq,
      NOT go_on[1] AND ordinal > ${SLOTS} AS stays
    FROM (
      SELECT candidate.key, ordinal, last_seq, used_at, lane.*, turn
      FROM candidate
      CROSS JOIN LATERAL (
        SELECT array_agg(place) AS places, array_agg(id) AS ids, array_agg(run) AS runs, array_agg(seq) AS seqs,
          count(*) AS found, count(seq) AS numbered, array_agg(goes_on) AS go_on,
          CASE WHEN (array_agg(fits AND priority = ${PRIORITY}))[1]
            THEN greatest(1, least(${RUN}::bigint, coalesce(array_position(array_agg(goes_on), false) - 1, count(*)))) ELSE 0 END AS taken
        FROM (
          SELECT job.ctid AS place, id, run, seq, priority, fits, fits AND attempt + 1 < coalesce(max_attempts, 2147483647) AS goes_on
          FROM ${schema}.job CROSS JOIN LATERAL (
            SELECT due_at <= statement_timestamp() AND held_until IS NULL AND NOT suspect AND name = ANY(${NAMES}::text[]) AS fits
          ) AS head
          WHERE channel = ${CHANNEL} AND key = candidate.key AND position IS NOT NULL
          ORDER BY seq, position
          LIMIT ${RUN}::bigint + 1
        ) AS next
      ) AS lane
      CROSS JOIN LATERAL generate_series(1, greatest(taken, 1)) AS turn
      LIMIT ${LIMIT}
    ) AS turns
    WHERE turn = 1
  ), head AS MATERIALIZED (
    SELECT key, ordinal, last_seq, used_at, leased_seq, true AS taken, stays, ${PRIORITY}::smallint AS priority, NULL AS name,
      NULL::bigint AS position, NULL::timestamptz AS ready_at
    FROM lane_run
    WHERE taken > 0
    UNION ALL
    SELECT lane_run.key, ordinal, last_seq, used_at, leased_seq, false, false, coalesce(job.priority, ${PRIORITY}), job.name,
      job.position, CASE WHEN held_until IS NULL AND NOT suspect THEN greatest(due_at, statement_timestamp()) END
    FROM lane_run LEFT JOIN ${schema}.job ON job.ctid = places[1]
    WHERE taken = 0
  ), cut AS MATERIALIZED (
    SELECT coalesce(min(ordinal) FILTER (WHERE stays), 2147483647) AS at, coalesce(max(ordinal), 0) AS reached FROM head
  ), met AS (
    ${writing(schema, 'used_at IS NULL')}
    RETURNING ${WRITTEN}
  ), used AS (
    ${writing(schema, 'used_at IS NOT NULL AND (SELECT count(*) FROM met) >= 0')}
    ON CONFLICT (channel, key) DO UPDATE
    SET last_seq = excluded.last_seq, leased_seq = excluded.leased_seq, used_at = clock_timestamp(), runner_id = excluded.runner_id,
      lease = excluded.lease, priority = excluded.priority, name = coalesce(excluded.name, lane.name),
      ready_at = excluded.ready_at, head_position = excluded.head_position
    WHERE lane.used_at = excluded.used_at
    RETURNING ${WRITTEN}
  ), written AS MATERIALIZED (
    SELECT * FROM met UNION ALL SELECT * FROM used
  ), granted AS MATERIALIZED (
    SELECT places[turn] AS place, ids[turn] AS id, runs[turn] AS run, key, turn, ordinal, turn = taken AND whole AS last,
      CASE WHEN turn <= numbered THEN seqs[turn] ELSE last_seq + turn - numbered END AS given_seq,
      turn = 1 AND ordinal <= ${SLOTS} AS starts
    FROM lane_run, generate_series(1, taken::integer) AS turn
    WHERE coalesce(key IN (SELECT key FROM written WHERE owned), false)
  ), batch AS MATERIALIZED (
    SELECT ${agg(['place', 'id', 'run', 'key', 'given_seq', 'last'])}, count(*) FILTER (WHERE starts) AS started
    FROM granted
  ), leased AS (
    INSERT INTO ${schema}.lease (runner_id, number, channel, priority, job_ids, runs, keys, seqs, started, hi_due_at, hi_id)
    SELECT ${RUNNER}, ${LEASE}, ${CHANNEL}, ${PRIORITY}, ids, runs, keys, given_seqs, started, 'epoch', 0
    FROM batch
    WHERE ids IS NOT NULL
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
  SELECT ${toldFirst(
    newsColumn({
      nextDue,
      besides: [
        'seen',
        'paused',
        '(SELECT count(*) FROM head, cut WHERE ordinal < cut.at) > (SELECT count(*) FROM written)',
        '(SELECT json_agg(message) FROM written WHERE message IS NOT NULL)',
        ...LANE_JOB_LISTS,
      ],
    }),
  )}
  FROM news, batch
  UNION ALL
  ${rowsAt(schema, 'SELECT places FROM batch')}`;

/** Writes down lanes as their heads say, in the order of their keys. */
const writing = (schema: string, which: string): string => `
    INSERT INTO ${schema}.lane AS lane (channel, key, last_seq, leased_seq, used_at, runner_id, lease, priority, name, ready_at, head_position)
    SELECT ${CHANNEL}, key, last_seq, leased_seq, coalesce(used_at, clock_timestamp()),
      CASE WHEN taken THEN ${RUNNER}::bigint END, CASE WHEN taken THEN ${LEASE}::integer END, priority, name, ready_at, position
    FROM head, cut
    WHERE ordinal < cut.at AND ${which}
    ORDER BY key`;

const WRITTEN = `key, runner_id IS NOT NULL AS owned, ${laneMessage('lane')} AS message`;

/** Lists of the granted jobs, in one order: those that start at once first, then lane by lane. */
const agg = (columns: readonly string[]): string =>
  columns.map((column) => `array_agg(${column} ORDER BY starts DESC, ordinal, turn) AS ${column}s`).join(', ');

const lanesValues = (p: ClaimLanesParams): unknown[] => [
  ...[p.runner, p.lease, p.channel, p.priority, p.after.micros, p.after.id, p.limit, p.slots, p.names, p.run],
];

/**
 * Leases lanes whose head's time has come, in the order in which they became ready: so lanes take turns. Right only in a
 * transaction that owns the channel. Indexes `lane_ready`, `job_lane`.
 */
export const claimLanes = defineStatement<ClaimLanesParams, ClaimLanesRow>({
  name: 'claim_lanes_v9',
  jsonAsText: true,
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
  rows: claimLanesRows,
});

/**
 * Leases lanes that nobody cares for, by the jobs that have arrived in them behind a position. A lane that is leased, or
 * written down with a time, is passed by: its owner, or that time, will see to the job. But for jobs that have come
 * to stand before its head. Right only in a transaction that owns the channel. Indexes `job_arrival`, `lane_pkey`, `job_lane`.
 */
export const claimArrivals = defineStatement<ClaimArrivalsParams, ClaimLanesRow>({
  name: 'claim_arrivals_v9',
  jsonAsText: true,
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
  ), arrived AS MATERIALIZED (
    SELECT key, min(position) AS lowest, min(ordinal) AS first FROM arrival GROUP BY key ORDER BY first
  ), candidate AS MATERIALIZED (
    SELECT free.*, row_number() OVER () AS ordinal
    FROM (
      SELECT arrived.key, coalesce(${lastSeqOf('lane')}, 0) AS last_seq, lane.used_at, arrived.first AS seen
      FROM arrived LEFT JOIN LATERAL (
        SELECT * FROM ${schema}.lane WHERE lane.channel = ${CHANNEL} AND lane.key = arrived.key LIMIT 1
      ) AS lane ON true
      WHERE lane.key IS NULL OR (
        lane.blocked_by IS NULL
        AND (
          lane.head_position IS NULL
          OR lane.head_position >= arrived.lowest AND coalesce(lane.ready_at > statement_timestamp(), true)
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
  rows: claimLanesRows,
});

/** What stands behind the news of a feed. */
type LanesNewsColumn = [
  seen: number | null,
  paused: boolean,
  refused: boolean,
  messages: string[] | null,
  ...lists: LaneJobLists,
];

function claimLanesRows([first, ...rows]: unknown[][], params: ClaimLanesParams): ClaimLanesRow[] {
  const column = newsIn<FeedNewsColumn>(first!)!;
  const [seen, paused, refused, messages, ...lists] = column.slice(FEED_NEWS) as LanesNewsColumn;
  const feed = { ...feedNews(column), lastKey: null, arrivals: seen, paused, refused };
  const jobs = laneJobs(rows, lists, params).map((job) => ({ job, feed: null, messages: [] }));
  return [{ job: null, feed, messages: messages ?? [] }, ...jobs];
}
