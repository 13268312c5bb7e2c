import type { DataSource, EntityManager } from 'typeorm';
import { TransactionConflictError } from '../job/errors.js';
import type { JobId } from '../job/job.js';
import { RetryDelay } from '../job/retry-delay.js';
import type { Connection } from '../postgres/connection.js';
import { transactionClient } from '../postgres/transaction-client.js';
import {
  commitHolds,
  commitHoldsInTransaction,
  findHold,
  keepHolds,
  releaseHolds,
  type HeldRow,
  type HoldState,
} from '../statements/reservations.js';
import { run, type SqlClient } from '../statements/statement.js';
import { notifyChannelOf } from '../statements/wake-up.js';

export interface HoldsSettings {
  readonly dataSource: DataSource;
  readonly schema: string;
  readonly namedStatements: boolean;
}

/** How long a held job may be locked by another transaction. */
const BUSY_LIMIT_MS = 5_000;
const BUSY_DELAY_MS = { minMs: 2, maxMs: 100 };

type Write = (client: SqlClient, ids: readonly JobId[]) => Promise<HeldRow[]>;

/** What is written about held jobs, in the caller's transaction or in one of its own. */
export class Holds {
  private readonly notifyChannel: string;

  constructor(
    private readonly settings: HoldsSettings,
    private readonly connection: Connection,
    private readonly wake: (messages: readonly string[]) => void,
    private readonly onJoined: (manager: EntityManager) => void,
  ) {
    this.notifyChannel = notifyChannelOf(settings.schema);
  }

  /** @returns the ids that are committed now */
  async commit(ids: readonly JobId[], manager: EntityManager | undefined): Promise<Set<JobId>> {
    const { notifyChannel } = this;
    if (manager === undefined)
      return this.write(ids, manager, (client, some) => run(client, commitHolds, { ids: some }));
    return this.write(ids, manager, (client, some) =>
      run(client, commitHoldsInTransaction, { ids: some, notifyChannel }),
    );
  }

  /** @returns whether the job is held as long as that now */
  async keep(id: JobId, holdMs: number, manager: EntityManager | undefined): Promise<boolean> {
    const kept = await this.write([id], manager, (client, ids) => run(client, keepHolds, { ids, holdMs }));
    return kept.has(id);
  }

  /** @returns whether there was something to delete */
  async release(id: JobId, manager: EntityManager | undefined): Promise<boolean> {
    const notifyChannel = manager ? this.notifyChannel : null;
    const released = await this.write([id], manager, (client, ids) =>
      run(client, releaseHolds, { ids, notifyChannel }),
    );
    return released.has(id);
  }

  /**
   * Where a job stands that could not be written.
   *
   * @throws {TransactionConflictError} when it is still held: another transaction has it locked
   */
  async find(id: JobId, manager: EntityManager | undefined): Promise<Exclude<HoldState, 'held'> | undefined> {
    const find = (client: SqlClient): Promise<HoldState[]> => run(client, findHold, { id });
    const [state] = manager ? await find(await this.join(manager)) : await this.connection.transaction(find);
    if (state !== 'held') return state;
    throw new TransactionConflictError({ cause: new Error(`job ${id} is locked by another transaction`) });
  }

  /** Jobs that another transaction has locked are tried again, for some time. */
  private async write(ids: readonly JobId[], manager: EntityManager | undefined, write: Write): Promise<Set<JobId>> {
    const client = manager && (await this.join(manager));
    const delay = new RetryDelay(BUSY_DELAY_MS);
    const giveUpAt = performance.now() + BUSY_LIMIT_MS;
    const written = new Set<JobId>();
    for (let left = ids; left.length > 0; await delay.wait()) {
      const [row] = client ? await write(client, left) : await this.connection.transaction((own) => write(own, left));
      for (const id of row?.ids ?? []) written.add(id);
      this.wake(row?.wakeUps ?? []);
      left = row?.busy ?? [];
      if (left.length === 0 || performance.now() > giveUpAt) break;
    }
    return written;
  }

  private async join(manager: EntityManager): Promise<SqlClient> {
    const client = await transactionClient(manager, this.settings);
    this.onJoined(manager);
    return client;
  }
}
