import { checkKnown } from '../job/check-known.js';
import { durationMs, type Duration } from '../job/duration.js';
import { InvalidOptionsError } from '../job/errors.js';
import type { JobId } from '../job/job.js';
import { checkJobId, checkKey, checkName, checkText } from '../job/names.js';
import type { DeadReason } from '../job/outcome.js';
import type { DeadLetterState, LetterConditions, LetterPlace } from '../statements/dead-letters.js';

/** Which dead letters: those that fit everything that is given. */
export interface DeadLetterFilter {
  /** Of this channel. */
  channel?: string;
  /** With this key; `''`: without one. */
  key?: string;
  /** Of the handler with this name. */
  name?: string;
  /** In one of these states. Default: those with which the operation has to do. */
  state?: DeadLetterState | readonly DeadLetterState[];
  /** Dead for this reason. */
  reason?: DeadReason;
  /** Died longer ago than this. */
  olderThan?: Duration;
  /** Died within this time. */
  newerThan?: Duration;
  /** The last error contains this text, to the letter. */
  error?: string;
  /** Among these ids, at most 10 000; unknown ones fit nothing. */
  ids?: readonly JobId[];
}

/** Ids that one call takes. */
export const MAX_IDS = 10_000;

const FIELDS = ['channel', 'key', 'name', 'state', 'reason', 'olderThan', 'newerThan', 'error', 'ids'] as const;

const STATES: readonly DeadLetterState[] = ['dead', 'reprocessing', 'resolved', 'discarded'];

const REASONS: readonly DeadReason[] = ['exhausted', 'rejected', 'lease expired'];

const MAX_ERROR_BYTES = 8_192;

/** How an operation looks for letters. */
export interface LetterQuery {
  /** The states with which it has to do: what the filter may ask for. */
  readonly states: readonly DeadLetterState[];
  /** Of the taken ones only those whose take has ended. */
  readonly free?: boolean;
  readonly limit: number;
  readonly after?: LetterPlace | null;
}

/**
 * @throws {InvalidOptionsError} naming the field
 */
export function conditionsOf(filter: DeadLetterFilter, query: LetterQuery): LetterConditions {
  checkKnown(filter, 'filter', FIELDS);
  const { channel, key, name, state, reason, olderThan, newerThan, error, ids } = filter;
  const given = <In, Out>(value: In | undefined, check: (value: In) => Out): Out | null =>
    value === undefined ? null : check(value);
  return {
    states: given(state, (wanted) => checkStates(wanted, query.states)) ?? query.states,
    free: query.free ?? false,
    channel: given(channel, (value) => checkName(value, 'channel')),
    key: given(key, (value) => checkKey(value, 'key')),
    name: given(name, (value) => checkName(value, 'name')),
    reason: given(reason, (value) => checkOneOf(value, 'reason', REASONS)),
    olderMs: given(olderThan, (value) => durationMs(value, 'olderThan')),
    newerMs: given(newerThan, (value) => durationMs(value, 'newerThan')),
    error: given(error, (value) => checkText(value, 'error', { minBytes: 1, maxBytes: MAX_ERROR_BYTES })),
    ids: given(ids, checkIds),
    after: query.after ?? null,
    untilMicros: null,
    limit: query.limit,
  };
}

function checkStates(given: unknown, allowed: readonly DeadLetterState[]): readonly DeadLetterState[] {
  return (Array.isArray(given) ? given : [given]).map((state) => checkOneOf(state, 'state', allowed));
}

function checkOneOf<T extends string>(value: unknown, option: string, allowed: readonly T[]): T {
  if (allowed.includes(value as T)) return value as T;
  throw new InvalidOptionsError(option, value, `Give one of ${allowed.map((one) => `"${one}"`).join(', ')}.`);
}

function checkIds(ids: unknown): readonly JobId[] {
  if (!Array.isArray(ids)) throw new InvalidOptionsError('ids', ids, 'Give an array of ids.');
  if (ids.length > MAX_IDS) throw new InvalidOptionsError('ids', ids.length, `Give at most ${MAX_IDS} in one call.`);
  return ids.map((id) => checkJobId(id, 'ids'));
}

/** Every state that a dead letter may have. */
export const ALL_STATES = STATES;

/** A place in a list, as `next` answers it. */
export const cursorOf = ({ micros, id }: LetterPlace): string => `${micros}.${id}`;

/** @throws {InvalidOptionsError} unless it is what `next` has answered */
export function placeOf(cursor: unknown): LetterPlace {
  const [, micros, id] = (typeof cursor === 'string' && /^(\d{1,18})\.(\d{1,18})$/.exec(cursor)) || [];
  if (micros === undefined || id === undefined) {
    throw new InvalidOptionsError('after', cursor, 'Give the `next` of the page before.');
  }
  return { micros, id };
}
