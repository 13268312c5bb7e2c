import type { EntityManager } from 'typeorm';
import { durationMs, type Duration } from '../job/duration.js';
import { ReservationError, type ReservationReason } from '../job/errors.js';
import type { JobId } from '../job/job.js';
import { managerOf } from './check-options.js';
import type { Holds } from './holds.js';
import type { SpawnResult, TransactionOption } from './spawn-options.js';

/** A year. */
export const MAX_HOLD_MS = 365 * 86_400_000;

/**
 * A job that was spawned with `hold`: it does not run before it is committed, and is gone when its hold ends. What
 * `spawn` answers then. Its `id` is all that another process needs to commit it.
 *
 * @see docs/two-phase-commit.md · modelled on the two-phase commit of sqlxmq
 */
export class Reservation implements SpawnResult {
  /** Id of the job: a decimal string. */
  readonly id: JobId;
  /** `false` when an idempotency key found an earlier job. */
  readonly isNew: boolean;
  readonly #holds: Holds;
  /** The hold does not end before, by this process's steady clock. Only tells why a job is gone. */
  #endsAtMs: number;
  /** What this object itself has done, where it was not left to a caller's transaction. */
  #done: 'committed' | 'released' | null = null;

  /** @internal made by `JobSpawner` */
  constructor({ id, isNew }: SpawnResult, endsAtMs: number, holds: Holds) {
    this.id = id;
    this.isNew = isNew;
    this.#endsAtMs = endsAtMs;
    this.#holds = holds;
  }

  /**
   * Lets the job run: when its own time has come, at once if that has passed. The call decides: a hold that ends
   * between it and the commit of `manager`'s transaction has no effect.
   *
   * @param options `manager` to commit with a transaction; else the job is committed when the call resolves
   * @throws {ReservationError} when there is nothing to commit; `reason` tells why
   * @throws {TransactionConflictError} when another transaction has kept the job locked for 5 s
   * @throws {TransactionAbortedError | InvalidManagerError | DatabaseUnavailableError}
   * @example
   * const reservation = await this.jobs.spawn(Shipping, 'send', { orderId }, { hold: '5m' });
   * await this.payments.charge(orderId);
   * await reservation.commit();
   */
  async commit(options?: TransactionOption): Promise<void> {
    const manager = managerOf(options);
    const committed = await this.#holds.commit([this.id], manager);
    if (!committed.has(this.id)) throw await this.#refusal(manager);
    if (manager === undefined) this.#done = 'committed';
  }

  /**
   * Moves the end of the hold: so long from now, earlier or later than it was.
   *
   * @param duration from 0 to a year
   * @throws {InvalidOptionsError} when the duration is out of range
   * @throws {ReservationError} when the job is not held any more; `reason` tells why
   * @example await reservation.keepAlive('5m');
   */
  async keepAlive(duration: Duration, options?: TransactionOption): Promise<void> {
    const manager = managerOf(options);
    const holdMs = holdMsOf(duration, 'duration');
    const now = performance.now();
    if (!(await this.#holds.keep(this.id, holdMs, manager))) throw await this.#refusal(manager);
    this.#endsAtMs = now + holdMs;
  }

  /**
   * Gives the reservation up: the job is deleted and never runs. One that has expired or was released before is no
   * error.
   *
   * @returns whether there was something to delete
   * @throws {ReservationError} with reason `committed` when the job was committed
   * @example await reservation.release();
   */
  async release(options?: TransactionOption): Promise<boolean> {
    const manager = managerOf(options);
    const released = await this.#holds.release(this.id, manager);
    if (!released) {
      const refusal = await this.#refusal(manager);
      if (refusal.reason === 'committed') throw refusal;
    }
    if (manager === undefined) this.#done ??= 'released';
    return released;
  }

  /** Whether it was made here. @internal */
  isOf(holds: Holds): boolean {
    return this.#holds === holds;
  }

  async #refusal(manager: EntityManager | undefined): Promise<ReservationError> {
    const state = await this.#holds.find(this.id, manager);
    return new ReservationError(this.id, state ?? this.#whyGone());
  }

  /** Nothing is left of the job: its hold was over, or it was committed and has run, or released, or rolled back. */
  #whyGone(): ReservationReason {
    if (this.#done === 'committed') return 'committed';
    return this.#done === null && performance.now() >= this.#endsAtMs ? 'expired' : 'unknown';
  }
}

/** @throws {InvalidOptionsError} unless it is a duration from 0 to a year */
export const holdMsOf = (duration: unknown, option: string): number => durationMs(duration, option, 0, MAX_HOLD_MS);
