import type { EntityManager } from 'typeorm';
import { InvalidManagerError, InvalidTransitionError } from '../job/errors.js';
import type { RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import { NotTransactionalError } from '../job/run-errors.js';
import type { Completion, RunPort, RunTransaction } from '../job/run-port.js';

/** The run whose transaction it is. */
interface OwningRun {
  readonly claimed: ClaimedJob;
  readonly handler: RegisteredHandler;
  readonly host: { readonly port: RunPort };
}

/** The transaction that a run of a transactional handler is; of another handler there is none. */
export class OwnTransaction {
  private transaction: RunTransaction | null = null;
  private told: { readonly result: string | null } | null = null;

  constructor(private readonly run: OwningRun) {}

  /** @throws {NotTransactionalError} */
  get manager(): EntityManager {
    if (this.transaction === null) throw new NotTransactionalError(this.run.claimed.id, this.run.claimed.name);
    return this.transaction.manager;
  }

  get exists(): boolean {
    return this.transaction !== null;
  }

  /** What the handler has given to `complete`, `null`: it has not called it. Written with the commit. */
  get completion(): { readonly result: string | null } | null {
    return this.told;
  }

  /** Before the handler is called. */
  async begin(): Promise<void> {
    const { host, handler } = this.run;
    this.transaction = await host.port.begin(handler.isolation ?? 'READ COMMITTED');
  }

  /** The handler has called `complete`. */
  complete(result: string | null, manager: EntityManager | undefined): void {
    if (manager !== undefined && !this.is(manager)) {
      throw new InvalidManagerError(
        'the handler is transactional, and completes its job in job.manager. Leave it out.',
      );
    }
    this.told = { result };
  }

  /** The run is a part of that transaction, with others of its batch. */
  join(other: OwnTransaction): void {
    this.transaction = other.transaction;
  }

  async commit(completions: readonly Completion[]): Promise<void> {
    this.told = null;
    await this.transaction?.commit(completions);
  }

  /** @param atOnce the handler goes on, and nobody waits for what it does */
  async rollback(atOnce: boolean): Promise<void> {
    await this.transaction?.rollback(atOnce);
  }

  is(manager: EntityManager): boolean {
    return this.transaction !== null && manager.queryRunner === this.transaction.manager.queryRunner;
  }

  /**
   * Under a snapshot the transaction could never complete a job whose row was written beside it: every run would end with
   * a serialization failure.
   */
  checkWritable(to: string): void {
    const {
      claimed,
      handler: { isolation },
    } = this.run;
    if (this.transaction === null || isolation === null || isolation === 'READ COMMITTED') return;
    throw new InvalidTransitionError(claimed.id, `running in a transaction of level ${isolation}, beside which its row must not be written,`, to); // prettier-ignore
  }
}
