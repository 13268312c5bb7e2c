import type { EntityManager } from 'typeorm';
import type { Outcome } from '../job/outcome.js';
import { isCancelled, stopsLane, type BatchEntry } from './batch-tally.js';
import type { OwnTransaction } from './own-transaction.js';
import { encodeResult } from './result.js';

/** What the handler has told of a job, which counts when the transaction has ended. */
type Verdict =
  | { readonly completed: true; readonly result: string | null }
  | {
      readonly completed: false;
      readonly outcome: Outcome;
      readonly error: unknown;
      /** What it wrote was undone, by a savepoint. */
      readonly undone: boolean;
    };

const UNDO = new Error('told of as failed');

/** The transaction that a batch is: what is told of its jobs waits for its commit. */
export class BatchTransaction {
  private readonly verdicts = new Map<BatchEntry, Verdict>();
  private readonly telling = new Set<Promise<void>>();
  private own!: OwnTransaction;

  /** @param onReject what a rejected job means for the others */
  constructor(readonly onReject: 'job' | 'batch') {}

  get manager(): EntityManager {
    return this.own.manager;
  }

  /** Opens it for all jobs that are handed over. */
  async begin(entries: readonly BatchEntry[]): Promise<void> {
    const [first, ...others] = entries.map(({ job }) => job.control.own);
    this.own = first!;
    await this.own.begin();
    for (const other of others) other.join(this.own);
  }

  complete(entry: BatchEntry, result: unknown): void {
    const { name, policy } = entry.job;
    this.verdicts.set(entry, { completed: true, result: encodeResult(name, result, policy.retentionMs) });
    entry.told = true;
  }

  /** @param undone what it wrote is rolled back already, by a savepoint */
  fail(entry: BatchEntry, error: unknown, deciding: Promise<Outcome>, undone: boolean): Promise<void> {
    entry.told = true;
    const told = deciding.then((outcome) => {
      this.verdicts.set(entry, { completed: false, outcome, error, undone });
    });
    this.telling.add(told);
    return told.then(() => void this.telling.delete(told));
  }

  /** Whether nothing behind the job in its lane may run now. */
  stopsAt(entry: BatchEntry): boolean {
    const verdict = this.verdicts.get(entry);
    const isOrdered = entry.job.seq !== null;
    return isOrdered && verdict?.completed === false && stopsLane(verdict.outcome, entry.job.policy);
  }

  /**
   * A job in a savepoint of its own, which is rolled back when it fails, by a throw or by what is told of it; but where one
   * that fails is the end of all.
   *
   * @throws what the work has thrown
   */
  async run(entry: BatchEntry, work: () => unknown): Promise<void> {
    const inside = async (): Promise<void> => {
      const result = await work();
      if (!entry.told) this.complete(entry, result);
    };
    if (this.onReject === 'batch') return inside();
    try {
      await this.manager.transaction(async () => {
        await inside();
        await this.told();
        if (this.outcomeOf(entry) !== null) throw UNDO;
        const { handler, abortReason } = entry.job;
        // Its row was written beside the transaction, which above this level could not commit with it.
        if (handler.isolation !== 'READ COMMITTED' && isCancelled(entry)) throw abortReason;
      });
    } catch (error) {
      if (error !== UNDO) throw error;
      const verdict = this.verdicts.get(entry);
      if (verdict?.completed === false) this.verdicts.set(entry, { ...verdict, undone: true });
    }
  }

  /** Resolves when it is known how the told failures end. */
  async told(): Promise<void> {
    await Promise.all(this.telling);
  }

  outcomeOf(entry: BatchEntry): Outcome | null {
    const verdict = this.verdicts.get(entry);
    return verdict?.completed === false ? verdict.outcome : null;
  }

  /** The failure that is the end of the whole batch, where there is one. */
  get fatal(): { readonly entry: BatchEntry; readonly error: unknown; readonly rejected: boolean } | null {
    for (const [entry, verdict] of this.verdicts) {
      if (verdict.completed) continue;
      const rejected = verdict.outcome.kind === 'dead' && verdict.outcome.reason === 'rejected';
      const spoils = this.onReject === 'batch' || (!verdict.undone && this.stopsAt(entry));
      if (spoils) return { entry, error: verdict.error, rejected: rejected && this.onReject === 'batch' };
    }
    return null;
  }

  /**
   * Completes the jobs that were told of as completed and commits.
   *
   * @param entries those jobs, and those that count as completed since nothing was told of them
   * @throws when nothing is committed, or only the database knows
   */
  async commit(entries: readonly BatchEntry[]): Promise<void> {
    const completions = entries.map((entry) => {
      const { claimed, control, policy } = entry.job;
      const verdict = this.verdicts.get(entry);
      const { completion } = control.own;
      const result = completion?.result ?? (verdict?.completed ? verdict.result : null);
      return { job: claimed, result, retentionMs: policy.retentionMs };
    });
    const controls = entries.map(({ job }) => job.control);
    try {
      for (const control of controls) await control.commitBegins();
      await this.own.commit(completions);
      for (const control of controls) control.committed();
    } catch (error) {
      for (const control of controls) control.commitFailed(error);
      throw error;
    }
  }

  async rollback(atOnce: boolean): Promise<void> {
    await this.own.rollback(atOnce);
  }
}
