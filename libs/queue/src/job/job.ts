import type { EntityManager } from 'typeorm';
import type { Backoff } from './backoff.js';
import type { Duration } from './duration.js';

/** A job's id: a decimal string, since Postgres `bigint` exceeds a JavaScript number. */
export type JobId = string;

/** Any JSON value: what a payload and `metadata` may be. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [field: string]: Json | undefined };

/**
 * State of a job as it is stored. `waiting` covers scheduled, ready and retrying jobs, which differ in their due time
 * only; `running` is a waiting job that a lease names; `held` is one that was spawned with `hold` and not yet
 * committed. `cancelled` will not run; `reprocessing`, `resolved` and `discarded` are dead letters that somebody looks after.
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
   * Aborts when the job is cancelled, the timeout is over, the lease is lost or the process shuts down; `signal.reason` is
   * the {@link JobCancelledError}, {@link JobTimeoutError}, {@link LeaseLostError} or {@link QueueClosedError}. Pass it on to what the handler waits for.
   */
  readonly signal: AbortSignal;
  /**
   * Of a handler with `transactional: true`: the EntityManager of the transaction that this run is. What is written by it,
   * and what is spawned with it, commits with the job's completion, or not at all.
   *
   * @throws {NotTransactionalError} in any other handler
   * @example await this.jobs.spawn(Mailer, 'receipt', { orderId }, { manager: job.manager });
   */
  readonly manager: EntityManager;
  /**
   * Stores how far the job has come: what is given replaces the stored payload, so that the next run begins with it.
   * This run's own `payload` and `bytes` stay what they were. Grants no further run unless `extraRetries` says so, on
   * the last attempt neither.
   *
   * @param changes `payload` JSON value of the handler's schema · `bytes` binary payload, `null`: none ·
   *   `extraRetries` further runs beyond the limit, default 0 · `keepAlive` the lease lasts at least so long from now
   * @param options `manager` of an open transaction: stored when it commits. Without it: stored when the call resolves
   * @throws {PayloadInvalidError | PayloadTooLargeError | InvalidOptionsError} before any SQL
   * @throws {LeaseLostError} when another runner may have the job; let it roll the transaction back
   * @throws {InvalidTransitionError} when the job was completed or the run has ended
   * @throws {InvalidManagerError} when `manager` has no open transaction or is of another DataSource
   * @throws {TransactionConflictError} when an open transaction, say of this handler, has checkpointed or completed the job
   * @example await job.checkpoint({ payload: { ...job.payload, page: page + 1 } });
   */
  checkpoint(changes: CheckpointChanges<Payload>, options?: { manager?: EntityManager }): Promise<void>;
  /**
   * Tells how far the run is; `queue.get(id).progress` reads it, also once the job has finished and is kept. Of the calls
   * made while one is being written only what they add up to is written next, so it may be called as often as one likes.
   *
   * @param progress `percent` 0 to 100 · `message` at most 1 KiB, `null`: none. What is left out stays as this run has told it
   * @throws {InvalidOptionsError} before any SQL
   * @throws {LeaseLostError} when another runner may have the job
   * @throws {InvalidTransitionError} when the job was completed or the run has ended
   * @example await job.progress({ percent: (100 * done) / total, message: `${done} of ${total}` });
   */
  progress(progress: ProgressReport): Promise<void>;
  /**
   * Gives the lease an end of its own, `duration` from now; a later end stays. When it passes, `signal` aborts with
   * {@link LeaseLostError}, another run begins, and what this one still writes is refused. Without it a lease lasts as
   * long as its process lives, or, with `keepAlive: false`, `leaseMs` from the start.
   *
   * @param duration milliseconds or a duration such as `'2m'`; 1 ms to 365 days
   * @throws {InvalidOptionsError} before any SQL
   * @throws {LeaseLostError} when the lease is lost already
   * @throws {InvalidTransitionError} when the job was completed or the run has ended
   * @throws {TransactionConflictError} when an open transaction, say of this handler, has checkpointed or completed the job
   * @example await job.keepAlive('2m');
   */
  keepAlive(duration: Duration): Promise<void>;
  /**
   * Completes the job. With `manager` in the handler's own transaction: the completion commits with the handler's writes,
   * or neither, and only this job's row is locked until then. Without it the job is completed when the call resolves.
   * What the handler returns or throws afterwards changes nothing.
   *
   * In a transactional handler the job is completed by the commit of `job.manager`, with or without this call, which then
   * only gives the result; with `completion: 'manual'` the call is needed. A throw afterwards rolls everything back.
   *
   * @param options `manager` of the open transaction · `result` JSON, kept as long as the handler's `retention`
   * @throws {LeaseLostError} when another runner may have the job; let it roll the transaction back
   * @throws {InvalidTransitionError} on the second call of a run, unless the first one's transaction rolled back
   * @throws {InvalidManagerError} when `manager` has no open transaction or is of another DataSource
   * @throws {TransactionConflictError} when an open transaction, say of this handler, has checkpointed the job
   * @example
   * await this.dataSource.transaction(async (manager) => {
   *   await manager.insert(Invoice, invoice);
   *   await job.complete({ manager });
   * });
   */
  complete(options?: CompleteOptions): Promise<void>;
}

/** Options of `job.complete`. */
export interface CompleteOptions {
  /** EntityManager of the handler's open transaction. Without it the job is completed when the call resolves. */
  manager?: EntityManager;
  /** JSON result, readable as long as `retention` keeps the finished job. */
  result?: unknown;
}

/** What `job.checkpoint` changes: at least one of these. */
export interface CheckpointChanges<Payload = unknown> {
  /** Replaces the payload of later runs; checked as at spawn. With `bytes` and `metadata` at most `maxPayloadBytes`. */
  payload?: Payload;
  /** Replaces the binary payload of later runs, `null`: none. */
  bytes?: Uint8Array | null;
  /** Further runs that the job may have, 0 to 1 000 000. Default 0. */
  extraRetries?: number;
  /** The lease lasts at least so long from now, and ends then unless it is kept alive again. 1 ms to 365 days. */
  keepAlive?: Duration;
}

/** What `job.progress` tells: at least one of these. */
export interface ProgressReport {
  /** 0 to 100. */
  percent?: number;
  /** At most 1 KiB of UTF-8; `null`: none. */
  message?: string | null;
}

/** What is read of a job's progress: what its last run to tell of any has told. */
export interface JobProgress {
  /** 0 to 100, `null` when only a message was told. */
  readonly percent: number | null;
  /** `null` when only a share was told. */
  readonly message: string | null;
  /** When it was told, by the database's clock. */
  readonly updatedAt: Date;
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
  /** Nothing stood behind it in its lane when it was claimed. */
  readonly closesLane: boolean;
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
