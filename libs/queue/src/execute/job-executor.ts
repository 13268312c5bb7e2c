import { JobCancelledError } from '../job/control-errors.js';
import { describe, JobTimeoutError, messageOf, QueueClosedError, QueueError } from '../job/errors.js';
import type { RegisteredHandler } from '../job/handler.js';
import { COMPLETED, RELEASED, type Outcome } from '../job/outcome.js';
import { outcomeOfError } from './outcome-of-error.js';
import { needsPreparing, preparePayload } from './prepare-payload.js';
import { encodeResult } from './result.js';
import { runWithin } from './run-within.js';
import type { RunningJob } from './running-job.js';

export interface ExecutorEvents {
  /** The run does not obey its abort. */
  readonly stuck: (job: RunningJob) => void;
  readonly hookFailed: (what: string) => void;
}

/** The error of a run whose handler returned as if nothing had happened. */
const NOT_COMMITTED = 'The handler returned, but the transaction in which it completed the job was not committed.';

/** The error of a run of `completion: 'manual'`. */
const NOT_COMPLETED =
  "The handler returned without job.complete(), which `completion: 'manual'` asks for: the run has failed.";

/** Nothing is known against the job, and an application that has no connection to give may need a moment. */
export const NO_TRANSACTION = { kind: 'snoozed', delayMs: 1_000 } as const satisfies Outcome;

/** The wait before the next try where a run could not even be given its lease. */
const RETRY_START_MS = 1_000;

/** Runs a handler and turns every ending into an outcome. Never throws, and knows no SQL. */
export class JobExecutor {
  /** @param abortGraceMs how long a run that was aborted by its timeout keeps its slot */
  constructor(
    private readonly abortGraceMs: number,
    private readonly events: ExecutorEvents,
  ) {}

  async execute(job: RunningJob): Promise<Outcome> {
    const { control } = job;
    try {
      const refused = job.policy.keepAlive ? null : await this.openLease(job);
      if (refused !== null) return refused;
      if (job.handler.isolation !== null) return await this.executeInTransaction(job);
      const result = await this.invoke(job);
      if (control.checkpointedInside) await control.transactionEnded();
      return await this.succeeded(job, result);
    } catch (error) {
      if (control.checkpointedInside) await control.transactionEnded();
      return await this.failed(job, error, true);
    } finally {
      control.end();
    }
  }

  /** Gives a job of a batch its lease, and its payload the handler's form; answers how its run has ended if that fails. */
  async prepare(job: RunningJob): Promise<Outcome | null> {
    const refused = job.policy.keepAlive ? null : await this.openLease(job);
    if (refused !== null) return refused;
    try {
      if (needsPreparing(job)) await this.prepareWithin(job);
      return null;
    } catch (error) {
      return this.failed(job, error, true);
    }
  }

  /** One that hangs fails by itself: those that are handed over with it wait for it no longer than for the handler. */
  private async prepareWithin(job: RunningJob): Promise<void> {
    const { timeoutMs } = job.policy;
    const prepare = (): Promise<void> => preparePayload(job);
    if (timeoutMs === null) return prepare();
    const expired = new JobTimeoutError(job.name, timeoutMs);
    // Neither a schema nor `upgrade` is given a signal.
    const abort = (): void => undefined;
    return runWithin({ timeoutMs, graceMs: 0, expired, abort, givenUp: () => this.events.stuck(job) }, prepare);
  }

  /** Answers how the run ends that gets no lease. */
  private openLease({ control }: RunningJob): Promise<Outcome | null> {
    return control.openLease().then(() => null, neverStarted);
  }

  /** The run is a transaction: whatever it ends with but a return rolls that back. */
  private async executeInTransaction(job: RunningJob): Promise<Outcome> {
    const { control, handler, policy } = job;
    try {
      await control.own.begin();
    } catch (error) {
      this.events.hookFailed(`Job ${job.id} (${job.name}) got no transaction, and waits: ${messageOf(error)}`);
      return NO_TRANSACTION;
    }
    try {
      // It may have waited long for its connection.
      if (job.abortReason !== undefined) throw job.abortReason;
      const returned = await this.invoke(job);
      await control.transactionEnded();
      const { completion } = control.own;
      if (completion === null && handler.completion === 'manual') throw new Error(NOT_COMPLETED);
      const result = completion === null ? encodeResult(job.name, returned, policy.retentionMs) : completion.result;
      await control.commit(result);
      return { kind: 'completed', result, committed: true };
    } catch (error) {
      await control.own.rollback(job.givenUp);
      return this.failed(job, error, true);
    }
  }

