import { JobTimeoutError, QueueClosedError } from '../job/errors.js';
import type { HandlerPolicy, RegisteredHandler } from '../job/handler.js';
import type { Outcome } from '../job/outcome.js';
import { validatePayload } from '../job/validate-payload.js';
import { outcomeOfError } from './outcome-of-error.js';
import { encodeResult } from './result.js';
import type { RunningJob } from './running-job.js';

/** What the executor needs beside the job. */
export interface Execution {
  readonly job: RunningJob;
  readonly handler: RegisteredHandler;
  readonly policy: HandlerPolicy;
}

/** The error of a run whose handler returned as if nothing had happened. */
const NOT_COMMITTED = 'The handler returned, but the transaction in which it completed the job was not committed.';

/** Runs a handler and turns every ending into an outcome. Never throws, and knows no SQL. */
export class JobExecutor {
  /** @param abortGraceMs how long a run that was aborted by its timeout keeps its slot */
  constructor(
    private readonly abortGraceMs: number,
    private readonly onStuck: (job: RunningJob) => void,
  ) {}

  async execute(execution: Execution): Promise<Outcome> {
    const outcome = await this.outcomeOf(execution);
    execution.job.end();
    return outcome;
  }

  private async outcomeOf(execution: Execution): Promise<Outcome> {
    try {
      const { timeoutMs } = execution.policy;
      const result = timeoutMs === null ? await this.invoke(execution) : await this.invokeWithin(timeoutMs, execution);
      return this.succeeded(execution, result);
    } catch (error) {
      return this.failed(execution, error);
    }
  }

  private async invoke({ job, handler }: Execution): Promise<unknown> {
    if (handler.schema !== null) {
      job.payload = await validatePayload(handler.schema, handler.name, job.payload);
    }
    return handler.invoke(job);
  }

  /** Aborts the signal at the timeout, and gives up waiting for the handler when the grace is over too. */
  private async invokeWithin(timeoutMs: number, execution: Execution): Promise<unknown> {
    const { job } = execution;
    const expired = new JobTimeoutError(job.name, timeoutMs);
    let timer: NodeJS.Timeout | undefined;
    const givenUp = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        job.abort(expired);
        timer = setTimeout(() => {
          this.onStuck(job);
          reject(expired);
        }, this.abortGraceMs);
      }, timeoutMs);
    });
    try {
      return await Promise.race([this.invoke(execution), givenUp]);
    } finally {
      clearTimeout(timer);
    }
  }

  private succeeded(execution: Execution, returned: unknown): Outcome {
    const { job, policy } = execution;
    if (job.askedForCompletion) return this.failed(execution, new Error(NOT_COMMITTED));
    return { kind: 'completed', result: encodeResult(job.name, returned, policy.retentionMs) };
  }

  private failed({ job, handler, policy }: Execution, error: unknown): Outcome {
    const shuttingDown = job.abortReason instanceof QueueClosedError;
    const outcome = outcomeOfError({ job: job.claimed, handler, policy, error, shuttingDown });
    return job.askedForCompletion ? { kind: 'unless-completed', otherwise: outcome } : outcome;
  }
}
