import type { StandardSchemaV1 } from '@standard-schema/spec';
import type { JobBatch } from './batch.js';
import type { Backoff, BackoffFunction, BackoffOptions } from './backoff.js';
import type { Duration } from './duration.js';
import type { Job } from './job.js';

/** Options of `@JobHandler`. Precedence: library < module (`defaults`) < `preset` < decorator < spawn call. */
export interface HandlerOptions {
  /**
   * Stable identity of the handler, at most 255 bytes, unique in the application. Default `Class.method`; give one
   * where classes are renamed or minified.
   */
  name?: string;
  /** Earlier names: jobs spawned under them still run here. */
  formerNames?: readonly string[];
  /** Runs after the first, 0 to 1 000 000, or `Infinity`. Default 4. */
  retries?: number;
  /**
   * Wait before the next run. Default exponential from 1 s, doubled each time, at most 15 minutes, up to 10 % jitter.
   * A function belongs to the process: another application's runner uses the default in its place.
   */
  backoff?: Duration | BackoffOptions | BackoffFunction;
  /** A run that takes longer is aborted and counts as an error. Default none. */
  timeout?: Duration;
  /**
   * Any Standard Schema (zod, valibot, arktype), or a class-validator DTO class: checked at spawn, and again before each
   * run, where its output is the payload.
   */
  schema?: StandardSchemaV1 | (new () => object);
  /**
   * Version of the payload that this handler takes: raise it with each change that old payloads do not fit. A job keeps
   * the version of the release that spawned it. 1 to 1 000 000, default 1.
   */
  version?: number;
  /**
   * Makes a payload of this version from one of an older release; called before each run of such a job, and before the
   * `schema`. Default: old payloads are left as they are.
   */
  upgrade?: PayloadUpgrade;
  /** How long a completed job and its result are kept. Default 0: deleted on success. */
  retention?: Duration;
  /** How long a dead job is kept. Default for ever. */
  deadRetention?: Duration;
  /**
   * `true`: jobs of one channel and key run one after another, in the order in which they were sent, by whatever process.
   * Default false.
   */
  ordered?: boolean;
  /**
   * Divides the channel into so many ordered lanes, 1 to 1 024; implies `ordered`. A spawn gives a `partitionKey`, which is
   * hashed to one of them, or names a `partition`. The number is recorded with the channel: another one fails the boot.
   * Default none: each key is a lane.
   */
  partitions?: number;
  /**
   * What a dead job means for its lane: `skip`, the next one runs; `block`, the lane waits for a person, who
   * requeues, resolves or discards it (`DeadLetters`). Default `skip`.
   */
  onDead?: OnDead;
  /** Most runs of this handler at once in one process. Default the runner's `concurrency.max`. */
  concurrency?: number;
  /**
   * The method gets a {@link JobBatch} of up to so many jobs, 1 to 500, in place of a job; one of them, too, is a batch.
   * Each job has an outcome of its own. Default none: the method gets a `Job`.
   */
  batch?: number;
  /** Smaller runs first within a channel, −32 768 to 32 767. Default 0. */
  priority?: number;
  /** `'manual'`: a run that returns without `job.complete()` has failed. Default `'auto'`: returning completes the job. */
  completion?: 'auto' | 'manual';
  /**
   * `true`: each run is one transaction, in which the handler writes by `job.manager`, and which completes the job. An error
   * rolls all of it back. Default false.
   */
  transactional?: boolean;
  /**
   * Of a transactional `batch`: `job`, a job that fails in `batch.each` is rolled back alone, by a savepoint of its own;
   * `batch`, it is the end of the whole batch, and a rejection rejects all of it. Default `'job'`.
   */
  onReject?: 'job' | 'batch';
  /** Level of that transaction. Default `'READ COMMITTED'`. */
  isolation?: IsolationLevel;
  /**
   * `false`: the lease of a run ends `leaseMs` after its start, though its process lives, unless the handler moves the end
   * by `job.keepAlive` or a checkpoint. Then the job runs again. Default `true`.
   */
  keepAlive?: boolean;
  /** Called once a failed run is written, and not awaited by anything but a shutdown. Default none. */
  onError?: ErrorHook;
  /** Whether another run may help after this error; `false`: the job is dead (`rejected`). Default every error. */
  isRetryable?: (error: unknown) => boolean;
  /** Options shared by several handlers; what stands beside it wins. A function gets the handler's `Class.method`. */
  preset?: HandlerPreset;
  /** Name of the `QueueModule` instance that serves the handler. Default the unnamed one. */
  instance?: string;
}

