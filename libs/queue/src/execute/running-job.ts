import { InvalidTransitionError, LeaseLostError } from '../job/errors.js';
import type { CompletionPort } from '../job/handler.js';
import type { ClaimedJob, CompleteOptions, Job, Json } from '../job/job.js';
import { encodeResult } from './result.js';

/** One run of a claimed job: what its handler sees, and what the process knows of it. */
export class RunningJob implements Job {
  readonly startedAt = performance.now();
  /** Set once the handler has asked for completion: from then on the database knows more than this process. */
  askedForCompletion = false;
  /** Why the run was told to stop. */
  abortReason: Error | undefined;
  private ended = false;
  private controller: AbortController | undefined;
  private parsed: { readonly payload: unknown } | undefined;

  constructor(
    readonly claimed: ClaimedJob,
    private readonly completion: CompletionPort,
    private readonly retentionMs: number,
    /** Resolves when the ends of the jobs before it in its lane are written. */
    private readonly settledBefore: () => Promise<void>,
  ) {}

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
    return this.claimed.maxAttempts ?? Infinity;
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

  abort(reason: Error): void {
    this.abortReason ??= reason;
    this.controller?.abort(this.abortReason);
  }

  /** What the handler does from now on is nobody's run any more. */
  end(): void {
    this.ended = true;
  }

  async complete({ manager, result }: CompleteOptions): Promise<void> {
    if (this.ended) throw new InvalidTransitionError(this.id, 'settled: this run has ended', 'completed');
    if (this.askedForCompletion)
      throw new InvalidTransitionError(this.id, 'already completed by this run', 'completed');
    if (this.abortReason instanceof LeaseLostError) throw this.abortReason;
    const { claimed, retentionMs } = this;
    const encoded = encodeResult(claimed.name, result, retentionMs);
    this.askedForCompletion = true;
    try {
      await this.settledBefore();
      await this.completion.completeIn({ job: claimed, manager, result: encoded, retentionMs });
    } catch (error) {
      // Nothing was written: the run ends like any other, or asks again.
      this.askedForCompletion = false;
      throw error;
    }
  }
}
