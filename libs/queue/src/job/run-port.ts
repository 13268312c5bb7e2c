import type { EntityManager } from 'typeorm';
import type { IsolationLevel, StoredPolicy } from './handler.js';
import type { ClaimedJob } from './job.js';

/** What a checkpoint stores. `undefined` leaves a payload as it is, `null` leaves none. */
export interface Checkpoint {
  /** JSON text. */
  readonly payload?: string | null | undefined;
  readonly bytes?: Buffer | null | undefined;
  /** Of another version than the stored one was: what the job is to refer to from now on. */
  readonly policy?: StoredPolicy | undefined;
  readonly extraRetries: number;
  /** The lease ends no earlier than so long from now; `null`: its end is left as it is. */
  readonly keepAliveMs: number | null;
}

/** What the database says of a run that goes on. */
export interface RunFacts {
  /** `null`: no limit. */
  readonly maxAttempts: number | null;
  /** How long the lease still lasts, `null`: as long as its process lives. */
  readonly leaseLeftMs: number | null;
}

export interface Progress {
  readonly percent: number | null;
  readonly message: string | null;
}

/** How a run is completed. */
export interface Completion {
  readonly job: ClaimedJob;
  /** JSON text. */
  readonly result: string | null;
  /** 0: the job is deleted. */
  readonly retentionMs: number;
}

/** A transaction that belongs to a run: its handler writes in it, and it completes the job. */
export interface RunTransaction {
  readonly manager: EntityManager;
  /**
   * Writes the completions and commits, in one round trip. When it throws nothing is committed, except that after a
   * {@link DatabaseUnavailableError} only the database knows.
   *
   * @throws {LeaseLostError} when one of the jobs is no longer this runner's
   * @throws {TransactionAbortedError} when a statement has failed in it
   */
  commit(completions: readonly Completion[]): Promise<void>;
  /** Undoes everything and gives the connection back. Never throws. @param atOnce does not wait for what is under way */
  rollback(atOnce: boolean): Promise<void>;
}

/**
 * What a run may write about its job while it goes on. Every write carries the run's fence. Without a `manager` it is
 * committed when the call resolves.
 *
 * @throws {LeaseLostError} when the job is no longer this run's
 * @throws {InvalidManagerError} when the manager has no open transaction, or is of another DataSource
 */
export interface RunPort {
  /** @param completion `result` JSON text · `retentionMs` 0: delete */
  complete(
    job: ClaimedJob,
    completion: { readonly result: string | null; readonly retentionMs: number },
    manager?: EntityManager,
  ): Promise<void>;
  /** Opens a transaction for a run, when there is a connection for it. */
  begin(isolation: IsolationLevel): Promise<RunTransaction>;
  checkpoint(job: ClaimedJob, checkpoint: Checkpoint, manager?: EntityManager): Promise<RunFacts>;
  /** Sent at once, behind what was sent before, and before whatever is sent later. */
  progress(job: ClaimedJob, progress: Progress): Promise<void>;
  /** What is committed of the run; `null`: it is no longer this run's. Never throws for a lost lease. */
  look(job: ClaimedJob): Promise<RunFacts | null>;
  /** Whether the manager's transaction is still open. */
  isOpen(manager: EntityManager): boolean;
}
