import type { DataSource } from 'typeorm';
import { LeaseLostError } from '../job/errors.js';
import type { CompletionPort } from '../job/handler.js';
import { transactionClient } from '../postgres/transaction-client.js';
import { completeJobs, finishJobs } from '../statements/settle-jobs.js';
import { run } from '../statements/statement.js';
import { completed } from './settlement.js';

/** Completes a job inside its handler's own transaction, by the same statements as everywhere. */
export class Completion implements CompletionPort {
  constructor(
    private readonly settings: {
      readonly schema: string;
      readonly namedStatements: boolean;
      readonly dataSource: DataSource;
    },
  ) {}

  async completeIn({ job, manager, result, retentionMs }: Parameters<CompletionPort['completeIn']>[0]): Promise<void> {
    const client = await transactionClient(manager, this.settings);
    const fence = { id: job.id, run: job.run, lease: job.lease };
    const taken =
      retentionMs === 0
        ? (await run(client, completeJobs, { runner: job.runner, entries: [fence], endedLeases: [] }))[0] === 'all'
        : (await run(client, finishJobs, { runner: job.runner, entries: [completed(fence, job, result, retentionMs)] }))
            .length === 1;
    if (!taken) throw new LeaseLostError(job.id, job.name);
  }
}
