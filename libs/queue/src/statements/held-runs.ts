import { fence } from './run-fence.js';

/** Somebody has called `queue.cancel` for the job. */
export const ASKED = 'job.cancel_requested_at IS NOT NULL';

/** How a run was ended instead, where its job was asked to be cancelled. */
export interface Cancelled {
  /** What was given as the reason. */
  readonly reason: string | null;
}

export interface Cancelling {
  /** How long a cancelled job is kept, 7 days by default. */
  readonly keepCancelledMs?: number;
}

export interface Unsure {
  /** Its handler may have left a transaction open that completes it: passed by while its row is locked. */
  readonly unsure?: boolean;
}

/**
 * Locks the jobs of `done`, as `held`. Whoever has one locked, a cancel or a rescuer, is done in a moment, and is waited for. Of
 * an `unsure` run it may be the handler's own transaction, whose end nobody knows.
 */
export const locking = (schema: string, columns: string): string => `waited AS MATERIALIZED (
    SELECT ${columns} FROM ${schema}.job, done WHERE ${fence} AND NOT done.unsure FOR UPDATE OF job
  ), free AS MATERIALIZED (
    SELECT ${columns} FROM ${schema}.job, done WHERE ${fence} AND done.unsure FOR UPDATE OF job SKIP LOCKED
  ), held AS MATERIALIZED (
    SELECT * FROM waited UNION ALL SELECT * FROM free
  )`;

export const unsureColumn = (entries: readonly Unsure[]): boolean[] => entries.map(({ unsure }) => unsure === true);
