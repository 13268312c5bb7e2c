import { ErrorHooks } from '../execute/error-hooks.js';
import { RunningJob, type Companions, type RunningHost } from '../execute/running-job.js';
import type { RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import { EXPIRED, isCommitted, type Outcome } from '../job/outcome.js';
import type { JobRunsParts, JobRunsSettings } from './job-runs-parts.js';
import type { LaneId } from './lane-run.js';
import type { Lanes } from './lanes.js';
import { RunBoard } from './run-board.js';
import { factsOf } from './run-events.js';

/** What became of a run: it is to be settled, or its lease was gone. */
export type RunEnd = 'ended' | 'expired' | 'lost';

/** The runs of single jobs, alone or in batches: how one begins, and what is to be settled when it ends. */
export class Runs {
  readonly board = new RunBoard();
  private readonly errorHooks: ErrorHooks;
  private readonly host: RunningHost;

  constructor(
    { onError, maxPayloadBytes, leaseMs }: JobRunsSettings,
    private readonly parts: JobRunsParts,
    private readonly lanes: Lanes,
    hookFailed: (what: string) => void,
  ) {
    this.errorHooks = new ErrorHooks(onError, hookFailed);
    this.host = {
      ...{ port: parts.port, maxPayloadBytes, leaseMs },
      writtenBefore: (job) => lanes.writtenBefore(job),
      leaseEnded: (job) => this.leaseEnded(job),
    };
  }

  /** Resolves when no error hook is under way. */
  hooksEnded(): Promise<void> {
    return this.errorHooks.idle();
  }

  begin(claimed: ClaimedJob, handler: RegisteredHandler, now: number, companions?: Companions): RunningJob {
    const { parts } = this;
    const policy = parts.policies.of(claimed, handler);
    const job = new RunningJob(claimed, handler, policy, now, this.host, companions);
    this.board.add(job);
    if (parts.observed()) parts.emit({ type: 'started', ...factsOf(claimed) });
    return job;
  }

  /** A run has come to its end; of a lane its next job is somebody else's concern. */
  end(job: RunningJob, outcome: Outcome, durationMs: number): RunEnd {
    const { claimed, handler, policy, leaseGone } = job;
    this.board.remove(job);
    const committed = isCommitted(outcome);
    // Whether a job was completed before its lease ended only the database knows.
    if (!committed && leaseGone === 'ended' && !job.control.askedForCompletion) {
      this.lanes.expired(claimed);
      this.parts.ended({ job: claimed, outcome: EXPIRED, policy, durationMs, written: undefined });
      return 'expired';
    }
    if (!committed && leaseGone === 'lost') {
      this.parts.emit({ type: 'lease-lost', ...factsOf(claimed) });
      return 'lost';
    }
    this.parts.ended({ job: claimed, outcome, policy, durationMs, written: this.errorHooks.of(handler, job) });
    return 'ended';
  }

  /** The lease of a run had an end of its own, and it has passed: its lane goes back with it. */
  private leaseEnded(job: RunningJob): void {
    job.leaseGone = 'ended';
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
