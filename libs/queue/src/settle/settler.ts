import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Logger } from '@nestjs/common';
import { messageOf } from '../job/errors.js';
import type { LeaseBook } from '../job/lease-book.js';
import { endingOf } from '../job/outcome.js';
import { RetryDelay } from '../job/retry-delay.js';
import type { Connection } from '../postgres/connection.js';
import { isRetryable, isUnavailable } from '../postgres/sqlstate.js';
import { completeJobs } from '../statements/complete-jobs.js';
import { endLeases } from '../statements/end-leases.js';
import { findUnsettled } from '../statements/find-unsettled.js';
import { finishJobs, type FinishedRow } from '../statements/finish-jobs.js';
import { requeueJobs, type RequeuedRow } from '../statements/requeue-jobs.js';
import { endLanes, type LaneEnd } from '../statements/lanes.js';
import { run, type SqlClient } from '../statements/statement.js';
import { beginForgettably } from '../statements/transaction.js';
import { SURVEY_MESSAGE } from '../statements/wake-up.js';
import { Gathered, type Batch } from './gathered.js';
import { RestingLanes } from './resting-lanes.js';
import {
  cancelledRun,
  divide,
  settlementOf,
  type EndedRun,
  type LaneSettlement,
  type Settlement,
  type SettlementBy,
} from './settlement.js';

/** What came of a settlement, told to the runner. */
export type Settled =
  | { readonly run: EndedRun; readonly result: 'written'; readonly requeued?: RequeuedRow }
  /** The handler's own transaction had completed the job. */
  | { readonly run: EndedRun; readonly result: 'completed-by-handler' }
  /** The job was no longer this run's: nothing was written. */
  | { readonly run: EndedRun; readonly result: 'lost' };

export interface SettlerSettings {
  /** How long cancelled jobs are kept. */
  readonly finishedRetentionMs: number;
}

export interface SettlerEvents {
  settled(settled: Settled): void;
  /** Lanes are ready, or will be: what to wake runners with. */
  lanesReady(messages: readonly string[]): void;
  /** Everything that has ended so far is written: what was kept for it may be free. */
  caughtUp(): void;
}

const NOTHING = { settlements: [], lanes: [], ended: [], atRest: [] } as const;

/** How often it is looked whether somebody else's transaction has ended: the handler's, or a rescuer's. */
const LOOK_AGAIN_MS = 200;

/**
 * Writes outcomes, as many in one transaction as have gathered while the last one was under way. Nothing waits for a
 * timer, and a failed write is repeated until it has been done: the statements do nothing twice.
 */
export class Settler {
  private readonly gathered: Gathered;
  private readonly resting: RestingLanes;
  private working = false;
  private readonly delay = new RetryDelay({ minMs: 100, maxMs: 5_000 });
  private idleWaiters: (() => void)[] = [];
  private readonly stopSignal = new AbortController();
  private readonly openTransactions = new Set<NodeJS.Timeout>();

  constructor(
    private readonly connection: Connection,
    private readonly book: LeaseBook,
    private readonly events: SettlerEvents,
    private readonly logger: Logger,
    private readonly settings: SettlerSettings,
  ) {
    this.gathered = new Gathered(book);
    const ready = (messages: readonly string[]): void => events.lanesReady(messages);
    this.resting = new RestingLanes(connection, ready, logger, this.stopSignal.signal, () => this.begin());
  }

  /** Runs that have ended and are not written yet. */
  get backlog(): number {
    return this.gathered.size;
  }

  settle(run: EndedRun): void {
    this.enqueue(settlementOf(run));
  }

  /** Gives a lane back, behind the settlements of its jobs. */
  endLane(entry: LaneEnd): void {
    this.enqueue({ write: 'end-lane', entry });
  }

  private enqueue(settlement: Settlement | LaneSettlement): void {
    this.gathered.add(settlement);
    this.begin();
  }

  private begin(): void {
    if (this.working) return;
    this.working = true;
    // After this turn of the event loop: what ends in the same turn goes out together.
    setImmediate(() => void this.work());
  }

