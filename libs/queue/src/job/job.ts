import type { EntityManager } from 'typeorm';
import type { Backoff } from './backoff.js';

/** A job's id: a decimal string, since Postgres `bigint` exceeds a JavaScript number. */
export type JobId = string;

/** Any JSON value: what a payload and `metadata` may be. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [field: string]: Json | undefined };

/**
 * State of a job as it is stored. `waiting` covers scheduled, ready and retrying jobs, which differ in their due time
 * only; `running` is a waiting job that a lease names. `held`, `cancelled`, `reprocessing`, `resolved` and `discarded`
 * belong to two-phase commit, cancellation and dead letters.
 */
export type JobState =
  'held' | 'waiting' | 'running' | 'completed' | 'cancelled' | 'dead' | 'reprocessing' | 'resolved' | 'discarded';

/** A job as its handler sees it. */
export interface Job<Payload = unknown> {
  /** As `spawn` has answered it. */
  readonly id: JobId;
  /** The stream of jobs that it belongs to. */
  readonly channel: string;
  /** Divides the channel, for fairness and for order; `''` when none was given. */
  readonly key: string;
  /**
   * Of an ordered job: its number in the lane, that is among the jobs of this channel and key; 1, 2, 3, … without gaps,
   * the same in every run. `null` when it is not ordered.
   */
  readonly seq: number | null;
  /** Name under which it was spawned; a former name for jobs older than a rename. */
  readonly name: string;
  /** What was spawned, or what the handler's `schema` has made of it; `undefined` when nothing was given. */
  readonly payload: Payload;
  /** Binary payload, `null` when none was given. */
  readonly bytes: Buffer | null;
  /** What the spawner attached for its own purposes, such as a trace id. `{}` when nothing. */
  readonly metadata: { readonly [field: string]: Json | undefined };
  /** Number of this run, from 1. */
  readonly attempt: number;
  /** Runs at most, `Infinity` when it is retried for ever. */
  readonly maxAttempts: number;
  /** Smaller ones run first within the channel. */
  readonly priority: number;
  /** When it was spawned, by the database's clock. */
  readonly createdAt: Date;
  /** When it was due, by the database's clock. */
  readonly dueAt: Date;
  /**
   * Aborts when the timeout is over, the lease is lost or the process shuts down; `signal.reason` is the
   * {@link JobTimeoutError}, {@link LeaseLostError} or {@link QueueClosedError}. Pass it on to what the handler waits for.
   */
  readonly signal: AbortSignal;
  /**
   * Completes the job in the handler's own transaction: the completion commits with the handler's writes, or neither.
   * Locks this job's row only, until that transaction ends.
   *
   * @param options `manager` of the open transaction · `result` JSON, kept as long as the handler's `retention`
   * @throws {LeaseLostError} when another runner may have the job; let it roll the transaction back
   * @throws {InvalidTransitionError} on the second call of a run
   * @throws {InvalidManagerError} when `manager` has no open transaction or is of another DataSource
   * @example
   * await this.dataSource.transaction(async (manager) => {
   *   await manager.insert(Invoice, invoice);
   *   await job.complete({ manager });
   * });
   */
  complete(options: CompleteOptions): Promise<void>;
}

/** Options of `job.complete`. */
export interface CompleteOptions {
  /** EntityManager of the handler's open transaction. */
  manager: EntityManager;
  /** JSON result, readable as long as `retention` keeps the finished job. */
  result?: unknown;
}

/** A job that this process has leased, as the claim hands it on. */
export interface ClaimedJob {
  readonly id: JobId;
  /** The job's stamp: raised whenever a lease on it ends without completing it. Part of the fence. */
  readonly run: number;
  /** Number of the lease within this runner. Part of the fence. */
  readonly lease: number;
  readonly runner: string;
  readonly channel: string;
  readonly key: string;
  readonly name: string;
  readonly priority: number;
  /** Number of the run that this lease is for, from 1. */
  readonly attempt: number;
  /** `null`: no limit. */
  readonly maxAttempts: number | null;
  readonly policyId: string | null;
  /** What the spawn call changed, `null` when the policy's stands. */
  readonly backoff: Backoff | null;
  /** The JSON text, parsed when the handler's turn comes. */
  readonly payload: string | null;
  readonly bytes: Buffer | null;
  readonly metadata: string | null;
  /** Microseconds since 1970 of the database's clock. */
  readonly createdAtMicros: number;
  readonly dueAtMicros: number;
  /** Its last lease was lost: it runs as the only suspect of this process. */
  readonly suspect: boolean;
  /** Number in its lane, `null` unless it is ordered. */
  readonly seq: number | null;
}

/** Place in the order of a feed: due time in microseconds, then id. */
export interface Position {
  readonly micros: number;
  readonly id: JobId;
}

/** Negative when `a` stands before `b`. Ids of one length compare as text, longer ids are larger. */
export function comparePositions(a: Position, b: Position): number {
  if (a.micros !== b.micros) return a.micros - b.micros;
  if (a.id.length !== b.id.length) return a.id.length - b.id.length;
  return a.id < b.id ? -1 : a.id > b.id ? 1 : 0;
}
