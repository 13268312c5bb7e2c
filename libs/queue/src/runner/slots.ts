import type { RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import { MAX_CLAIM, type Demand } from '../claim/claimer.js';
import { Batches, type BatchLoad } from './batches.js';
import { RateMeter } from './rate-meter.js';
import { TransactionSlots } from './transaction-slots.js';

export interface SlotsSettings {
  readonly min: number;
  readonly max: number;
  readonly prefetchMs: number;
  /** How many runs may be transactions at once: each takes a connection of the application's pool. */
  readonly maxTransactions: number;
}

/** Under load there is always something ahead: what has started must not stay in memory for that. */
const MAX_STARTED_KEPT = 256;

/**
 * Jobs that take longer than so many prefetches are slow. Ahead of faster ones a job waits about a prefetch for its slot,
 * or as long as they take, when runs that began together end together: until then another process could have run it.
 */
const SLOW_PREFETCHES = 4;

/** So are those that take longer than that, and than a prefetch: what is ahead is given back when nothing starts for long. */
const SLOW_MS = 100;

const slowMs = (prefetchMs: number): number => Math.min(SLOW_PREFETCHES * prefetchMs, Math.max(prefetchMs, SLOW_MS));

const NOTHING: Demand = { limit: 0, slots: 0, run: 0 };

/** What runs here, what waits ahead of its slot, and how much more this process wants. */
export class Slots {
  /** Taken ahead, in the order of the claims. */
  private ahead: ClaimedJob[] = [];
  private next = 0;
  private running = 0;
  /** In hand behind others of their lanes: cannot start before those have ended. */
  private behind = 0;
  /** A slot is kept free for a suspect, which is claimed only when it can start at once. */
  reserved = false;
  private readonly transactions: TransactionSlots;
  private readonly perHandler = new Map<RegisteredHandler, number>();
  private readonly rate: RateMeter;

  constructor(
    private readonly settings: SlotsSettings,
    private readonly batches = new Batches(),
  ) {
    this.rate = new RateMeter(settings.prefetchMs, slowMs(settings.prefetchMs));
    const most = this.limitsTransactions ? settings.maxTransactions : Infinity;
    this.transactions = new TransactionSlots(most, settings.prefetchMs, slowMs(settings.prefetchMs));
  }

  get runningCount(): number {
    return this.running;
  }

  get full(): boolean {
    return this.running >= this.settings.max;
  }

  /** Whether jobs take next to no time. */
  get tiny(): boolean {
    return this.rate.tiny;
  }

  /** Taken and not started, followers in lanes included. */
  get waitingCount(): number {
    return this.aheadCount + this.behind;
  }

  get aheadCount(): number {
    return this.ahead.length - this.next;
  }

  /** How many more runs of a handler with a limit of its own there may be: jobs, or batches of them. */
  room(handler: RegisteredHandler): number {
    const load = this.batches.of(handler);
    if (load !== undefined) return this.roomForBatches(load);
    const room = (handler.concurrency ?? Infinity) - (this.perHandler.get(handler) ?? 0);
    return handler.isolation === null ? room : Math.min(room, this.roomForTransactions);
  }

  private roomForBatches(load: BatchLoad): number {
    return load.transactional ? Math.min(load.room, this.transactions.startable - load.slotsAhead) : load.room;
  }

  /** How many more jobs of transactional handlers may be taken. */
  get roomForTransactions(): number {
    return this.transactions.room(performance.now());
  }

  /** How many of them would start at once. */
  get startableTransactions(): number {
    return this.transactions.startable;
  }

  /** Whether there may be more slots than transactions. */
  get limitsTransactions(): boolean {
    return this.settings.maxTransactions < this.settings.max;
  }

  /**
   * What to claim now, counted in runs: a batch is one. A limit of 0: nothing.
   *
   * @param mayTakeAhead `false` while a job waits for a slot: what is ahead runs out then, and leaves it one
   */
  demand(now: number, mayTakeAhead: boolean): Demand {
    const { min, max } = this.settings;
    this.transactions.mayTakeAhead = mayTakeAhead;
    const ahead = mayTakeAhead ? Math.max(this.rate.ahead(now), this.transactions.ahead(now)) : 0;
    const startable = this.running + this.aheadCount - (this.batches.none ? 0 : this.batches.spared);
    const inHand = startable + this.behind;
    // What waits behind others of its lane must not keep the other slots empty.
    if (startable >= min && inHand >= min + ahead / 2) return NOTHING;
    const limit = Math.min(MAX_CLAIM, Math.max(max - startable, max + Math.ceil(ahead * 1.5) - inHand));
    return { limit, slots: Math.max(0, max - startable), run: Math.min(MAX_CLAIM, this.inTurn) };
  }

  /** How many jobs of one lane are claimed at once: they run one after another. */
  get inTurn(): number {
    return this.rate.inTurn();
  }

  /** So many more jobs wait behind others of their lanes, or fewer. */
  changeBehind(by: number): void {
    this.behind += by;
  }

  /** A suspect gets the next free slot: its start is recorded already. */
  take(job: ClaimedJob, handler: RegisteredHandler): void {
    const load = this.batches.of(handler);
    if (load !== undefined) {
      load.ahead += 1;
      this.place(job);
      return;
    }
    this.countRoom(handler, 1);
    if (handler.isolation === null || this.transactions.enter(job)) this.place(job);
    else this.behind += 1;
  }

  private place(job: ClaimedJob): void {
    if (job.suspect) this.ahead.splice(this.next, 0, job);
    else this.ahead.push(job);
  }

  /** There is a free slot, and something that may take it. */
  get canStart(): boolean {
    return this.next < this.ahead.length && this.running < this.settings.max - (this.reserved ? 1 : 0);
  }

  /** The next job that has a free slot, which it may share with others. */
  start(now: number): ClaimedJob | undefined {
    if (!this.canStart) return undefined;
    const job = this.batches.none ? this.shift() : this.startable();
    if (job === undefined) return undefined;
    this.running += 1;
    this.rate.begin(now);
    return job;
  }

  /** Jobs that share the slot of one that has started: at most so many of those that fit. */
  join(handler: RegisteredHandler, most: number, fits: (job: ClaimedJob) => boolean): ClaimedJob[] {
    const joining: ClaimedJob[] = [];
    const waiting = this.ahead.slice(this.next).filter((job) => {
      const joins = joining.length < most && fits(job);
      if (joins) joining.push(job);
      return !joins;
    });
    this.ahead = waiting;
    this.next = 0;
    this.batches.of(handler)!.ahead -= joining.length;
    return joining;
  }

  /** Keeps the room that a run of this handler had for the one behind it in its lane, which is taken later. */
  keepRoom(handler: RegisteredHandler): void {
    const load = this.batches.of(handler);
    if (load !== undefined) {
      load.kept += 1;
      return;
    }
    if (handler.isolation !== null) this.transactions.keep();
    this.countRoom(handler, 1);
  }

  /** The run for which room was kept is taken now, or never. */
  giveRoom(handler: RegisteredHandler): void {
    const load = this.batches.of(handler);
    if (load !== undefined) {
      load.kept -= 1;
      return;
    }
    this.countRoom(handler, -1);
    if (handler.isolation !== null) this.leaveTransaction();
  }

  /** What waits for a connection may have the one that is free again. */
  private leaveTransaction(): void {
    const next = this.transactions.leave();
    if (next === undefined) return;
    this.behind -= 1;
    this.place(next);
  }

  private countRoom(handler: RegisteredHandler, by: number): void {
    if (handler.concurrency !== null) this.perHandler.set(handler, (this.perHandler.get(handler) ?? 0) + by);
  }

  end(handler: RegisteredHandler, durationMs: number): void {
    this.running -= 1;
    const load = this.batches.of(handler);
    if (handler.isolation !== null) this.transactions.end(durationMs);
    if (load === undefined) this.giveRoom(handler);
    else {
      load.running -= 1;
      if (load.transactional) this.leaveTransaction();
    }
    this.rate.end(durationMs);
  }

  /** There was nothing to claim: when nothing runs either, the measured rate says nothing about what comes next. */
  rest(): void {
    this.transactions.rest();
    if (this.running === 0 && this.aheadCount + this.behind === 0) this.rate.idle();
  }

  /** Takes back jobs that have not started. */
  withdraw(which: (job: ClaimedJob) => boolean, handlerOf: (job: ClaimedJob) => RegisteredHandler): ClaimedJob[] {
    const withoutTransaction = this.transactions.withdraw(which);
    this.behind -= withoutTransaction.length;
    for (const job of withoutTransaction) this.countRoom(handlerOf(job), -1);
    const waiting = this.ahead.slice(this.next);
    const withdrawn = waiting.filter(which);
    this.ahead = waiting.filter((job) => !which(job));
    this.next = 0;
    for (const job of withdrawn) {
      const load = this.batches.ofJob(job);
      if (load === undefined) this.giveRoom(handlerOf(job));
      else load.ahead -= 1;
    }
    return [...withdrawn, ...withoutTransaction];
  }

  private shift(): ClaimedJob | undefined {
    const job = this.ahead[this.next];
    if (job === undefined) return undefined;
    this.next += 1;
    if (this.next === this.ahead.length || this.next === MAX_STARTED_KEPT) {
      this.ahead = this.ahead.slice(this.next);
      this.next = 0;
    }
    return job;
  }

  /** One batch may wait for its connection, in turn with others: else single runs could keep it from one for ever. */
  private mayStart(load: BatchLoad): boolean {
    return !load.full && (!load.transactional || load.running === 0 || this.transactions.startable > 0);
  }

  private startBatch(load: BatchLoad): void {
    load.ahead -= 1;
    load.running += 1;
    if (load.transactional) this.transactions.keep();
  }

  /** The first but for those whose handler has as many batches under way as it may. */
  private startable(): ClaimedJob | undefined {
    for (let index = this.next; index < this.ahead.length; index++) {
      const load = this.batches.ofJob(this.ahead[index]!);
      if (load !== undefined && !this.mayStart(load)) continue;
      if (load !== undefined) this.startBatch(load);
      return index === this.next ? this.shift() : this.ahead.splice(index, 1)[0];
    }
    return undefined;
  }
}
