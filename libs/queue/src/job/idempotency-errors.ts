import { QueueError } from './errors.js';

/**
 * A spawn with `strict` found an earlier job of its idempotency key whose name, payload or bytes are others. Nothing was
 * written, and the caller's transaction stays usable.
 */
export class IdempotencyConflictError extends QueueError {
  readonly code = 'idempotency_conflict';

  /** @param jobId the earlier job, `null` when it is another item of the same call */
  constructor(
    readonly channel: string,
    readonly idempotencyKey: string,
    readonly jobId: string | null,
  ) {
    const holder = jobId === null ? 'another item of this call' : `job ${jobId}`;
    super(
      `Idempotency key "${idempotencyKey}" of channel "${channel}" belongs to ${holder}, which has another name or payload. Give this job a key of its own, or leave out \`strict\` to get the earlier one.`,
    );
  }
}
