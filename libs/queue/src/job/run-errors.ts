import { QueueError } from './errors.js';

/** `job.manager` was asked for in a handler that is not transactional. */
export class NotTransactionalError extends QueueError {
  readonly code = 'not_transactional';

  constructor(
    readonly jobId: string,
    readonly jobName: string,
  ) {
    super(
      `Job ${jobId} ("${jobName}") has no \`manager\`: its handler is not transactional. Give its @JobHandler \`transactional: true\`, or open a transaction with dataSource.transaction.`,
    );
  }
}
