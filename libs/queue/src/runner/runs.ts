import { ErrorHooks } from '../execute/error-hooks.js';
import type { Execution } from '../execute/job-executor.js';
import { RunningJob } from '../execute/running-job.js';
import type { RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import { EXPIRED, isCommitted, type Outcome } from '../job/outcome.js';
import type { JobRunsParts, JobRunsSettings } from './job-runs.js';
import type { LaneId, Lanes } from './lanes.js';
import { RunBoard, type ActiveRun } from './run-board.js';
import { factsOf } from './run-events.js';

/** What a run has to do with the others of its batch. */
export interface Companions {
  /** It was told to stop. */
  readonly aborted: (reason: Error) => void;
  /** Resolves when the ends of those before it count. */
  readonly endedBefore: (job: RunningJob, to: string) => Promise<void>;
}

/** What became of a run: it is to be settled, or its lease was gone. */
export type RunEnd = 'ended' | 'expired' | 'lost';

/** The runs of single jobs, alone or in batches: how one begins, and what is to be settled when it ends. */
export class Runs {
  readonly board = new RunBoard();
  private readonly errorHooks: ErrorHooks;

  constructor(
    private readonly settings: JobRunsSettings,
    private readonly parts: JobRunsParts,
    private readonly lanes: Lanes,
    hookFailed: (what: string) => void,
  ) {
    this.errorHooks = new ErrorHooks(settings.onError, hookFailed);
  }

  /** Resolves when no error hook is under way. */
  hooksEnded(): Promise<void> {
    return this.errorHooks.idle();
  }

  begin(claimed: ClaimedJob, handler: RegisteredHandler, companions?: Companions): Execution {
    const { parts, board } = this;
    const policy = parts.policies.of(claimed, handler);
    const { maxPayloadBytes, leaseMs } = this.settings;
    const job: RunningJob = new RunningJob(claimed, {
      ...{ port: parts.port, handler, policy, maxPayloadBytes, leaseMs },
      aborted: companions?.aborted,
      settledBefore: async (to) => {
        await companions?.endedBefore(job, to);
        await this.lanes.writtenBefore(claimed);
      },
      leaseEnded: () => this.leaseEnded(active),
    });
    const active: ActiveRun = { job, handler, policy, leaseLost: false, leaseEnded: false, stuckReported: false };
    board.add(active);
    parts.book.start(claimed.id);
    if (parts.observed()) parts.emit({ type: 'started', ...factsOf(claimed) });
    return active;
  }

  /** A run has come to its end; of a lane its next job is somebody else's concern. */
  end(execution: Execution, outcome: Outcome, durationMs: number): RunEnd {
    const active = execution as ActiveRun;
    const { job, handler, policy } = active;
    const { claimed } = job;
    this.board.remove(active);
    this.parts.book.end(claimed.id);
    const committed = isCommitted(outcome);
    // Whether a job was completed before its lease ended only the database knows.
    if (!committed && active.leaseEnded && !job.control.askedForCompletion) {
      this.lanes.expired(claimed);
      this.parts.ended({ job: claimed, outcome: EXPIRED, policy, durationMs });
      return 'expired';
    }
    if (!committed && active.leaseLost && !active.leaseEnded) {
      this.parts.emit({ type: 'lease-lost', ...factsOf(claimed) });
      return 'lost';
    }
    this.parts.ended({ job: claimed, outcome, policy, durationMs, written: this.errorHooks.of(handler, job) });
    return 'ended';
  }

  /** The lease of a run had an end of its own, and it has passed: its lane goes back with it. */
  private leaseEnded(active: ActiveRun): void {
    const { job } = active;
    active.leaseLost = true;
    active.leaseEnded = true;
    if (!job.control.askedForCompletion) this.lanes.expired(job.claimed);
    if (job.seq !== null) this.board.lose(isOfLaneOf(job.claimed));
    this.parts.leaseEnded();
  }
}

/** The jobs of the lane that a job is of, under the same lease. */
export const isOfLaneOf =
  (job: LaneId) =>
  ({ runner, lease, channel, key }: LaneId): boolean =>
    runner === job.runner && lease === job.lease && channel === job.channel && key === job.key;
