import { JobCancelledError } from '../job/control-errors.js';
import { InvalidTransitionError, LeaseLostError } from '../job/errors.js';
import type { HandlerPolicy } from '../job/handler.js';
import type { Job } from '../job/job.js';
import { endingOf, RELEASED, type Outcome } from '../job/outcome.js';
import type { RunningJob } from './running-job.js';

/** One job of a batch. */
export interface BatchEntry {
  readonly job: RunningJob;
  /** Its outcome is decided, or being decided. */
  told: boolean;
  outcome: Outcome | null;
}

/** The run that decides how the lane of a batch goes on: the last one, or the one behind which all was released. */
export interface BatchEnd {
  readonly job: RunningJob;
  readonly outcome: Outcome;
}

/**
 * Which jobs of a batch have ended, and how.
 *
 * Of a lane the ends count in order only: what is told of a job stays back until all is known of those before it, and
 * behind one that runs again, or blocks the lane, everything is released, whatever was told.
 */
export class BatchTally {
  readonly entries: readonly BatchEntry[];
  /** Resolves when every run has ended. */
  readonly allEnded: Promise<BatchEnd>;
  private readonly byJob: ReadonlyMap<Job, BatchEntry>;
  private readonly ordered: boolean;
  /** How many have ended. Of a lane it is the place of the next one. */
  private ended = 0;
  /** Its handler's transaction may have completed it: how the lane goes on only the database knows. */
  private unsure: BatchEntry | null = null;
  private stopPlace: number | null = null;
  private closed = false;
  private readonly deciding = new Set<Promise<void>>();
  private waiters: (() => void)[] = [];
  private resolveEnd!: (end: BatchEnd) => void;

  /**
   * @param endOf how a run ends whose handler has asked for completion
   * @param onEnd a run has ended, of a lane in order; says whether its end is written, or its lease was gone
   */
  constructor(
    jobs: readonly RunningJob[],
    private readonly endOf: (job: RunningJob) => Outcome | Promise<Outcome>,
    private readonly onEnd: (job: RunningJob, outcome: Outcome) => boolean,
  ) {
    this.entries = jobs.map((job) => ({ job, told: false, outcome: null }));
    this.byJob = new Map(this.entries.map((entry) => [entry.job, entry]));
    this.ordered = jobs[0]!.seq !== null;
    this.allEnded = new Promise((resolve) => (this.resolveEnd = resolve));
  }

  /** Of which the database has to say whether its handler's transaction has completed it, before the lane goes on. */
  get unsureJob(): RunningJob | null {
    return this.unsure?.job ?? null;
  }

  /** The place of the job behind which everything was released, `null`: nothing was. */
  get stoppedAt(): number | null {
    return this.stopPlace;
  }

  /** What a handler may get: of a lane only the jobs before one that could not start. */
  get startable(): readonly BatchEntry[] {
    const told = this.entries.findIndex((entry) => entry.told);
    return this.ordered && told >= 0 ? this.entries.slice(0, told) : this.entries.filter((entry) => !entry.told);
  }

  of(job: Job): BatchEntry | undefined {
    return this.byJob.get(job);
  }

  mayTell(entry: BatchEntry): boolean {
    return !entry.told && !this.closed && !isLost(entry);
  }

  /** @param to what is told, for the message @throws when nothing may be told of it */
  checkTell(job: Job, to: string): BatchEntry {
    const entry = this.byJob.get(job);
    if (entry === undefined) throw new InvalidTransitionError(job.id, 'not of this batch', to);
    if (entry.told || this.closed) throw new InvalidTransitionError(job.id, 'settled: this run has ended', to);
    if (isLost(entry)) throw new LeaseLostError(job.id, job.name);
    return entry;
  }

  decide(entry: BatchEntry, outcome: Outcome | Promise<Outcome>): void {
    entry.told = true;
    if (!(outcome instanceof Promise)) {
      this.know(entry, outcome);
      return;
    }
    const deciding = outcome.then((known) => this.know(entry, known));
    this.deciding.add(deciding);
    void deciding.then(() => this.deciding.delete(deciding));
  }

  /** What was not told of goes back, and loses no attempt. */
  release(): void {
    for (const entry of this.entries) if (!entry.told) this.releaseOne(entry);
  }

  /** It goes back, whatever was told of it. */
  releaseOne(entry: BatchEntry): void {
    this.decide(entry, released(entry));
  }

  /** The database has answered whether the handler's transaction has completed the job. */
  confirmed(completed: boolean): void {
    const { unsure } = this;
    if (unsure === null) return;
    this.unsure = null;
    unsure.outcome = completed ? { kind: 'completed', result: null } : endingOf(unsure.outcome!);
    this.stopBehind(unsure, unsure.outcome);
    this.endInOrder();
  }