  /** Resolves when everything that has ended is written. */
  async idle(): Promise<void> {
    if (!this.working && this.openTransactions.size === 0) return;
    await new Promise<void>((resolve) => this.idleWaiters.push(resolve));
  }

  /** Gives up writing: what is left stays with its leases. */
  stop(): void {
    this.stopSignal.abort();
    for (const timer of this.openTransactions) clearTimeout(timer);
    this.resting.stop();
  }

  private async work(): Promise<void> {
    while (!this.stopSignal.signal.aborted && this.hasWork()) {
      await this.writeUntilDone(this.gathered.take());
    }
    this.working = false;
    this.announceIdle();
  }

  private hasWork(): boolean {
    return !this.gathered.none || !this.resting.none;
  }

  private announceCaughtUp(): void {
    if (this.gathered.size === 0) this.events.caughtUp();
  }

  private announceIdle(): void {
    if (this.working || this.openTransactions.size > 0) return;
    for (const resolve of this.idleWaiters.splice(0)) resolve();
  }

  private async writeUntilDone(batch: Batch): Promise<void> {
    for (let repeated = false; ;) {
      try {
        await this.write(batch, repeated);
        this.delay.reset();
        return;
      } catch (error) {
        if (this.stopSignal.signal.aborted) return;
        // Of anything else it is sure that nothing was written.
        repeated ||= isUnavailable(error);
        const { length } = batch.settlements;
        if (!isRetryable(error) && length > 0) return this.writeApart(batch, error);
        this.logger.warn(`Settling ${length} runs failed, will try again: ${messageOf(error)}`);
        await this.delay.wait(this.stopSignal.signal);
        if (this.stopSignal.signal.aborted) return;
      }
    }
  }

  /** One run's data spoils the statement for all: each is written by itself, and that one is put back. */
  private async writeApart(batch: Batch, cause: unknown): Promise<void> {
    const { runner, settlements } = batch;
    const [only] = settlements;
    if (settlements.length === 1 && only) await this.putBack(only, cause);
    else
      for (const settlement of settlements)
        await this.writeUntilDone({ ...NOTHING, runner, settlements: [settlement] });
    await this.writeUntilDone({ ...batch, settlements: [] });
  }

  private async putBack({ run: ended }: Settlement, cause: unknown): Promise<void> {
    const { job } = ended;
    this.logger.error(`The end of job ${job.id} (${job.name}) cannot be written: ${messageOf(cause)}`);
    if (endingOf(ended.outcome).kind === 'retry') {
      this.events.settled({ run: ended, result: 'lost' });
      return;
    }
    const error = new Error('The end of the run could not be written.', { cause });
    const settlement = settlementOf({ ...ended, outcome: { kind: 'retry', delayMs: 60_000, error } });
    await this.writeUntilDone({ ...NOTHING, runner: job.runner, settlements: [settlement] });
  }