/**
 * Makes a payload of the handler's version from an older one.
 *
 * @param payload     as it was spawned, or as a checkpoint left it
 * @param fromVersion the `version` of the handler that it was made for
 */
export type PayloadUpgrade = (payload: unknown, fromVersion: number) => unknown;

/** What became of a failed run. */
export interface ErrorContext {
  /** `false`: the job is dead. */
  readonly willRetry: boolean;
  /** The wait until the next run, `null` when there is none. */
  readonly delayMs: number | null;
}

/**
 * Hears of failed runs, in the process that had them: what the handler threw, its job, and what became of it. Called when
 * that is written; what it throws is logged, and changes nothing.
 */
export type ErrorHook = (error: unknown, job: Job, context: ErrorContext) => void | Promise<void>;

/** Level of a transaction, as PostgreSQL has them. */
export type IsolationLevel = 'READ COMMITTED' | 'REPEATABLE READ' | 'SERIALIZABLE';

/** What a dead job means for the jobs behind it in its lane. */
export type OnDead = 'skip' | 'block';

/** A class whose methods are handlers; an abstract one too. */
export type HandlerClass<T = unknown> = abstract new (...dependencies: never[]) => T;

/** Options shared by several handlers, or a function that makes them from a handler's `Class.method`. */
export type HandlerPreset = SharedOptions | ((handler: string) => SharedOptions);

/** What belongs to one method stands with it. */
type SharedOptions = Omit<HandlerOptions, 'preset' | 'name' | 'formerNames' | 'instance' | 'batch'>;

/**
 * What a handler promises to its jobs. Stored once per version, and jobs refer to it, so that a runner of an older
 * release obeys what the spawner's release said.
 */
export interface HandlerPolicy {
  /** `null`: for ever. */
  readonly retries: number | null;
  /** `null`: a function, which only the process that has it can call. */
  readonly backoff: Backoff | null;
  readonly timeoutMs: number | null;
  readonly retentionMs: number;
  /** `null`: for ever. */
  readonly deadRetentionMs: number | null;
  /** `false`: a run's lease ends by itself. */
  readonly keepAlive: boolean;
  /** Its jobs run in the order of their lanes. */
  readonly ordered: boolean;
  /** What a dead job means for its lane. */
  readonly onDead: OnDead;
  /** Of the payloads of its jobs. */
  readonly payloadVersion: number;
}

/** A policy as it stands in the database. */
export interface StoredPolicy {
  readonly id: string;
  readonly name: string;
  readonly policy: HandlerPolicy;
}

/** A handler found in the application, its options resolved. */
export interface RegisteredHandler {
  readonly name: string;
  readonly formerNames: readonly string[];
  readonly channel: string;
  readonly priority: number;
  /** `null`: only the runner's own limit. */
  readonly concurrency: number | null;
  /** How many jobs a run takes at most, `null`: one, and not as a batch. */
  readonly batch: number | null;
  /** Into how many lanes its channel is divided, `null`: each key is one. */
  readonly partitions: number | null;
  readonly policy: HandlerPolicy;
  /** Identity of the policy: a hash of its content. */
  readonly policyId: string;
  readonly backoffFunction: BackoffFunction | null;
  readonly schema: StandardSchemaV1 | null;
  readonly upgrade: PayloadUpgrade | null;
  readonly completion: 'auto' | 'manual';
  /** Level of the transaction that each run is, `null`: none of ours. */
  readonly isolation: IsolationLevel | null;
  /** What a rejected job means for the others of a transactional batch. */
  readonly onReject: 'job' | 'batch';
  readonly onError: ErrorHook | null;
  readonly isRetryable: ((error: unknown) => boolean) | null;
  /** `Class.method`, for messages. */
  readonly label: string;
  invoke(work: Job | JobBatch): unknown;
}

/** Where the executor finds handlers. */
export interface HandlerLookup {
  find(jobName: string): RegisteredHandler | undefined;
}
