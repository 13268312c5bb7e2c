import type { EntityManager } from 'typeorm';
import { checkKnown } from '../job/check-known.js';
import type { Duration } from '../job/duration.js';
import { DatabaseUnavailableError, InvalidTransitionError, LeaseLostError } from '../job/errors.js';
import type { HandlerPolicy, RegisteredHandler } from '../job/handler.js';
import type { CheckpointChanges, ClaimedJob, CompleteOptions, ProgressReport } from '../job/job.js';
import { RetryDelay } from '../job/retry-delay.js';
import type { Checkpoint, RunFacts, RunPort } from '../job/run-port.js';
import { checkpointOf, keepAliveMs, progressOf, type StoredPayload } from './checkpoint-changes.js';
import { LeaseEnd, type LeaseEndOwner } from './lease-end.js';
import { OwnTransaction } from './own-transaction.js';
import { ProgressReports } from './progress-reports.js';
import { encodeResult } from './result.js';

/** What every run of a process needs of it. */
export interface RunHost {
  readonly port: RunPort;
  readonly maxPayloadBytes: number;
  /** How long the lease of a run lasts that does not keep itself alive. */
  readonly leaseMs: number;
}

/** A run, as its control sees it. */
export interface ControlledRun {
  readonly claimed: ClaimedJob;
  readonly handler: RegisteredHandler;
  readonly policy: HandlerPolicy;
  readonly host: RunHost;
  /**
   * Resolves when all is written that must be durable before anything of this run: the ends of the jobs before it. Rejects
   * before a completion when one of those, handed over together with this job, has not ended.
   */
  settledBefore(to: string): Promise<void>;
  /** The lease had an end of its own, and it has passed. */
  leaseEnded(): void;
}

/** How the handler has asked for completion. */
interface Asked {
  /** The transaction that decides; `undefined`: none. */
  readonly manager: EntityManager | undefined;
  /** Whether it was answered: `lost` with the connection, so that the database decides here too. */
  answer: 'none' | 'written' | 'lost';
}

/** How often it is looked whether the handler's open transaction has ended. */
const OPEN_TRANSACTION_MS = 50;

/**
 * What a handler may write of its run, and what this process knows of what became of it. Most runs write nothing, so one of
 * them makes as little as possible of this.
 */
export class RunControl implements LeaseEndOwner {
  private asked: Asked | null = null;
  private over = false;
  private lost = false;
  private stored: StoredPayload;
  private limit: number | null;
  /** A transaction of the handler has granted runs, and may not have committed. */
  private limitUnsure = false;
  private checkpointedIn: EntityManager | null = null;
  /** The run itself, where its handler is transactional. */
  readonly own: OwnTransaction;
  private readonly leaseEnd: LeaseEnd;
  private reports: ProgressReports | null = null;

  constructor(private readonly run: ControlledRun) {
    const { claimed } = run;
    this.stored = claimed;
    this.limit = claimed.maxAttempts;
    this.own = new OwnTransaction(run);
    this.leaseEnd = new LeaseEnd(this);
  }

  /** From then on the database knows more than this process. */
  get askedForCompletion(): boolean {
    return this.asked !== null;
  }

  /** The handler has asked for completion, and the transaction that decides has ended. */
  get completionEnded(): boolean {
    const { asked } = this;
    return asked !== null && (asked.manager === undefined || !this.port.isOpen(asked.manager));
  }

  /** The lease of this run ends by itself: until its own end is written another runner may come and take the job. */
  get leaseEnds(): boolean {
    return this.leaseEnd.exists;
  }

  /** Milliseconds until then, `Infinity` where it lasts as long as its process. */
  get leaseLeftMs(): number {
    return this.leaseEnd.leftMs;
  }

  /** A checkpoint was written in a transaction of the handler's: see {@link transactionEnded}. */
  get checkpointedInside(): boolean {
    return this.checkpointedIn !== null;
  }

  /** As far as this process knows. */
  get maxAttempts(): number | null {
    return this.limit;
  }

  // ── what the handler asks for ─────────────────────────────────────────────────────────────────────────────────────