  /** The handler's promise itself where nothing else is to be done: each more would cost every job. */
  private invoke(job: RunningJob): unknown {
    const { timeoutMs } = job.policy;
    if (timeoutMs !== null) return this.callWithin(timeoutMs, job);
    if (job.handler.isolation === null) return this.call(job);
    return Promise.race([this.call(job), job.untilAbandoned()]);
  }

  private call(job: RunningJob): unknown {
    return needsPreparing(job) ? this.prepareAndCall(job) : job.handler.invoke(job);
  }

  private async prepareAndCall(job: RunningJob): Promise<unknown> {
    await preparePayload(job);
    return job.handler.invoke(job);
  }

  /** Aborts the signal at the timeout, and gives up waiting for the handler when the grace is over too. */
  private async callWithin(timeoutMs: number, job: RunningJob): Promise<unknown> {
    const expired = new JobTimeoutError(job.name, timeoutMs);
    let timer: NodeJS.Timeout | undefined;
    timer = setTimeout(() => {
      job.abort(expired);
      timer = setTimeout(() => {
        this.events.stuck(job);
        job.abandon(expired);
      }, this.abortGraceMs);
    }, timeoutMs);
    try {
      return await Promise.race([this.call(job), job.untilAbandoned()]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** The handler has returned. @throws {PayloadInvalidError} when its result is to be kept and is not JSON */
  succeeded(job: RunningJob, returned: unknown): Outcome | Promise<Outcome> {
    const isManual = job.handler.completion === 'manual' && !job.control.askedForCompletion;
    return isManual ? this.failed(job, new Error(NOT_COMPLETED), false) : this.completed(job, returned);
  }

  /** The handler says that the job is done. @throws {PayloadInvalidError} when its result is to be kept and is not JSON */
  completed(job: RunningJob, returned: unknown): Outcome | Promise<Outcome> {
    if (job.control.askedForCompletion) return this.failed(job, new Error(NOT_COMMITTED), false);
    const result = encodeResult(job.name, returned, job.policy.retentionMs);
    return result === null ? COMPLETED : { kind: 'completed', result };
  }

  /** The run has come to no good end. @param threw the handler did not return */
  async failed(job: RunningJob, error: unknown, threw: boolean): Promise<Outcome> {
    const { claimed, handler, policy, abortReason } = job;
    const shuttingDown = abortReason instanceof QueueClosedError;
    const cancelled = abortReason instanceof JobCancelledError ? abortReason : null;
    const maxAttempts = await job.control.committedMaxAttempts();
    const isRetryable = (): boolean => this.isRetryable(handler, error);
    const facts = { job: claimed, handler, policy, error, maxAttempts, isRetryable, shuttingDown, cancelled };
    const outcome = outcomeOfError(facts);
    return job.control.askedForCompletion ? { kind: 'unless-completed', otherwise: outcome, threw } : outcome;
  }

  private isRetryable({ isRetryable, label }: RegisteredHandler, error: unknown): boolean {
    if (isRetryable === null) return true;
    try {
      const answer: unknown = isRetryable(error);
      if (typeof answer === 'boolean') return answer;
      // An `async` function answers no boolean; if it fails too, nobody else would take notice.
      if (answer instanceof Promise) answer.catch(() => undefined);
      this.events.hookFailed(`isRetryable of ${label} answered ${describe(answer)} instead of true or false`);
    } catch (failure) {
      this.events.hookFailed(`isRetryable of ${label} has thrown: ${messageOf(failure)}`);
    }
    return true;
  }
}

/** The database did not answer, or refused the run its lease: nothing is known against the job. */
function neverStarted(error: unknown): Outcome {
  return error instanceof QueueError ? RELEASED : { kind: 'retry', delayMs: RETRY_START_MS, error };
}
