import type { RunningJob } from '../execute/running-job.js';
import { JobCancelledError } from '../job/control-errors.js';
import type { ClaimedJob, JobId } from '../job/job.js';
import type { RegisteredHandler } from '../job/handler.js';
import { LeaseLostError } from '../job/errors.js';
import { endsWithin } from '../job/time-limit.js';

/** The runs under way in this process. */
export class RunBoard {
  /** In no order. A Set would have to be made anew every few runs, and would keep those that have ended in memory. */
  private readonly runs: RunningJob[] = [];
  /** Handlers under way: that of a batch may go on when all its jobs have ended. */
  private calls = 0;
  /** When each handler last ended a run: who blocked the event loop has ended by the time that it is noticed. */
  private readonly endedAt = new Map<RegisteredHandler, number>();
  private idleWaiters: (() => void)[] = [];

  get count(): number {
    return this.calls;
  }

  /** A handler is called. */
  call(): void {
    this.calls += 1;
  }

  /** It has ended. */
  ended(handler: RegisteredHandler, now: number): void {
    this.calls -= 1;
    this.endedAt.set(handler, now);
    if (this.calls === 0) for (const resolve of this.idleWaiters.splice(0)) resolve();
  }

  add(job: RunningJob): void {
    job.place = this.runs.push(job) - 1;
  }

  remove(job: RunningJob): void {
    const last = this.runs.pop()!;
    if (last === job) return;
    this.runs[job.place] = last;
    last.place = job.place;
  }

  /** The jobs that were started under a runner's id. */
  started(runner: string): JobId[] {
    return this.runs.filter(({ claimed }) => claimed.runner === runner).map(({ id }) => id);
  }

  /** Handlers that run, or have ended since then. */
  labels(since: number): string[] {
    const running = this.runs.map(({ handler }) => handler);
    const justEnded = [...this.endedAt].filter(([, endedAt]) => endedAt >= since).map(([handler]) => handler);
    return [...new Set([...running, ...justEnded])].map(({ label }) => label);
  }

  /** Aborts the runs whose lease is gone. */
  lose(isLost: (job: ClaimedJob) => boolean): void {
    for (const job of this.runs) {
      if (job.leaseGone !== null || !isLost(job.claimed)) continue;
      job.leaseGone = 'lost';
      job.abort(new LeaseLostError(job.id, job.name));
    }
  }

  /** Tells runs to stop whose jobs are cancelled. */
  cancel(reasons: ReadonlyMap<JobId, string | null>): void {
    for (const job of this.runs) {
      const reason = reasons.get(job.id);
      if (reason !== undefined) job.abort(new JobCancelledError(job.id, reason));
    }
  }

  abortAll(reason: Error): void {
    for (const job of this.runs) job.abort(reason);
  }

  /** Ends the runs that are transactions, whatever their handlers do: they are rolled back, and not left to a closing pool. */
  abandonTransactions(reason: Error): void {
    for (const job of this.runs) if (job.handler.isolation !== null) job.abandon(reason);
  }

  /** Runs that go on longer than this and were not told of before. */
  takeStuck(olderThanMs: number, now: number): RunningJob[] {
    const stuck = this.runs.filter((job) => !job.stuckReported && now - job.startedAt > olderThanMs);
    for (const job of stuck) job.stuckReported = true;
    return stuck;
  }

  /** Resolves when nothing runs any more, or after `withinMs`; says whether it is idle. */
  async idle(withinMs: number | null): Promise<boolean> {
    if (this.calls === 0) return true;
    await endsWithin(withinMs, new Promise<void>((resolve) => this.idleWaiters.push(resolve)));
    return this.calls === 0;
  }
}
