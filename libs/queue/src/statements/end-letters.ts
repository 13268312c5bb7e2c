import type { JobId } from '../job/job.js';
import { wakeUps } from './insert-jobs.js';
import { defineStatement } from './statement.js';
import { laneMessage } from './wake-up.js';

/** A letter that something is to be done with. */
export interface LetterRef {
  readonly id: JobId;
  /** The take by which the caller has it, `null` when he has not taken it. */
  readonly take: number | null;
}

export interface LettersRow {
  /** The letters that were written. */
  readonly ids: readonly JobId[];
  /** Those whose lane its runner is still giving back: worth another try in a moment. */
  readonly busy: readonly JobId[];
  /** What to wake runners with. */
  readonly messages: readonly string[];
}

const lettersRow = ([ids, busy, messages]: unknown[]): LettersRow => ({
  ids: (ids as JobId[] | null) ?? [],
  busy: (busy as JobId[] | null) ?? [],
  messages: (messages as string[] | null) ?? [],
});

const refs = (letters: readonly LetterRef[]): unknown[] => [
  letters.map(({ id }) => id),
  letters.map(({ take }) => take),
];

/**
 * Locks the lanes of some letters, in the order in which everybody locks lanes. Whether a letter blocks its lane is decided
 * behind it: no runner can be giving the lane back meanwhile. Indexes `finished_job_pkey`, `lane_pkey`.
 */
export const lockLanes = defineStatement<{ ids: readonly JobId[] }, true>({
  name: 'lock_lanes_v1',
  text: (schema) => `
  SELECT true
  FROM (
    SELECT DISTINCT channel, key
    FROM ${schema}.finished_job
    WHERE id = ANY ($1::bigint[]) AND position IS NOT NULL
    ORDER BY channel, key
  ) AS named
  CROSS JOIN LATERAL (
    SELECT FROM ${schema}.lane WHERE lane.channel = named.channel AND lane.key = named.key LIMIT 1 FOR UPDATE
  ) AS lane`,
  values: ({ ids }) => [ids],
  row: () => true,
});

/**
 * The letters that may be written, locked: those that nobody has, and those that the caller has. One whose lane is still
 * under the lease in which it died is left: until that lane is given back it is not known whether the letter blocks it.
 */
const locked = (schema: string, mayBe: string): string => `wanted AS MATERIALIZED (
    SELECT wanted.id, wanted.take, leased.busy IS NOT NULL AS busy, lane.blocked_by IS NOT NULL AND lane.blocked_by = wanted.id AS blocks
    FROM unnest($1::bigint[], $2::integer[]) AS wanted (id, take)
    LEFT JOIN LATERAL (
      SELECT channel, key, run FROM ${schema}.finished_job WHERE finished_job.id = wanted.id AND position IS NOT NULL LIMIT 1
    ) AS ordered ON true
    LEFT JOIN LATERAL (
      SELECT runner_id, lease, blocked_by FROM ${schema}.lane WHERE lane.channel = ordered.channel AND lane.key = ordered.key LIMIT 1
    ) AS lane ON true
    LEFT JOIN LATERAL (
      SELECT true AS busy
      FROM ${schema}.lease
      WHERE lease.runner_id = lane.runner_id AND lease.number = lane.lease
        AND lease.runs[array_position(lease.job_ids, wanted.id)] = ordered.run
      LIMIT 1
    ) AS leased ON true
  ), letter AS MATERIALIZED (
    SELECT finished_job.*, wanted.blocks
    FROM wanted JOIN ${schema}.finished_job ON finished_job.id = wanted.id
    WHERE NOT wanted.busy AND ${mayBe}
    ORDER BY finished_job.id
    FOR UPDATE OF finished_job
  ), busy AS (
    SELECT id FROM wanted WHERE busy
  )`;

const TAKEN = `state = 'reprocessing' AND (wanted.take IS NULL OR wanted.take = finished_job.takes)`;

/** Nobody else has it. */
const FREE = `(
      state = 'dead' AND (wanted.take IS NULL OR wanted.take = finished_job.takes)
      OR state = 'reprocessing' AND CASE WHEN wanted.take IS NULL THEN taken_until <= clock_timestamp() ELSE wanted.take = finished_job.takes END
    )`;