  private async write({ runner, settlements, lanes, ended, atRest }: Batch, repeated: boolean): Promise<void> {
    const { finishedRetentionMs: keepCancelledMs } = this.settings;
    const { complete, finish, requeue, confirm, nothing } = divide(settlements);
    if (nothing.length === settlements.length && lanes.length + ended.length === 0) {
      this.report(nothing, 'all', repeated);
      this.announceCaughtUp();
      return this.resting.look();
    }
    // Forgotten by a crash of the server, a lease whose jobs are gone is dropped by the next heartbeat.
    const onlyLeases = nothing.length === settlements.length && lanes.length + atRest.length === 0;
    const answers = await this.resting.lookWith(
      (client) => {
        const send = <T>(entries: readonly unknown[], statement: () => Promise<T[]>): Promise<T[]> =>
          entries.length > 0 ? statement() : Promise.resolve([]);
        return Promise.all([
          send(complete, () =>
            run(client, completeJobs, { runner, entries: complete.map((s) => s.entry), endedLeases: [] }),
          ),
          send(finish, () => run(client, finishJobs, { runner, entries: finish.map((s) => s.entry), keepCancelledMs })),
          send(requeue, () =>
            run(client, requeueJobs, { runner, entries: requeue.map((s) => s.entry), keepCancelledMs }),
          ),
          send(confirm, () => run(client, findUnsettled, { runner, entries: confirm.map((s) => s.entry) })),
          // Behind the settlements, so that they see which jobs come next.
          send(lanes, () => run(client, endLanes, { runner, lanes })),
          this.endLeases(client, runner, ended),
        ]);
      },
      onlyLeases ? beginForgettably : undefined,
    );
    for (const lease of ended) this.book.close(lease);
    const [completed, finished, requeued, unsettled, freed] = answers;
    this.resting.tell(freed);
    this.resting.add(lanes, freed);
    this.resting.add(atRest);
    // The first time may have told of lanes that are ready, and nobody has heard it.
    if (repeated && lanes.length > 0) this.events.lanesReady([SURVEY_MESSAGE]);
    // On its way before the next handlers start, who may block the event loop; or with what has gathered meanwhile.
    const looked = this.resting.none || this.gathered.size > 0 ? null : this.resting.look();
    if (looked !== null) await nextTurn();
    this.report(complete, completed[0] === 'all' ? 'all' : new Set(completed[0]), repeated);
    this.report(nothing, 'all', repeated);
    for (const [written, rows] of [
      [finish, finished],
      [requeue, requeued],
    ] as const) {
      const byId = new Map<string, FinishedRow | RequeuedRow>(rows.map((row) => [row.id, row]));
      this.report(written, byId, repeated, byId);
    }
    this.confirmed(confirm, new Map(unsettled.map(({ id, mine }) => [id, mine])));
    this.announceCaughtUp();
    await looked;
  }

  private async endLeases(client: SqlClient, runner: string, leases: readonly number[]): Promise<unknown> {
    return leases.length > 0 ? run(client, endLeases, { runner, leases }) : undefined;
  }

  /** A batch that was sent twice may have been written the first time: then its runs are missing, and are not lost. */
  private report(
    settlements: readonly Settlement[],
    taken: { has(id: string): boolean } | 'all',
    repeated: boolean,
    rows?: ReadonlyMap<string, FinishedRow | RequeuedRow>,
  ): void {
    for (const settlement of settlements) {
      const { unsure, entry } = settlement;
      const row = rows?.get(entry.id);
      const ended = row?.cancelled ? cancelledRun(settlement.run, row.cancelled) : settlement.run;
      const written = taken === 'all' || taken.has(entry.id);
      if (unsure && !written) {
        this.confirmLater(settlement);
        continue;
      }
      if (unsure) this.gathered.settled(ended.job.runner, ended.job.lease);
      const requeued = row !== undefined && 'message' in row && row.cancelled === null ? row : undefined;
      if (written || repeated) this.events.settled({ run: ended, result: 'written', ...(requeued && { requeued }) });
      else this.events.settled({ run: ended, result: 'lost' });
    }
  }

  /**
   * A job that is gone was completed by its handler; one that is there was not, or its transaction is still open, or a
   * rescuer has put it back since.
   */
  private confirmed(confirm: readonly SettlementBy<'confirm'>[], unsettled: ReadonlyMap<string, boolean>): void {
    for (const settlement of confirm) {
      const { run: ended, entry, otherwise } = settlement;
      const mine = unsettled.get(entry.id);
      if (mine && otherwise === null) this.lookLater(settlement);
      else if (mine) this.gathered.add(otherwise!);
      else {
        this.gathered.settled(ended.job.runner, ended.job.lease);
        const completed = mine === undefined && otherwise !== null;
        this.events.settled({ run: ended, result: completed ? 'completed-by-handler' : 'lost' });
      }
    }
  }

  /** The row is locked: the handler returned and left its transaction open. Its end decides, whenever it comes. */
  private confirmLater(otherwise: Settlement): void {
    this.lookLater({ run: otherwise.run, write: 'confirm', entry: otherwise.entry, otherwise });
  }

  private lookLater(confirm: SettlementBy<'confirm'>): void {
    const timer = setTimeout(() => {
      this.openTransactions.delete(timer);
      this.enqueue(confirm);
    }, LOOK_AGAIN_MS);
    this.openTransactions.add(timer);
  }
}
