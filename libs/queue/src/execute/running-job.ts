import type { EntityManager } from 'typeorm';
import type { Duration } from '../job/duration.js';
import { LeaseLostError } from '../job/errors.js';
import type { CheckpointChanges, ClaimedJob, CompleteOptions, Job, Json, ProgressReport } from '../job/job.js';
import { RunControl, type RunControlParts } from './run-control.js';

export type RunParts = Omit<RunControlParts, 'leaseEnded'> & {
  /** The lease of this run had an end of its own, and it has passed: the signal is aborted. */
  readonly leaseEnded: (job: RunningJob) => void;
  /** It was told to stop. */
  readonly aborted?: ((reason: Error) => void) | undefined;
};

/** One run of a claimed job: what its handler sees, and what the process knows of it. */
export class RunningJob implements Job {
  readonly startedAt = performance.now();
  /** What it writes, and what became of that. */
  readonly control: RunControl;
  /** Why the run was told to stop. */
  abortReason: Error | undefined;
  /** Its handler goes on, and nobody waits for it. */
  givenUp = false;
  private onAbandoned: ((reason: Error) => void) | undefined;
  private controller: AbortController | undefined;
  private parsed: { readonly payload: unknown } | undefined;

  constructor(
    readonly claimed: ClaimedJob,
    private readonly parts: RunParts,
  ) {
    const leaseEnded = (): void => {
      this.abort(new LeaseLostError(claimed.id, claimed.name));
      parts.leaseEnded(this);
    };
    this.control = new RunControl(claimed, { ...parts, leaseEnded });
  }

  get id(): string {
    return this.claimed.id;
  }
  get channel(): string {
    return this.claimed.channel;
  }
  get key(): string {
    return this.claimed.key;
  }
  get name(): string {
    return this.claimed.name;
  }
  get seq(): number | null {
    return this.claimed.seq;
  }
  get attempt(): number {
    return this.claimed.attempt;
  }
  get maxAttempts(): number {
    return this.control.maxAttempts ?? Infinity;
  }
  get priority(): number {
    return this.claimed.priority;
  }
  get bytes(): Buffer | null {
    return this.claimed.bytes;
  }
  get createdAt(): Date {
    return new Date(this.claimed.createdAtMicros / 1_000);
  }
  get dueAt(): Date {
    return new Date(this.claimed.dueAtMicros / 1_000);
  }
  get metadata(): Job['metadata'] {
    return this.claimed.metadata === null ? {} : (JSON.parse(this.claimed.metadata) as Record<string, Json>);
  }

  /** Parsed at the first look, so that a handler which needs no payload pays for none. */
  get payload(): unknown {
    this.parsed ??= { payload: this.claimed.payload === null ? undefined : JSON.parse(this.claimed.payload) };
    return this.parsed.payload;
  }

  /** What the handler's schema has made of the payload. */
  set payload(value: unknown) {
    this.parsed = { payload: value };
  }

  /** Made at the first look: most handlers never ask for it. */
  get signal(): AbortSignal {
    this.controller ??= new AbortController();
    if (this.abortReason && !this.controller.signal.aborted) this.controller.abort(this.abortReason);
    return this.controller.signal;
  }

  get manager(): EntityManager {
    return this.control.own.manager;
  }

  /** Ends the run although its handler goes on. */
  abandon(reason: Error): void {
    this.givenUp = true;
    this.onAbandoned?.(reason);
  }

  /** Rejects when nobody waits for the handler any more. */
  untilAbandoned(): Promise<never> {
    return new Promise((_, reject) => (this.onAbandoned = reject));
  }

  abort(reason: Error): void {
    this.abortReason ??= reason;
    if (reason instanceof LeaseLostError) this.control.lose();
    this.controller?.abort(this.abortReason);
    this.parts.aborted?.(reason);
  }

  checkpoint(changes: CheckpointChanges, options?: { manager?: EntityManager }): Promise<void> {
    return this.control.checkpoint(changes, options);
  }

  progress(progress: ProgressReport): Promise<void> {
    return this.control.progress(progress);
  }

  keepAlive(duration: Duration): Promise<void> {
    return this.control.keepAlive(duration);
  }

  complete(options?: CompleteOptions): Promise<void> {
    return this.control.complete(options);
  }
}