const answer = (written: string, messages = 'NULL'): string => `
  SELECT (SELECT json_agg(id::text) FROM ${written}), (SELECT json_agg(id::text) FROM busy), ${messages}`;

export interface EndLettersParams {
  readonly letters: readonly LetterRef[];
  readonly state: 'resolved' | 'discarded';
  readonly note: string | null;
  /** How long they are kept from now on. */
  readonly keepMs: number;
}

/**
 * Ends letters: resolves those that were taken, discards those that nobody else has. Right only behind `lockLanes`, and
 * before `unblockLanes`, in one transaction. Indexes `finished_job_pkey`, `lane_pkey`, `lease_pkey`.
 */
export const endLetters = defineStatement<EndLettersParams, LettersRow>({
  name: 'end_letters_v1',
  text: (schema) => `
  WITH ${locked(schema, `CASE WHEN $3 = 'resolved' THEN ${TAKEN} ELSE ${FREE} END`)}, ended AS (
    UPDATE ${schema}.finished_job
    SET state = $3::text, note = $4::text, resolved_at = clock_timestamp(), taken_until = NULL,
      delete_at = clock_timestamp() + $5::bigint * interval '1 millisecond'
    FROM letter
    WHERE finished_job.id = letter.id
    RETURNING finished_job.id
  )${answer('ended')}`,
  values: ({ letters, state, note, keepMs }) => [...refs(letters), state, note, keepMs],
  row: lettersRow,
});

/** Puts letters back that were taken: they are dead, as before. A lane that one of them blocks stays blocked. Index `finished_job_pkey`. */
export const rejectLetters = defineStatement<{ letters: readonly LetterRef[]; note: string | null }, LettersRow>({
  name: 'reject_letters_v1',
  text: (schema) => `
  WITH letter AS MATERIALIZED (
    SELECT finished_job.id
    FROM unnest($1::bigint[], $2::integer[]) AS wanted (id, take) JOIN ${schema}.finished_job ON finished_job.id = wanted.id
    WHERE ${TAKEN}
    ORDER BY finished_job.id
    FOR UPDATE OF finished_job
  ), rejected AS (
    UPDATE ${schema}.finished_job
    SET state = 'dead', taken_until = NULL, note = coalesce($3::text, note)
    FROM letter
    WHERE finished_job.id = letter.id
    RETURNING finished_job.id
  )
  SELECT (SELECT json_agg(id::text) FROM rejected), NULL, NULL`,
  values: ({ letters, note }) => [...refs(letters), note],
  row: lettersRow,
});

/**
 * Lets dead jobs run again: due at once, their attempts start anew, under a stamp by which whatever their last run still
 * writes is refused. A job that blocks its lane keeps position and number, so it is the head again; any other ordered one
 * comes to the end of its lane, unnumbered. An idempotency key is its own again unless a live job has it by now, which
 * one that is just being spawned may (a unique violation, or a lock not had in time): then again without. Right only behind `lockLanes`, and before
 * `unblockLanes`, in one transaction. Indexes `finished_job_pkey`, `lane_pkey`, `lease_pkey`.
 */
export const requeueLetters = defineStatement<{ letters: readonly LetterRef[]; keepKeys: boolean }, LettersRow>({
  name: 'requeue_letters_v2',
  text: (schema) => `
  WITH ${locked(schema, FREE)}, gone AS (
    DELETE FROM ${schema}.finished_job USING letter WHERE finished_job.id = letter.id
  ), keyed AS MATERIALIZED (
    SELECT DISTINCT ON (idempotency_key, channel) id, idempotency_key, idempotency_hash
    FROM letter
    WHERE $3::boolean AND idempotency_key IS NOT NULL
      AND NOT EXISTS (
        SELECT FROM ${schema}.job WHERE job.idempotency_key = letter.idempotency_key AND job.channel = letter.channel
      )
    ORDER BY idempotency_key, channel, id
  ), requeued AS (
    INSERT INTO ${schema}.job (
      id, run, attempt, max_attempts, priority, due_at, created_at, policy_id, position, seq,
      channel, key, name, payload, payload_bytes, metadata, backoff, last_error, idempotency_key, idempotency_hash
    )
    SELECT
      id, run + 1, 0, max_attempts, priority, clock_timestamp(), created_at, policy_id,
      CASE WHEN blocks THEN position WHEN position IS NOT NULL THEN nextval('${schema}.job_id_seq') END,
      CASE WHEN blocks THEN seq END,
      channel, key, name, payload, payload_bytes, metadata, backoff, last_error,
      (SELECT keyed.idempotency_key FROM keyed WHERE keyed.id = letter.id),
      (SELECT keyed.idempotency_hash FROM keyed WHERE keyed.id = letter.id)
    FROM (SELECT * FROM letter ORDER BY position, id) AS letter
    RETURNING id, channel, key, name, priority, due_at, position IS NOT NULL AS ordered
  ), wake_up AS (${wakeUps('requeued')}
  )${answer('requeued', '(SELECT json_agg(message) FROM wake_up)')}`,
  values: ({ letters, keepKeys }) => [...refs(letters), keepKeys],
  row: lettersRow,
});