  async complete(options: CompleteOptions = {}): Promise<void> {
    checkKnown(options, 'complete', ['manager', 'result']);
    const { manager, result } = options;
    this.check('completed', manager);
    const { host, policy } = this.run;
    const encoded = encodeResult(this.job.name, result, policy.retentionMs);
    if (this.own.exists) return this.own.complete(encoded, manager);
    const before = this.asked;
    const asked: Asked = { manager, answer: 'none' };
    this.asked = asked;
    try {
      await this.predecessors('completed');
      await host.port.complete(this.job, { result: encoded, retentionMs: policy.retentionMs }, manager);
      asked.answer = 'written';
      if (manager === undefined) this.leaseEnd.clear();
    } catch (error) {
      // Nothing was written, and the run ends like any other, or asks again; a broken connection leaves that open.
      if (error instanceof DatabaseUnavailableError) asked.answer = 'lost';
      else this.asked = before;
      throw this.refusal(error, 'completed');
    }
  }

  async checkpoint(changes: CheckpointChanges, options: { manager?: EntityManager } = {}): Promise<void> {
    checkKnown(options, 'checkpoint', ['manager']);
    const { manager } = options;
    this.check('checkpointed', manager);
    const checkpoint = await checkpointOf(changes, this.stored, this.run);
    this.check('checkpointed', manager);
    await this.write(checkpoint, 'checkpointed', manager);
    const { payload = this.stored.payload, bytes = this.stored.bytes } = checkpoint;
    this.stored = { payload, bytes, metadata: this.stored.metadata };
  }

  async keepAlive(duration: Duration): Promise<void> {
    this.check('kept alive');
    const endMs = keepAliveMs(duration, 'duration');
    await this.write({ extraRetries: 0, keepAliveMs: endMs }, 'kept alive');
  }

  progress(report: ProgressReport): Promise<void> {
    const written = this.tell(report);
    // Often not awaited: whoever does hears of it, and nobody's silence ends the process.
    written.catch(() => undefined);
    return written;
  }

  private async tell(report: ProgressReport): Promise<void> {
    this.check('reported on');
    const news = progressOf(report);
    try {
      this.reports ??= new ProgressReports((progress) => this.port.progress(this.job, progress));
      await this.reports.report(news);
    } catch (error) {
      throw this.refusal(error, 'reported on');
    }
  }

  // ── what the process asks for ─────────────────────────────────────────────────────────────────────────────────────

  /** Gives the lease its end, before the handler is called. */
  async openLease(): Promise<void> {
    try {
      await this.write({ extraRetries: 0, keepAliveMs: this.run.host.leaseMs }, 'started');
    } catch (error) {
      if (error instanceof LeaseLostError) this.expire();
      throw error;
    }
  }

  /** Completes the job in the transaction that the run is, and commits that. @param result JSON text */
  async commit(result: string | null): Promise<void> {
    await this.commitBegins();
    try {
      await this.own.commit([{ job: this.job, result, retentionMs: this.run.policy.retentionMs }]);
      this.committed();
    } catch (error) {
      this.commitFailed(error);
      throw error;
    }
  }

  /** From here on the job may be completed. @throws when it cannot be, since nothing else is this run's to write */
  async commitBegins(): Promise<void> {
    await this.predecessors('completed');
    if (this.leaseEnd.passed) throw new LeaseLostError(this.job.id, this.job.name);
    this.asked = { manager: undefined, answer: 'none' };
  }

  committed(): void {
    if (this.asked !== null) this.asked.answer = 'written';
    this.leaseEnd.clear();
  }

  commitFailed(error: unknown): void {
    if (!(error instanceof DatabaseUnavailableError)) this.asked = null;
    else if (this.asked !== null) this.asked.answer = 'lost';
  }

  /** Another runner may have the job: whatever the handler asks for is refused. */
  lose(): void {
    this.lost = true;
    this.leaseEnd.clear();
  }

  /** What the handler does from now on is nobody's run any more. */
  end(): void {
    if (this.leaseEnd.passed) this.leasePassed();
    this.over = true;
    this.leaseEnd.clear();
    this.reports?.flush();
  }

