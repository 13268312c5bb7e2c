import type { JobId, Json } from '../job/job.js';
import type { DeadReason } from '../job/outcome.js';
import { defineStatement, micros, timeOf, type Statement } from './statement.js';

/** Where a dead letter stands: nobody has it, somebody has taken it, it was dealt with, or given up. */
export type DeadLetterState = 'dead' | 'reprocessing' | 'resolved' | 'discarded';

/** A job that will not run again by itself, kept for a person. */
export interface DeadLetter {
  /** Id of the job. */
  readonly id: JobId;
  /** `dead`; `reprocessing`: somebody has taken it; `resolved` and `discarded`: done with. */
  readonly state: DeadLetterState;
  /** Its channel. */
  readonly channel: string;
  /** Its key, `''` when it has none. */
  readonly key: string;
  /** Which handler ran it. */
  readonly name: string;
  /** Smaller ones run first within the channel. */
  readonly priority: number;
  /** Of an ordered job: its number in the lane, `null` when it never started. */
  readonly seq: number | null;
  /** Runs that it had. */
  readonly attempts: number;
  /** `Infinity`: it would have been retried for ever. */
  readonly maxAttempts: number;
  /** What was spawned, or what a checkpoint made of it; `null` when nothing was given. */
  readonly payload: unknown;
  /** The binary payload. */
  readonly bytes: Buffer | null;
  /** What the spawner attached. */
  readonly metadata: { readonly [field: string]: Json | undefined };
  /** When it was spawned. */
  readonly createdAt: Date;
  /** When it died. */
  readonly diedAt: Date;
  /** Why it is dead. */
  readonly reason: DeadReason;
  /** Text of the last error, at most 8 KiB. */
  readonly lastError: string | null;
  /** Of a taken one: when the take ends, and others may have it. */
  readonly takenUntil: Date | null;
  /** Of one that `take` has answered: which take this is. Give the letter back to tell that it is yours. */
  readonly take: number | null;
  /** When it was resolved or discarded. */
  readonly resolvedAt: Date | null;
  /** What was noted with that. */
  readonly note: string | null;
}

/** Place of a letter in the order of the lists: when it died, then its id. */
export interface LetterPlace {
  readonly micros: string;
  readonly id: JobId;
}

/** Which letters, as the statements take it: `null` is no condition. */
export interface LetterConditions {
  readonly states: readonly DeadLetterState[];
  /** Of the reprocessing ones only those whose take has ended. */
  readonly free: boolean;
  readonly channel: string | null;
  readonly key: string | null;
  readonly name: string | null;
  readonly reason: string | null;
  readonly olderMs: number | null;
  readonly newerMs: number | null;
  /** Text that the last error contains. */
  readonly error: string | null;
  readonly ids: readonly JobId[] | null;
  readonly after: LetterPlace | null;
  /** Died by then, microseconds; `null`: whenever. */
  readonly untilMicros: string | null;
  readonly limit: number;
}

/** By which index the letters are found. */
export type LetterScope = 'ids' | 'lane' | 'channel' | 'all';

export function scopeOf({ ids, channel, key }: LetterConditions): LetterScope {
  if (ids !== null) return 'ids';
  if (channel === null) return 'all';
  return key === null ? 'channel' : 'lane';
}

const values = (c: LetterConditions): unknown[] => [
  ...[c.states, c.free, c.channel, c.key, c.name, c.reason, c.olderMs, c.newerMs, c.error, c.ids],
  ...[c.after?.micros ?? '0', c.after?.id ?? '0', c.untilMicros, c.limit],
];

/**
 * A range stands in for an equality, and its column in the order, so that the planner has one index to choose, whatever
 * the statistics say.
 */
const SCOPES: Readonly<Record<LetterScope, { readonly condition: string; readonly order: string }>> = {
  // No index of states is to be thought of, where the key leads there.
  ids: { condition: 'AND id = ANY ($10::bigint[])', order: '' },
  lane: {
    condition: 'AND channel >= $3 AND channel <= $3 AND key >= $4 AND key <= $4',
    order: 'channel, key, ',
  },
  channel: { condition: 'AND channel >= $3 AND channel <= $3', order: 'channel, ' },
  all: { condition: '', order: '' },
};

