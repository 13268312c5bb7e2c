import { createHash } from 'node:crypto';
import type { IsolationLevel } from '../job/handler.js';
import { defineStatement } from './statement.js';

/**
 * Every transaction of ours says its level: under an administrator's default of REPEATABLE READ a claim that waited for
 * the lock would keep its old snapshot and lease the same jobs again.
 */
export const beginPlain = 'BEGIN ISOLATION LEVEL READ COMMITTED';

/** Opens the transaction of a run, in which its handler works: only its level is ours to say. */
export const beginRun = (isolation: IsolationLevel): string => `START TRANSACTION ISOLATION LEVEL ${isolation}`;

/**
 * Ends what hangs on a half-open connection, and keeps an administrator's shorter limit from ending the same statement
 * again and again.
 */
const LIMITS = 'SET LOCAL statement_timeout = 20000; SET LOCAL lock_timeout = 0';

/**
 * The hot statements have one right plan each, the walk of an index; on a table that was never analyzed, or was analyzed
 * empty, the planner must not think of another one. `bench/plans.ts` and a test show the plans.
 */
const PINNED = ['enable_seqscan', 'enable_bitmapscan', 'enable_hashjoin', 'enable_mergejoin', 'jit'];
const PIN_PLAN = PINNED.map((setting) => `SET LOCAL ${setting} = off`).join('; ');

export const begin = `${beginPlain}; ${LIMITS}; ${PIN_PLAN}`;

/**
 * For claims and settlements: their one plan is made once a connection. PostgreSQL would go on planning most of them for
 * each call.
 */
export const beginPlanned = `${begin}; SET LOCAL plan_cache_mode = force_generic_plan`;

/**
 * For a single job's write that others must not wait behind: a row that is locked so long is locked by a transaction of
 * the very handler that writes, which would wait for itself.
 */
export const beginBriefly = `${begin}; SET LOCAL lock_timeout = 250`;

/**
 * The same for the last statements of a transaction that is not ours: their plan must not be one that was made while a
 * table was small.
 */
export const keepToIndexes = defineStatement<object, never>({
  name: 'keep_to_indexes_v1',
  text: () => 'SET LOCAL enable_seqscan = off',
  values: () => [],
  row: () => {
    throw new Error('keep_to_indexes answers no rows');
  },
});

/**
 * Pins the plan of what stands between this and `unpinPlan`: statements of ours amid those of an application, whose own
 * plans stay what they are.
 */
export const pinPlan = defineStatement<object, true>({
  name: 'pin_plan_v1',
  text: () => `
  WITH noted AS MATERIALIZED (
    SELECT name, set_config('nestmq.' || name, current_setting(name), true) FROM unnest(${settings(PINNED)}) AS name
  )
  SELECT set_config(name, 'off', true) FROM noted`,
  values: () => [],
  row: () => true,
});

export const unpinPlan = defineStatement<object, true>({
  name: 'unpin_plan_v1',
  text: () =>
    `SELECT set_config(name, current_setting('nestmq.' || name), true) FROM unnest(${settings(PINNED)}) AS name`,
  values: () => [],
  row: () => true,
});

/** For what may be forgotten by a crash of the server. */
export const beginForgettably = `${begin}; SET LOCAL synchronous_commit = off`;

/**
 * For statements that join lists of thousands with each other: row by row that takes their product. What they read of
 * tables they find by an index.
 */
export const beginHashing = `${begin}; SET LOCAL enable_hashjoin = on`;

/** For reading several statements of one moment, on a connection of the application's; nothing is written. */
export const beginReading = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ${LIMITS}; ${PIN_PLAN}`;

/** The same for statements whose plan takes as long to make as to run, and is the same for all parameters. */
export const beginCounting = `${beginReading}; SET LOCAL plan_cache_mode = force_generic_plan`;

/** For pages in the order of an index: no statistics make the planner sort all that there is instead. */
export const beginOrdered = `${begin}; SET LOCAL enable_sort = off; SET LOCAL enable_incremental_sort = off`;

/** No channel has an empty name. */
const SUSPECTS = '';

/** Opens a transaction that owns the claims of a channel: the next statement's snapshot is younger than the lock. */
export const beginOwning = (schema: string, channel: string): string =>
  `${beginPlanned}; ${lockChannel(schema, channel)}`;

/** The same for the jobs whose lease was lost: they are few, and one runner at a time looks among all of them. */
export const beginOwningSuspects = (schema: string): string => beginOwning(schema, SUSPECTS);

/**
 * Opens a transaction during which nothing of some channels is claimed, suspects neither. Their lock comes first, so two
 * such transactions take turns and never wait for each other crosswise.
 */
export const beginOwningAll = (schema: string, ...channels: string[]): string =>
  [begin, ...[SUSPECTS, ...channels].map((channel) => lockChannel(schema, channel))].join('; ');

/**
 * Owns the claims of a channel for the rest of a transaction that has begun: claims under way have committed, and what
 * the next statement sees every later claim sees too.
 */
export const ownChannel = defineStatement<{ schema: string; channel: string }, true>({
  name: 'own_channel_v1',
  text: () => 'SELECT pg_advisory_xact_lock($1::bigint)',
  values: ({ schema, channel }) => [lockKey(schema, channel)],
  row: () => true,
});

export const commit = 'COMMIT';

export const rollback = 'ROLLBACK';

function lockChannel(schema: string, channel: string): string {
  return `SELECT pg_advisory_xact_lock(${lockKey(schema, channel)})`;
}

/** A 64-bit key, the same in every process. A collision makes two channels take turns, no more. */
function lockKey(schema: string, channel: string): string {
  return createHash('sha256').update(`nestmq\0${schema}\0${channel}`).digest().readBigInt64BE(0).toString();
}

/** As an array of SQL. */
function settings(names: readonly string[]): string {
  return `ARRAY[${names.map((name) => `'${name}'`).join(', ')}]`;
}
