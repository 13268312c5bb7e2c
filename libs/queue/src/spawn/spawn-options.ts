import type { EntityManager } from 'typeorm';
import type { BackoffOptions } from '../job/backoff.js';
import type { JobBatch } from '../job/batch.js';
import type { Duration } from '../job/duration.js';
import type { Job, JobId, Json } from '../job/job.js';

/** What may be said of one job when it is sent. */
export interface JobSpawnOptions {
  /** Divides the channel, for fairness and for order: at most 1 KiB. Default `''`. */
  key?: string;
  /**
   * Of a handler with `partitions`: jobs with equal ones run in order, since they are sent to the same partition. At most
   * 1 KiB.
   */
  partitionKey?: string;
  /** Of a handler with `partitions`, instead of a `partitionKey`: the number of the partition, from 0. */
  partition?: number;
  /** Not before this time from now, by the database's clock. Default 0. */
  delay?: Duration;
  /** Not before this instant. With `delay` the later one counts. A past one means now. */
  runAt?: Date;
  /** Runs after the first, instead of the handler's. */
  retries?: number;
  /** Instead of the handler's. A function cannot be stored: give it with `@JobHandler`. */
  backoff?: Duration | BackoffOptions;
  /** Smaller runs first within the channel, −32 768 to 32 767. Default the handler's. */
  priority?: number;
  /** In the order of its lane, the channel and key, or not; instead of the handler's. */
  ordered?: boolean;
  /** Another channel than the handler's. Channels are made by use. */
  channel?: string;
  /** Binary payload, beside or instead of the JSON one. Counts towards `maxPayloadBytes`. */
  bytes?: Uint8Array;
  /**
   * Two-phase commit: the job runs only when it is committed, and is gone when this time is over before. From 0 to a
   * year. The answer is a {@link Reservation}.
   */
  hold?: Duration;
  /** JSON object for the spawner's own purposes, such as a trace id. Counts towards `maxPayloadBytes`. */
  metadata?: { readonly [field: string]: Json | undefined };
  /**
   * Makes one job of several spawns with the same key in the same channel: the later ones answer the id of the first,
   * with `isNew: false`. 1 to 255 bytes.
   */
  idempotencyKey?: string;
  /** How long the key is taken. Default `'active'`. */
  scope?: IdempotencyScope;
  /** With `scope: 'ttl'`: how long the key is taken, from the spawn. At most ten years. */
  idempotencyTtl?: Duration;
  /** An earlier job of the key with another name, payload or bytes is an {@link IdempotencyConflictError}. Default `false`. */
  strict?: boolean;
}

/**
 * How long an idempotency key is taken: as long as its job is live (`active`: waiting, running or held; a dead job frees
 * it), at least for `idempotencyTtl` (`ttl`), or for ever.
 */
export type IdempotencyScope = 'active' | 'ttl' | 'forever';

/** What may be said of a call. */
export interface TransactionOption {
  /**
   * EntityManager of an open transaction: the job exists when it commits, and never when it rolls back. Without it the
   * job is committed when the call resolves.
   */
  manager?: EntityManager;
}

/** Options of `spawn`: of the job and of the call. */
export type SpawnOptions = JobSpawnOptions & TransactionOption;

/** One job of a `spawnMany` call. */
export interface SpawnItem<Payload = unknown> extends JobSpawnOptions {
  /** JSON value, as for `spawn`. */
  payload: Payload;
}

/** Says that an answer is a {@link Reservation}. */
export interface HoldOption {
  hold: Duration;
}

/** What `spawn` answers. */
export interface SpawnResult {
  /** Id of the job: a decimal string. */
  readonly id: JobId;
  /** `false` when an idempotency key found an earlier job. */
  readonly isNew: boolean;
}

/** The methods of a class that can handle jobs. */
export type HandlerMethod<T> = {
  [Method in keyof T]: T[Method] extends ((job: Job<never>) => unknown) | ((batch: JobBatch<never>) => unknown)
    ? Method
    : never;
}[keyof T] &
  string;

/** The payload that a handler method asks for. */
export type PayloadOf<T, Method extends keyof T> = T[Method] extends (job: Job<infer Payload>) => unknown
  ? Payload
  : T[Method] extends (batch: JobBatch<infer Payload>) => unknown
    ? Payload
    : never;