  /** Resolves when it is known what the end of a job says of the jobs behind it in its lane. */
  async counted(entry: BatchEntry): Promise<void> {
    if (!this.ordered) return;
    const place = this.entries.indexOf(entry);
    const counts = (): boolean => this.ended > place && this.unsure !== entry;
    // Nothing is told of one whose lease is gone.
    while (entry.told && !this.closed && !counts()) await this.progress();
  }

  /**
   * Resolves when the ends of the jobs before this one count.
   *
   * @throws {InvalidTransitionError} when one of them has not been told of, nor completed: it may yet run again
   */
  async endedBefore(job: Job, to: string): Promise<void> {
    const entry = this.byJob.get(job)!;
    const place = this.entries.indexOf(entry);
    while (this.ordered && !entry.told && (this.ended < place || this.unsure !== null)) {
      const open = this.entries.slice(0, place).find(({ told }) => !told);
      if (open === undefined) await this.progress();
      else if (open.job.control.completionEnded) this.decide(open, this.endOf(open.job));
      else throw new InvalidTransitionError(job.id, behind(open.job), to);
    }
  }

  /** Resolves when it is known how every run has ended; nothing can be told of them any more. */
  async close(): Promise<void> {
    // Of a lane nothing is handed over behind a job that could not start.
    this.release();
    while (this.deciding.size > 0) await Promise.all(this.deciding);
    this.closed = true;
    this.announce();
  }

  private know(entry: BatchEntry, outcome: Outcome): void {
    // Behind a job that runs again it was released meanwhile.
    if (entry.outcome !== null) return;
    entry.outcome = outcome;
    entry.job.control.end();
    if (this.ordered) this.endInOrder();
    else this.end(entry);
    this.resolveWhenDone();
  }

  private endInOrder(): void {
    while (this.unsure === null && this.ended < this.entries.length) {
      const entry = this.entries[this.ended]!;
      if (entry.outcome === null) break;
      const isWritten = this.end(entry);
      if (this.stopPlace !== null) continue;
      // The lane has gone with the lease.
      if (!isWritten) this.releaseBehind(entry);
      else if (entry.outcome.kind === 'unless-completed') this.unsure = entry;
      else this.stopBehind(entry, entry.outcome);
    }
    this.resolveWhenDone();
    this.announce();
  }

  private end(entry: BatchEntry): boolean {
    this.ended += 1;
    return this.onEnd(entry.job, entry.outcome!);
  }

  /** Everything behind a job that runs again, or blocks its lane, goes back, in its order and under its number. */
  private stopBehind(entry: BatchEntry, outcome: Outcome): void {
    const { policy } = entry.job;
    if (stopsLane(outcome, policy)) this.releaseBehind(entry);
  }

  private releaseBehind(entry: BatchEntry): void {
    const place = this.entries.indexOf(entry);
    this.stopPlace = place;
    for (const after of this.entries.slice(place + 1)) {
      after.told = true;
      after.outcome = released(after);
      after.job.control.end();
    }
  }

  private resolveWhenDone(): void {
    if (this.ended < this.entries.length || this.unsure !== null) return;
    const { job, outcome } = this.entries.at(this.stopPlace ?? -1)!;
    this.resolveEnd({ job, outcome: outcome! });
  }

  private async progress(): Promise<void> {
    await new Promise<void>((resolve) => this.waiters.push(resolve));
  }

  private announce(): void {
    for (const resolve of this.waiters.splice(0)) resolve();
  }
}

/** Whether the jobs behind one that has ended so must wait. */
export function stopsLane(outcome: Outcome, policy: HandlerPolicy): boolean {
  return outcome.kind !== 'completed' && (outcome.kind !== 'dead' || policy.onDead !== 'skip');
}

/** Another runner may have the job: nothing is written of it here. */
export const isLost = ({ job }: BatchEntry): boolean => job.abortReason instanceof LeaseLostError;

/** It was told to stop since its job is cancelled. */
export const isCancelled = ({ job }: BatchEntry): boolean => job.abortReason instanceof JobCancelledError;

/** A handler that has asked for completion may have got it. */
function released({ job }: BatchEntry): Outcome {
  if (!job.control.askedForCompletion) return RELEASED;
  return { kind: 'unless-completed', otherwise: RELEASED, threw: true };
}

const behind = ({ id, seq }: Job): string => `behind job ${id} in its lane, number ${seq}, which has not ended,`;
