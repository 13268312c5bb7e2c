import { QueueError } from './errors.js';
import type { JobId } from './job.js';

/** There is no such job, live or finished. */
export class JobNotFoundError extends QueueError {
  readonly code = 'not_found';

  constructor(readonly jobId: JobId) {
    super(
      `There is no job ${jobId}: it was never committed, it was completed by a handler that has no \`retention\`, or it was pruned or cleared since. Give the handler a \`retention\` longer than anybody waits.`,
    );
  }
}

/** The job that was waited for has no result: it will not run again by itself. */
export class JobDeadError extends QueueError {
  readonly code = 'job_dead';

  /**
   * @param reason    `exhausted`, `rejected` or `lease expired`
   * @param lastError text of the last error, at most 8 KiB
   */
  constructor(
    readonly jobId: JobId,
    readonly reason: string,
    readonly lastError: string | null,
  ) {
    const firstLine = lastError?.split('\n', 1)[0];
    super(`Job ${jobId} is dead (${reason})${firstLine ? `: ${firstLine}` : ''}. It is kept, \`queue.get\` shows it.`);
  }
}

/**
 * The job was cancelled. `job.signal.reason` of a run that is to stop, and what `queue.waitFor` rejects with.
 */
export class JobCancelledError extends QueueError {
  readonly code = 'job_cancelled';

  /** @param reason what was given to `queue.cancel`, `null` when nothing was */
  constructor(
    readonly jobId: JobId,
    readonly reason: string | null,
  ) {
    super(`Job ${jobId} was cancelled${reason === null ? '' : `: ${reason}`}. It will not run again.`);
  }
}

/** The job had not ended when the time to wait for it was over. It goes on. */
export class WaitTimeoutError extends QueueError {
  readonly code = 'wait_timeout';

  constructor(
    readonly jobId: JobId,
    readonly timeoutMs: number,
  ) {
    super(`Job ${jobId} has not ended within ${timeoutMs} ms. It goes on; wait for it again, or longer.`);
  }
}

/** Jobs of a channel that was to be cleared are running. Nothing was deleted. */
export class ChannelBusyError extends QueueError {
  readonly code = 'channel_busy';

  /** @param channels those that have running jobs */
  constructor(
    readonly channels: readonly string[],
    readonly running: number,
  ) {
    const names = channels.slice(0, 20).map((channel) => `"${channel}"`);
    const more = channels.length > names.length ? ` and ${channels.length - names.length} more` : '';
    super(
      `${running} jobs are running in ${names.join(', ')}${more}: nothing was cleared. Pause the channel and wait for them, or give \`keepRunning: true\` to clear all but those.`,
    );
  }
}
