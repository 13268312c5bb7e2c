import type { EntityManager } from 'typeorm';
import type { Duration } from '../job/duration.js';
import { LeaseLostError } from '../job/errors.js';
import type { HandlerPolicy, RegisteredHandler } from '../job/handler.js';
import type { CheckpointChanges, ClaimedJob, CompleteOptions, Job, Json, ProgressReport } from '../job/job.js';
import { RunControl, type ControlledRun, type RunHost } from './run-control.js';

/** What the runs of a process have in common. */
export interface RunningHost extends RunHost {
  /** Resolves when the ends of the jobs before this one in its lane are written. */
  writtenBefore(job: ClaimedJob): Promise<void>;
  /** The lease of this run had an end of its own, and it has passed: the signal is aborted. */
  leaseEnded(job: RunningJob): void;
}

/** What a run has to do with the others of its batch. */
export interface Companions {
  /** It was told to stop. */
  readonly aborted: (reason: Error) => void;
  /** Resolves when the ends of those before it count. */
  readonly endedBefore: (job: RunningJob, to: string) => Promise<void>;
}

/** One run of a claimed job: what its handler sees, and what the process knows of it. */
export class RunningJob implements Job, ControlledRun {
  /** What it writes, and what became of that. */
  readonly control: RunControl;
  /** Why the run was told to stop. */
  abortReason: Error | undefined = undefined;
  /** Its handler goes on, and nobody waits for it. */
  givenUp = false;
  /** Its lease is gone: to others, or because it had an end of its own. */
  leaseGone: 'lost' | 'ended' | null = null;
  /** Among the runs of its process. */
  place = -1;
  /** It was told of as running too long. */
  stuckReported = false;
  private onAbandoned: ((reason: Error) => void) | undefined = undefined;
  private controller: AbortController | undefined = undefined;
  private parsed: { readonly payload: unknown } | undefined = undefined;

  /** @param startedAt `performance.now()` */
  constructor(
    readonly claimed: ClaimedJob,
    readonly handler: RegisteredHandler,
    readonly policy: HandlerPolicy,
    readonly startedAt: number,
    readonly host: RunningHost,
    private readonly companions?: Companions,
  ) {
    this.control = new RunControl(this);
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
    this.companions?.aborted(reason);
  }

  async settledBefore(to: string): Promise<void> {
    await this.companions?.endedBefore(this, to);
    await this.host.writtenBefore(this.claimed);
  }

  leaseEnded(): void {
    this.abort(new LeaseLostError(this.claimed.id, this.claimed.name));
    this.host.leaseEnded(this);
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