/** As the indexes of dead letters have it; the other two states are few, and pruned after some days. */
const PARTS = {
  open: { states: `state IN ('dead', 'reprocessing')`, asked: `$1::text[] && '{dead,reprocessing}'` },
  closed: { states: `state IN ('resolved', 'discarded')`, asked: `$1::text[] && '{resolved,discarded}'` },
};

const letters = (schema: string, scope: LetterScope, part: keyof typeof PARTS, columns: string): string => `
    SELECT ${columns}
    FROM ${schema}.finished_job
    WHERE ${scope === 'ids' ? PARTS[part].states.replace('state', `(state || '')`) : PARTS[part].states}
      AND ${PARTS[part].asked}
      AND ${scope === 'ids' ? `(state || '')` : 'state'} = ANY ($1::text[])
      ${part === 'open' ? SCOPES[scope].condition : scope === 'ids' ? SCOPES.ids.condition : ''}
      AND (finished_at, id) > (${timeOf('$11')}, $12::bigint)
      AND finished_at <= coalesce(${timeOf('$13')}, 'infinity')
      AND finished_at <= statement_timestamp() - coalesce($7::bigint, 0) * interval '1 millisecond'
      AND finished_at >= coalesce(statement_timestamp() - $8::bigint * interval '1 millisecond', '-infinity')
      AND (NOT $2::boolean OR state <> 'reprocessing' OR taken_until <= statement_timestamp())
      AND ($3::text IS NULL OR channel = $3)
      AND ($4::text IS NULL OR key = $4)
      AND ($5::text IS NULL OR name = $5)
      AND ($6::text IS NULL OR reason = $6)
      AND ($9::text IS NULL OR strpos(last_error, $9) > 0)
      AND ($10::bigint[] IS NULL OR id = ANY ($10))`;

const page = (schema: string, scope: LetterScope, part: keyof typeof PARTS, columns = '*'): string =>
  `${letters(schema, scope, part, columns)}
    ORDER BY ${part === 'open' ? SCOPES[scope].order : ''}finished_at, id
    LIMIT $14`;

const bothParts = (schema: string, scope: LetterScope, columns = '*'): string => `
    (${page(schema, scope, 'open', columns)}
    ) UNION ALL (${page(schema, scope, 'closed', columns)}
    )`;

/** One statement for each way to find letters. */
function forScopes<Params, Row>(
  define: (scope: LetterScope) => Statement<Params, Row>,
): (scope: LetterScope) => Statement<Params, Row> {
  const statements = new Map<LetterScope, Statement<Params, Row>>(
    (['ids', 'lane', 'channel', 'all'] as const).map((scope) => [scope, define(scope)]),
  );
  return (scope) => statements.get(scope)!;
}

const letterColumns = `id, state, channel, key, name, priority, seq, attempt, max_attempts, payload, payload_bytes, metadata,
    created_at, finished_at, reason, last_error, taken_until, resolved_at, note, ${micros('finished_at')}`;

/** A letter, and its place in the order of the lists. */
export interface LetterRow {
  readonly letter: DeadLetter;
  readonly place: LetterPlace;
}

function letterRow(columns: unknown[]): LetterRow {
  const id = columns[0] as JobId;
  const letter: DeadLetter = {
    id,
    state: columns[1] as DeadLetterState,
    channel: columns[2] as string,
    key: columns[3] as string,
    name: columns[4] as string,
    priority: columns[5] as number,
    seq: columns[6] === null ? null : Number(columns[6]),
    attempts: columns[7] as number,
    maxAttempts: (columns[8] as number | null) ?? Infinity,
    payload: columns[9],
    bytes: columns[10] as Buffer | null,
    metadata: (columns[11] as DeadLetter['metadata'] | null) ?? {},
    createdAt: columns[12] as Date,
    diedAt: columns[13] as Date,
    reason: columns[14] as DeadReason,
    lastError: columns[15] as string | null,
    takenUntil: columns[16] as Date | null,
    resolvedAt: columns[17] as Date | null,
    note: columns[18] as string | null,
    take: (columns[20] as number | undefined) ?? null,
  };
  return { letter, place: { micros: String(columns[19]), id } };
}

