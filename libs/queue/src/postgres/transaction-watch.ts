import type { DataSource, EntityManager, EntitySubscriberInterface, QueryRunner } from 'typeorm';
import { TransactionAbortedError } from '../job/errors.js';
import { isAborted } from './transaction-client.js';

/**
 * Refuses to commit a transaction that has spawned jobs and was aborted since by an error which the caller swallowed.
 * The server would answer that COMMIT with ROLLBACK, TypeORM would not notice, and the jobs would vanish silently.
 */
export class TransactionWatch implements EntitySubscriberInterface {
  private readonly watched = new WeakSet<QueryRunner>();

  constructor(private readonly dataSource: DataSource) {}

  start(): void {
    this.dataSource.subscribers.push(this);
  }

  stop(): void {
    const at = this.dataSource.subscribers.indexOf(this);
    if (at >= 0) this.dataSource.subscribers.splice(at, 1);
  }

  watch(manager: EntityManager): void {
    if (manager.queryRunner) this.watched.add(manager.queryRunner);
  }

  async beforeTransactionCommit({
    queryRunner,
    manager,
  }: {
    queryRunner: QueryRunner;
    manager: EntityManager;
  }): Promise<void> {
    if (!this.watched.has(queryRunner)) return;
    if (await isAborted(manager)) throw new TransactionAbortedError('commit');
  }
}