  /**
   * Waits for a transaction that has checkpointed the job and was left open when the handler returned: its row is locked,
   * so that no end could be written.
   */
  async transactionEnded(): Promise<void> {
    const { checkpointedIn } = this;
    if (checkpointedIn === null || this.own.is(checkpointedIn)) return;
    while (!this.lost && this.port.isOpen(checkpointedIn)) {
      await new Promise((resolve) => setTimeout(resolve, OPEN_TRANSACTION_MS));
    }
  }

  /**
   * The limit by which the run's end is decided. What a transaction of the handler has granted counts when it has
   * committed, which only the database knows: it is asked until it answers.
   */
  async committedMaxAttempts(): Promise<number | null> {
    const delay = new RetryDelay({ minMs: 100, maxMs: 5_000 });
    while (this.limitUnsure && !this.lost) {
      try {
        const facts = await this.port.look(this.job);
        this.limit = facts === null ? this.limit : facts.maxAttempts;
        this.limitUnsure = false;
      } catch (error) {
        if (!(error instanceof DatabaseUnavailableError)) break;
        await delay.wait();
      }
    }
    return this.limit;
  }

  // ── what the end of its lease asks for ────────────────────────────────────────────────────────────────────────────

  lookAtRun(): Promise<RunFacts | null> {
    return this.port.look(this.job);
  }

  /** The lease has passed. A job that is completed by then needs none, which only the database knows. */
  leasePassed(): void {
    if (this.asked === null) this.expire();
    else void this.expireUnlessCompleted();
  }

  // ── how ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  private get job(): ClaimedJob {
    return this.run.claimed;
  }

  private get port(): RunPort {
    return this.run.host.port;
  }

  /** @throws when this can be refused without asking the database */
  private check(to: string, manager?: EntityManager): void {
    if (this.over) throw new InvalidTransitionError(this.job.id, 'settled: this run has ended', to);
    if (this.lost || this.leaseEnd.passed) throw new LeaseLostError(this.job.id, this.job.name);
    const { asked } = this;
    if (this.own.completion !== null) throw new InvalidTransitionError(this.job.id, COMPLETED, to);
    if (asked === null) return;
    // A transaction that has ended may have rolled back, as may an earlier one of the same connection.
    const stands =
      asked.manager === undefined
        ? asked.answer !== 'lost'
        : this.port.isOpen(asked.manager) && asked.manager.queryRunner !== manager?.queryRunner;
    if (stands) throw new InvalidTransitionError(this.job.id, COMPLETED, to);
  }

  private async predecessors(to: string): Promise<void> {
    await this.run.settledBefore(to);
    if (this.lost) throw new LeaseLostError(this.job.id, this.job.name);
    if (this.over) throw new InvalidTransitionError(this.job.id, 'settled: this run has ended', to);
  }

  private async write(checkpoint: Checkpoint, to: string, manager?: EntityManager): Promise<void> {
    if (manager === undefined) this.own.checkWritable(to);
    await this.predecessors(to);
    const askedAt = performance.now();
    let facts: RunFacts;
    try {
      facts = await this.port.checkpoint(this.job, checkpoint, manager);
    } catch (error) {
      throw this.refusal(error, to);
    }
    this.limit = facts.maxAttempts;
    if (manager === undefined) {
      this.limitUnsure = false;
      this.leaseEnd.set(facts, askedAt);
      return;
    }
    this.checkpointedIn = manager;
    if (checkpoint.extraRetries > 0) this.limitUnsure = true;
    if (checkpoint.keepAliveMs !== null) this.leaseEnd.moveIn(() => this.port.isOpen(manager), facts, askedAt);
  }

  /** A job that is gone after it was asked for completion was completed: that is what the handler has to hear. */
  private refusal(error: unknown, to: string): unknown {
    if (!(error instanceof LeaseLostError) || this.asked === null) return error;
    return new InvalidTransitionError(this.job.id, COMPLETED, to);
  }

  private async expireUnlessCompleted(): Promise<void> {
    const facts = await this.port.look(this.job).catch(() => null);
    if (facts !== null && !this.over) this.expire();
  }

  private expire(): void {
    if (this.lost) return;
    this.lose();
    this.run.leaseEnded();
  }
}

const COMPLETED = 'already completed by this run';