/**
 * A page of dead letters, the longest dead first. Its cost grows with the dead letters that are looked at, never with other
 * finished jobs. Indexes `finished_job_dead`, `finished_job_dead_channel`, `finished_job_dead_lane`,
 * `finished_job_closed`, `finished_job_pkey`.
 */
export const listLetters = forScopes<LetterConditions, LetterRow>((scope) =>
  defineStatement({
    name: `list_letters_${scope}_v1`,
    text: (schema) => `
  SELECT ${letterColumns}
  FROM (${bothParts(schema, scope)}
  ) AS letter
  ORDER BY finished_at, id
  LIMIT $14`,
    values,
    row: letterRow,
  }),
);

/** How many there are, exactly. Reads those that it counts. The same indexes. */
export const countLetters = forScopes<LetterConditions, number>((scope) =>
  defineStatement({
    name: `count_letters_${scope}_v1`,
    text: (schema) => `
  SELECT (SELECT count(*) FROM (${letters(schema, scope, 'open', 'id')}
  ) AS letter) + (SELECT count(*) FROM (${letters(schema, scope, 'closed', 'id')}
  ) AS letter)
  WHERE $14::bigint IS NULL OR true`,
    values,
    row: ([count]) => Number(count),
  }),
);

export interface FoundLetter extends LetterPlace {
  /** When the statement looked, microseconds. */
  readonly nowMicros: string;
}

/** A chunk of what a bulk operation is about. The same indexes. */
export const findLetters = forScopes<LetterConditions, FoundLetter>((scope) =>
  defineStatement({
    name: `find_letters_${scope}_v1`,
    text: (schema) => `
  SELECT id, ${micros('finished_at')}, ${micros('statement_timestamp()')}
  FROM (${bothParts(schema, scope, 'id, finished_at')}
  ) AS letter
  ORDER BY finished_at, id
  LIMIT $14`,
    values,
    row: ([id, place, now]) => ({ id: id as JobId, micros: String(place), nowMicros: String(now) }),
  }),
);

/**
 * Hands out letters that nobody has, the longest dead first, for a time. What another caller is taking is locked and passed
 * by, so no letter is handed out twice. A taken one is not pruned before its time is over. The same indexes.
 */
export const takeLetters = forScopes<LetterConditions & { timeoutMs: number }, LetterRow>((scope) =>
  defineStatement({
    name: `take_letters_${scope}_v1`,
    text: (schema) => `
  WITH found AS MATERIALIZED (${page(schema, scope, 'open', 'id')}
    FOR UPDATE SKIP LOCKED
  ), taken AS (
    UPDATE ${schema}.finished_job
    SET state = 'reprocessing', takes = coalesce(takes, 0) + 1,
      taken_until = statement_timestamp() + $15::bigint * interval '1 millisecond',
      delete_at = CASE WHEN delete_at IS NOT NULL THEN greatest(delete_at, statement_timestamp() + $15::bigint * interval '1 millisecond') END
    FROM found
    WHERE finished_job.id = found.id
    RETURNING finished_job.*
  )
  SELECT ${letterColumns}, takes FROM taken ORDER BY finished_at, id`,
    values: ({ timeoutMs, ...conditions }) => [...values(conditions), timeoutMs],
    row: letterRow,
  }),
);

/**
 * Deletes a chunk of the letters that are done with, before their retention is over; answers how many. Several callers at
 * once share the work. Indexes `finished_job_closed`, `finished_job_pkey`.
 */
export const cleanUpLetters = forScopes<LetterConditions, number>((scope) =>
  defineStatement({
    name: `clean_up_letters_${scope}_v1`,
    text: (schema) => `
  WITH found AS MATERIALIZED (${page(schema, scope, 'closed', 'id')}
    FOR UPDATE SKIP LOCKED
  ), gone AS (
    DELETE FROM ${schema}.finished_job USING found WHERE finished_job.id = found.id RETURNING finished_job.id
  )
  SELECT count(*) FROM gone`,
    values,
    row: ([count]) => Number(count),
  }),
);
