import type { EntityManager } from 'typeorm';
import { LeaseLostError } from '../job/errors.js';
import type { Completion, RunTransaction } from '../job/run-port.js';
import type { Connection } from '../postgres/connection.js';
import { RefusedCommitError, type ManagedTransaction } from '../postgres/managed-transaction.js';
import { endBackend } from '../statements/end-backend.js';
import { completeAllJobs, completeOneJob } from '../statements/complete-jobs.js';
import { finishAllJobs } from '../statements/finish-jobs.js';
import { run, type SqlClient, type SqlQuery } from '../statements/statement.js';
import { keepToIndexes } from '../statements/transaction.js';
import { completed, fenceOf } from './settlement.js';

/** The transaction of a run, which writes its completion last. */
export class CompletingTransaction implements RunTransaction {
  /** @param connection of our own, to end what keeps the transaction from being rolled back */
  constructor(
    private readonly transaction: ManagedTransaction,
    private readonly client: Pick<SqlClient, 'schema' | 'namedStatements'>,
    private readonly connection: Connection,
    private readonly ended: () => void,
  ) {}

  get manager(): EntityManager {
    return this.transaction.manager;
  }

  async commit(completions: readonly Completion[]): Promise<void> {
    try {
      await this.transaction.commit(this.statementsFor(completions));
    } catch (error) {
      const [first] = completions;
      if (error instanceof RefusedCommitError && first) throw new LeaseLostError(first.job.id, first.job.name);
      throw error;
    }
    this.ended();
  }

  async rollback(atOnce: boolean): Promise<void> {
    const busy = await this.transaction.rollback(atOnce);
    this.ended();
    if (busy === null) return;
    // Had it not been told, the server would go on with the statement, and hold its locks, until that ends.
    await this.connection.transaction((client) => run(client, endBackend, busy)).catch(() => undefined);
  }

  /** Jobs of one runner: this process's. */
  private statementsFor(completions: readonly Completion[]): SqlQuery[] {
    const runner = completions[0]?.job.runner ?? '0';
    const deleted = completions.filter(({ retentionMs }) => retentionMs === 0).map(({ job }) => fenceOf(job));
    const kept = completions
      .filter(({ retentionMs }) => retentionMs > 0)
      .map(({ job, result, retentionMs }) => completed(job, result, retentionMs));
    const client = this.client as SqlClient;
    return [
      ...(completions.length > 0 ? [keepToIndexes.query(client, {})] : []),
      ...(deleted.length === 1 ? [completeOneJob.query(client, { runner, fence: deleted[0]! })] : []),
      ...(deleted.length > 1 ? [completeAllJobs.query(client, { runner, entries: deleted })] : []),
      ...(kept.length > 0 ? [finishAllJobs.query(client, { runner, entries: kept })] : []),
    ];
  }
}
