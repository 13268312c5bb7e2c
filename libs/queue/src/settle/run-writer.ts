import type { DataSource, EntityManager } from 'typeorm';
import { LeaseLostError } from '../job/errors.js';
import type { ClaimedJob } from '../job/job.js';
import type { IsolationLevel } from '../job/handler.js';
import type { Checkpoint, Progress, RunFacts, RunPort, RunTransaction } from '../job/run-port.js';
import type { Connection } from '../postgres/connection.js';
import { ManagedTransaction } from '../postgres/managed-transaction.js';
import { poolShareOf, type PoolShare } from '../postgres/pool-share.js';
import { hasOpenTransaction, pinnedTransactionClient } from '../postgres/transaction-client.js';
import { checkpointJob, findRun, type FencedRun } from '../statements/checkpoint-job.js';
import { storePolicies } from '../statements/policies.js';
import { reportProgress } from '../statements/report-progress.js';
import { completeJobs } from '../statements/complete-jobs.js';
import { finishJobs } from '../statements/finish-jobs.js';
import { run, type SqlClient } from '../statements/statement.js';
import { beginBriefly, beginForgettably } from '../statements/transaction.js';
import { CompletingTransaction } from './completing-transaction.js';
import { completed } from './settlement.js';

export interface RunWriterSettings {
  readonly schema: string;
  readonly namedStatements: boolean;
  readonly dataSource: DataSource;
}

/**
 * Writes what a run says of its job while it goes on: in its handler's own transaction, or through the connection that
 * settles, where it goes out at once and never waits for a row that a handler has locked.
 */
export class RunWriter implements RunPort {
  /** Stored by this process. */
  private readonly policies = new Set<string>();
  private readonly pool: PoolShare;

  constructor(
    private readonly settings: RunWriterSettings,
    private readonly connection: Connection,
  ) {
    this.pool = poolShareOf(settings.dataSource);
  }

  async complete(
    job: ClaimedJob,
    { result, retentionMs }: { result: string | null; retentionMs: number },
    manager?: EntityManager,
  ): Promise<void> {
    const { runner, fence } = runOf(job);
    const taken = await this.write(manager, async (client) =>
      retentionMs === 0
        ? (await run(client, completeJobs, { runner, entries: [fence], endedLeases: [] }))[0] === 'all'
        : (await run(client, finishJobs, { runner, entries: [completed(job, result, retentionMs)] })).length > 0,
    );
    if (!taken) throw new LeaseLostError(job.id, job.name);
  }

  async begin(isolation: IsolationLevel): Promise<RunTransaction> {
    const leave = await this.pool.enter();
    try {
      const transaction = await ManagedTransaction.open(this.settings, isolation);
      return new CompletingTransaction(transaction, this.settings, this.connection, leave);
    } catch (error) {
      leave();
      throw error;
    }
  }

  async checkpoint(job: ClaimedJob, checkpoint: Checkpoint, manager?: EntityManager): Promise<RunFacts> {
    const params = { ...runOf(job), checkpoint };
    const { policy } = checkpoint;
    if (policy && !this.policies.has(policy.id)) {
      // In no transaction of the handler: others store the same one, and would wait for its end.
      await this.connection.transaction((client) => run(client, storePolicies, { policies: [policy] }));
      this.policies.add(policy.id);
    }
    const [facts] = await this.write(manager, (client) => run(client, checkpointJob, params));
    if (facts === undefined) throw new LeaseLostError(job.id, job.name);
    return facts;
  }

  async progress(job: ClaimedJob, progress: Progress): Promise<void> {
    const params = { ...runOf(job), progress };
    const told = await this.connection.transaction((client) => run(client, reportProgress, params), beginForgettably);
    if (told.length === 0) throw new LeaseLostError(job.id, job.name);
  }

  async look(job: ClaimedJob): Promise<RunFacts | null> {
    const [facts] = await this.connection.transaction((client) => run(client, findRun, runOf(job)));
    return facts ?? null;
  }

  isOpen(manager: EntityManager): boolean {
    return hasOpenTransaction(manager);
  }

  private async write<T>(manager: EntityManager | undefined, work: (client: SqlClient) => Promise<T>): Promise<T> {
    if (manager === undefined) return this.connection.transaction(work, beginBriefly);
    return work(await pinnedTransactionClient(manager, this.settings));
  }
}

function runOf({ id, run: stamp, lease, runner }: ClaimedJob): FencedRun {
  return { runner, fence: { id, run: stamp, lease } };
}
