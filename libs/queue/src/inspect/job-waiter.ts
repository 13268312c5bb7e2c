import type { Observable, Subscription } from 'rxjs';
import { JobCancelledError, JobDeadError, JobNotFoundError, WaitTimeoutError } from '../job/control-errors.js';
import { durationMs, type Duration } from '../job/duration.js';
import { QueueClosedError } from '../job/errors.js';
import type { QueueEvent } from '../job/events.js';
import type { JobId } from '../job/job.js';
import { MAX_TIMER_MS, withinMs } from '../job/time-limit.js';
import { isRetryable } from '../postgres/sqlstate.js';
import type { EndedJobRow } from '../statements/wait-for.js';

/** Options of `queue.waitFor`. */
export interface WaitOptions {
  /** How long to wait, at most 24 days. Default: until the job has ended. */
  timeout?: Duration;
  /** Ends the wait: it rejects with `signal.reason`. The job goes on. */
  signal?: AbortSignal;
}

interface Waiter {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** The time between two looks at the database is doubled from the first to the second. */
const FIRST_LOOK_MS = 25;
const LONGEST_LOOK_MS = 1_000;

const LAST_LOOK_LIMIT_MS = 2_000;

/**
 * Everybody in this process who waits for the end of a job: one statement now and then looks for all of them, none when
 * nobody waits. A look comes soon after a wait has begun, then more and more rarely; the end of a run in this very
 * process brings the next one on at once.
 */
export class JobWaiter {
  private readonly waiting = new Map<JobId, Set<Waiter>>();
  private waitMs = FIRST_LOOK_MS;
  private timer: NodeJS.Timeout | undefined;
  private looking: Promise<void> | null = null;
  /** Asked for while a look was under way, whose snapshot may be older. */
  private again = false;
  private closed = false;
  /** To the events of this process, while somebody waits: telling of events costs something. */
  private subscription: Subscription | null = null;

  /** @param findEnded those of the given jobs that are not live */
  constructor(
    private readonly findEnded: (ids: readonly JobId[]) => Promise<EndedJobRow[]>,
    private readonly events: Observable<QueueEvent>,
  ) {}

  /** The result of a job, once it has ended. */
  async waitFor(id: JobId, { timeout, signal }: WaitOptions = {}): Promise<unknown> {
    const timeoutMs = timeout === undefined ? null : durationMs(timeout, 'timeout', 1, MAX_TIMER_MS);
    signal?.throwIfAborted();
    if (this.closed) throw closedError(id);
    const { promise, waiter } = newWaiter();
    const onAbort = (): void => waiter.reject(signal?.reason);
    const timer = timeoutMs && setTimeout(() => waiter.reject(new WaitTimeoutError(id, timeoutMs)), timeoutMs);
    signal?.addEventListener('abort', onAbort);
    this.add(id, waiter);
    try {
      return await promise;
    } finally {
      if (timer) clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      this.remove(id, waiter);
    }
  }

  /** Looks once more, and rejects who is left, also when the database does not answer. */
  async close(): Promise<void> {
    this.closed = true;
    clearTimeout(this.timer);
    await withinMs(LAST_LOOK_LIMIT_MS, this.lastLook()).catch(() => undefined);
    for (const [id, waiters] of this.waiting) for (const { reject } of waiters) reject(closedError(id));
  }

  private async lastLook(): Promise<void> {
    await this.looking;
    if (this.waiting.size > 0) await this.look();
  }

  private add(id: JobId, waiter: Waiter): void {
    this.subscription ??= this.events.subscribe((event) => this.hear(event));
    const waiters = this.waiting.get(id);
    if (waiters === undefined) this.waiting.set(id, new Set([waiter]));
    else waiters.add(waiter);
    this.waitMs = FIRST_LOOK_MS;
    this.lookNow();
  }

  private remove(id: JobId, waiter: Waiter): void {
    const waiters = this.waiting.get(id);
    waiters?.delete(waiter);
    if (waiters?.size === 0) this.waiting.delete(id);
    if (this.waiting.size > 0) return;
    clearTimeout(this.timer);
    this.subscription?.unsubscribe();
    this.subscription = null;
  }

  /** A job has ended in this process: no need to wait for the next look. */
  private hear(event: QueueEvent): void {
    const ended = event.type === 'completed' || event.type === 'dead' || event.type === 'cancelled';
    if (ended && this.waiting.has(event.id)) this.lookNow();
  }

  /** At once; waits that begin in one turn of the event loop share a look. */
  private lookNow(): void {
    if (this.looking !== null) this.again = true;
    else this.schedule(0);
  }

  private schedule(inMs: number): void {
    clearTimeout(this.timer);
    if (this.closed || this.waiting.size === 0) return;
    this.timer = setTimeout(() => {
      this.looking = this.turn();
    }, inMs);
  }

  private async turn(): Promise<void> {
    this.again = false;
    await this.look();
    this.looking = null;
    if (this.again) return this.schedule(0);
    this.schedule(this.waitMs);
    this.waitMs = Math.min(LONGEST_LOOK_MS, this.waitMs * 2);
  }

  /** A database that is away for a while ends no wait: whoever cannot wait any longer has given a timeout. */
  private async look(): Promise<void> {
    try {
      for (const row of await this.findEnded([...this.waiting.keys()])) this.ended(row);
    } catch (error) {
      if (isRetryable(error)) return;
      for (const waiters of this.waiting.values()) for (const { reject } of waiters) reject(error);
    }
  }

  private ended({ id, state, result, reason, lastError }: EndedJobRow): void {
    for (const { resolve, reject } of this.waiting.get(id) ?? []) {
      if (state === 'completed') resolve(result === null ? undefined : JSON.parse(result));
      else if (state === null) reject(new JobNotFoundError(id));
      else if (state === 'cancelled') reject(new JobCancelledError(id, reason));
      else reject(new JobDeadError(id, reason ?? state, lastError));
    }
  }
}

function newWaiter(): { promise: Promise<unknown>; waiter: Waiter } {
  let waiter!: Waiter;
  const promise = new Promise<unknown>((resolve, reject) => (waiter = { resolve, reject }));
  return { promise, waiter };
}

const closedError = (id: JobId): QueueClosedError =>
  new QueueClosedError(`Job ${id} had not ended`, 'It goes on in another process, which may wait for it too.');
