import type { EntityManager } from 'typeorm';
import { InvalidManagerError, InvalidTransitionError } from '../job/errors.js';
import type { RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import { NotTransactionalError } from '../job/run-errors.js';
import type { Completion, RunPort, RunTransaction } from '../job/run-port.js';

/** The transaction that a run of a transactional handler is; of another handler there is none. */
export class OwnTransaction {
  private transaction: RunTransaction | null = null;
  private told: { readonly result: string | null } | null = null;

  constructor(
    private readonly job: ClaimedJob,
    private readonly parts: { readonly port: RunPort; readonly handler: RegisteredHandler },
  ) {}

  /** @throws {NotTransactionalError} */
  get manager(): EntityManager {
    if (this.transaction === null) throw new NotTransactionalError(this.job.id, this.job.name);
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
    this.transaction = await this.parts.port.begin(this.parts.handler.isolation ?? 'READ COMMITTED');
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
    const { isolation } = this.parts.handler;
    if (this.transaction === null || isolation === null || isolation === 'READ COMMITTED') return;
    throw new InvalidTransitionError(this.job.id, `running in a transaction of level ${isolation}, beside which its row must not be written,`, to); // prettier-ignore
  }
}