/**
 * Lets lanes go on that were blocked by letters which are none any more: right behind what has ended them, in the same
 * transaction. A look is due at once, also where no job is in sight: one that commits meanwhile has been passed by. It is
 * for those who run what the letter was, unless the lane has a name of its own.
 * Indexes `finished_job_pkey`, `job_pkey`, `lane_pkey`, `job_lane`.
 */
export const unblockLanes = defineStatement<{ ids: readonly JobId[] }, string>({
  name: 'unblock_lanes_v2',
  text: (schema) => `
  UPDATE ${schema}.lane
  SET blocked_by = NULL, used_at = clock_timestamp(), head_position = coalesce(next.position, 0), ready_at = clock_timestamp(),
    priority = coalesce(next.priority, lane.priority), name = coalesce(next.name, next.ended_name)
  FROM (
    SELECT ended.channel, ended.key, ended.id, ended.name AS ended_name, head.*
    FROM unnest($1::bigint[]) AS asked (id)
    CROSS JOIN LATERAL (
      SELECT id, channel, key, name
      FROM ${schema}.finished_job
      WHERE finished_job.id = asked.id AND position IS NOT NULL AND (state || '') NOT IN ('dead', 'reprocessing')
      UNION ALL
      SELECT id, channel, key, name FROM ${schema}.job WHERE job.id = asked.id AND position IS NOT NULL
      LIMIT 1
    ) AS ended
    LEFT JOIN LATERAL (
      SELECT position, priority, name
      FROM ${schema}.job
      WHERE job.channel = ended.channel AND job.key = ended.key AND position IS NOT NULL
      ORDER BY seq, position
      LIMIT 1
    ) AS head ON true
  ) AS next
  WHERE lane.channel = next.channel AND lane.key = next.key AND lane.blocked_by = next.id
  RETURNING ${laneMessage('lane')}`,
  values: ({ ids }) => [ids],
  row: ([message]) => message as string,
});

/** `null`: there is no such job; `live`: it is not finished. */
export interface LetterStateRow {
  readonly id: JobId;
  readonly state: string | null;
  readonly take: number | null;
  /** It was taken, and the time of that is over. */
  readonly free: boolean;
}

/** How some jobs stand. Indexes `finished_job_pkey`, `job_pkey`. */
export const findLetterStates = defineStatement<{ ids: readonly JobId[] }, LetterStateRow>({
  name: 'find_letter_states_v1',
  text: (schema) => `
  SELECT wanted.id, coalesce(finished.state, job.state), finished.takes, coalesce(finished.taken_until <= clock_timestamp(), false)
  FROM unnest($1::bigint[]) AS wanted (id)
  LEFT JOIN LATERAL (
    SELECT state, takes, taken_until FROM ${schema}.finished_job WHERE finished_job.id = wanted.id LIMIT 1
  ) AS finished ON true
  LEFT JOIN LATERAL (SELECT 'live' AS state FROM ${schema}.job WHERE job.id = wanted.id LIMIT 1) AS job ON true`,
  values: ({ ids }) => [ids],
  row: ([id, state, take, free]) => ({
    id: id as JobId,
    state: state as string | null,
    take: take as number | null,
    free: free as boolean,
  }),
});
