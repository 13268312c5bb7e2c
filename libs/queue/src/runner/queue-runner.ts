import type { Logger } from '@nestjs/common';
import type { ClientConfig } from 'pg';
import { Claimer } from '../claim/claimer.js';
import { Feeds } from '../claim/feeds.js';
import { messageOf } from '../job/errors.js';
import type { ClaimedJob } from '../job/job.js';
import { LeaseBook } from '../job/lease-book.js';
import { RetryDelay } from '../job/retry-delay.js';
import { withinMs } from '../job/time-limit.js';
import type { LoopBoard } from '../maintenance/loop-board.js';
import type { Rescued, Transact } from '../maintenance/rescuer.js';
import { Connection } from '../postgres/connection.js';
import { Listener } from '../postgres/listener.js';
import type { Notifier } from '../postgres/notifier.js';
import type { EndedRun } from '../settle/settlement.js';
import { Settler, type Settled } from '../settle/settler.js';
import type { HeartbeatRow } from '../statements/runners.js';
import type { SqlClient } from '../statements/statement.js';
import type { SurveyRow } from '../statements/survey-feeds.js';
import { parseWakeUp, SURVEY_MESSAGE, type WakeUp } from '../statements/wake-up.js';
import { JobRuns, type JobRunsParts, type JobRunsSettings } from './job-runs.js';
import { Membership } from './membership.js';
import { eventOf } from './run-events.js';
import { Upkeep } from './upkeep.js';
import { WakeUpDelay } from './wake-up-delay.js';
import { Wakeup } from './wakeup.js';

export interface RunnerSettings extends JobRunsSettings {
  /** Name of the queue instance, for the names of the loops. */
  readonly instance: string;
  readonly schema: string;
  readonly namedStatements: boolean;
  readonly options: ClientConfig;
  readonly listenOptions: ClientConfig;
  readonly channels: readonly string[] | null;
  readonly pollMs: number;
  readonly leaseMs: number;
  readonly blockedLimitMs: number;
  readonly shutdownGraceMs: number;
  readonly pruneEveryMs: number;
}

export interface RunnerParts extends Pick<
  JobRunsParts,
  'registry' | 'policies' | 'completion' | 'logger' | 'emit' | 'observed'
> {
  readonly notifier: Notifier;
  readonly board: LoopBoard | null;
  /** Makes good what the boot could not do while the database was down. */
  readonly prepare: () => Promise<void>;
}

/** Settlements that may wait before claims pause until the database has caught up. */
const MAX_BACKLOG = 5_000;

/** How long aborted handlers may take to end, and each other step of a shutdown. */
const ABORT_WAIT_MS = 2_000;
const STEP_LIMIT_MS = 5_000;

/**
 * The part of a process that claims, executes and settles. The one place that knows every stage; the stages do not know
 * each other: feeds → ClaimedJob → Outcome → row.
 */
export class QueueRunner {
  private readonly logger: Logger;
  private readonly book = new LeaseBook();
  private readonly wakeup = new Wakeup();
  private readonly wakeUps = new WakeUpDelay((wakeUp) => this.onWakeUp(wakeUp));
  private readonly delay = new RetryDelay({ minMs: 100, maxMs: 5_000 });
  private readonly stopSignal = new AbortController();
  private readonly claimConnection: Connection;
  private readonly settleConnection: Connection;
  private readonly listener: Listener;
  private readonly membership: Membership;
  private readonly feeds: Feeds;
  private readonly claimer: Claimer;
  private readonly runs: JobRuns;
  private readonly settler: Settler;
  private readonly upkeep: Upkeep;
  private suspectsMayWait = true;
  /** Those of a handler at its limit were not asked for: they come first when a run has ended. */
  private suspectsSkipped = false;
  private claiming: Promise<void> | null = null;

  constructor(
    private readonly settings: RunnerSettings,
    private readonly parts: RunnerParts,
  ) {
    const { schema, namedStatements, options, listenOptions, channels } = settings;
    const { book, logger } = { book: this.book, logger: parts.logger };
    this.logger = logger;
    const onBroken = (): void => this.membership.distrust();
    this.claimConnection = new Connection({ options, schema, namedStatements, role: 'claim', onBroken });
    this.settleConnection = new Connection({ options, schema, namedStatements, role: 'settle', onBroken });
    this.listener = this.makeListener({ options: listenOptions, schema, namedStatements });
    this.membership = this.makeMembership();
    const runnerId = (): string => this.membership.id;
    this.runs = new JobRuns(settings, {
      ...parts,
      book,
      mayStart: () => this.membership.trusted,
      ended: (ended) => this.onEnded(ended),
      wanting: () => this.wakeup.signal(),
    });
    this.feeds = new Feeds(this.runs.handlerGroups(), channels && new Set(channels));
    this.claimer = new Claimer(this.claimConnection, this.feeds, book, { schema, channels }, runnerId);
    this.settler = new Settler(this.settleConnection, book, (settled) => this.onSettled(settled), logger);
    this.upkeep = new Upkeep(
      { ...settings, survey: { ...this.feeds.surveyed(), channels }, rescueMs: settings.leaseMs / 4 },
      (work) => this.transact(work),
      { surveyed: (rows) => this.onSurveyed(rows), rescue: () => this.rescue() },
      logger,
      parts.board,
    );
  }

  /** Starts in the background; a database that is down is tried again until it is there. */
  start(): void {
    if (this.parts.registry.handlers().length === 0) {
      this.logger.log('No job handlers here: this process only sends jobs.');
      return;
    }
    this.listener.start();
    this.membership.start();
    this.upkeep.start();
    this.claiming = this.claimUntilStopped();
  }

  /** Something this process itself has put into the queue: no need to wait for the notification. */
  tell(messages: readonly string[]): void {
    for (const message of messages) {
      const wakeUp = parseWakeUp(message);
      if (wakeUp !== undefined) this.onWakeUp(wakeUp);
    }
  }

  /** Nothing is claimed or started any more; what was taken ahead goes back. */
  stopClaiming(): void {
    if (this.stopSignal.signal.aborted) return;
    this.stopSignal.abort();
    this.wakeup.signal();
    this.membership.release();
    this.runs.stop();
  }

  /** Waits for the running handlers, aborts them when the grace is over, and writes what ended. The rest is left to its lease. */
  async drain(): Promise<void> {
    this.stopClaiming();
    if (this.claiming === null) return;
    await this.attempt('Ending the last claim', this.claiming);
    await this.attempt('Ending the upkeep', Promise.all([this.upkeep.poll.stop(), this.upkeep.prune.stop()]));
    await this.attempt('Announcing the shutdown', this.membership.announceStop());
    await this.runs.drain(this.settings.shutdownGraceMs, ABORT_WAIT_MS);
    await this.attempt('Writing the last outcomes', this.settler.idle());
    this.settler.stop();
    await this.attempt('Ending the rescue', this.upkeep.rescue.stop());
    await this.membership.stopBeating();
    await this.attempt('Leaving the fleet', this.membership.leave());
    await this.attempt('Sending the last wake-ups', this.parts.notifier.idle());
    this.wakeUps.stop();
    await this.attempt('Closing', this.close());
  }

  private async close(): Promise<void> {
    await Promise.all([this.listener.stop(), this.claimConnection.close(), this.settleConnection.close()]);
  }

  // ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────

  private async claimUntilStopped(): Promise<void> {
    while (!this.stopping) {
      try {
        if (!(await this.claimOnce())) {
          this.runs.rest();
          await this.wakeup.wait(this.runs.demand(true).limit > 0 ? this.feeds.msUntilDue() : null);
        }
        this.delay.reset();
      } catch (error) {
        if (this.stopping) return;
        this.logger.warn(`Claiming failed, will try again: ${messageOf(error)}`);
        await this.delay.wait(this.stopSignal.signal);
        this.upkeep.poll.hurry();
      }
    }
  }

  /** Claims what there is room for; says whether it is worth while to go on at once. */
  private async claimOnce(): Promise<boolean> {
    if (!this.membership.trusted) await this.enter();
    if (this.stopping || this.settler.backlog > MAX_BACKLOG) return false;
    // Declared dead in the meantime: enters again.
    if (!this.membership.trusted) return true;
    if (this.suspectsMayWait && this.runs.makeRoomForSuspect()) await this.claimSuspect();
    const demand = this.runs.demand(!this.feeds.needSlot());
    if (demand.limit === 0 || !this.feeds.hasWork(demand.slots)) return false;
    const jobs = await this.claimer.claim(demand);
    await this.accept(jobs);
    return true;
  }

  private async enter(): Promise<void> {
    await this.parts.prepare();
    await this.membership.join();
    this.upkeep.poll.hurry();
  }

  private async claimSuspect(): Promise<void> {
    const job = await this.claimer.claimSuspect();
    this.runs.endReservation();
    if (job !== undefined) await this.accept([job]);
    else {
      this.suspectsMayWait = false;
      this.suspectsSkipped = !this.feeds.haveRoom();
      this.runs.startReady();
    }
  }

  /** A claim that was under way when this process was declared dead is lost with all the rest. */
  private async accept(jobs: readonly ClaimedJob[]): Promise<void> {
    await this.runs.accept(jobs.filter(({ runner }) => runner === this.membership.id));
  }

  private get stopping(): boolean {
    return this.stopSignal.signal.aborted;
  }

  // ── what is heard ─────────────────────────────────────────────────────────────────────────────────────────────────

  private onEnded(ended: EndedRun): void {
    this.settler.settle(ended);
    if (!this.suspectsSkipped) return;
    this.suspectsSkipped = false;
    this.suspectsMayWait = true;
  }

  private onSettled(settled: Settled): void {
    const { run: ended, result } = settled;
    if (result === 'written' && settled.requeued) {
      const released = ended.outcome.kind === 'released';
      const message = released && ended.job.suspect ? SURVEY_MESSAGE : settled.requeued.message;
      this.tell([message]);
      // Others learn of later due times from their polls; of a job that is free at an old place they must be told.
      if (released) this.parts.notifier.send([message]);
    }
    if (result === 'lost') {
      this.logger.warn(`The lease of job ${ended.job.id} (${ended.job.name}) was lost: its end is not written.`);
    }
    if (this.parts.observed()) this.parts.emit(eventOf(settled));
    if (this.settler.backlog === 0) this.wakeup.signal();
  }

  private onWakeUp(wakeUp: WakeUp): void {
    if (wakeUp.kind === 'survey') {
      this.suspectsMayWait = true;
      this.upkeep.poll.hurry();
    } else if (wakeUp.kind === 'jobs') this.feeds.tell(wakeUp);
    this.wakeup.signal();
  }

  private onBeaten(row: HeartbeatRow): void {
    this.wakeUps.setFleet(
      this.membership.id,
      row.peers.map(({ id }) => id),
    );
    if (this.membership.see(row)) this.upkeep.rescue.hurry();
    if (row.dropped > 0) this.upkeep.poll.hurry();
    this.runs.startReady();
    this.wakeup.signal();
  }

  private onLost(leases: readonly number[]): void {
    const lost = new Set(leases);
    this.runs.lose(({ lease, runner }) => runner === this.membership.id && lost.has(lease));
    for (const lease of leases) this.book.close(lease);
  }

  private onDeclaredDead(dead: string): void {
    this.book.clear();
    this.runs.lose(({ runner }) => runner === dead);
    this.wakeup.signal();
  }

  private onBlocked(blockedMs: number): void {
    const running = this.runs.labels(blockedMs);
    this.logger.warn(
      `The event loop was blocked for ${Math.round(blockedMs)} ms. Running: ${running.join(', ') || 'no handler'}. Leases were kept, but nothing could start or end.`,
    );
    this.parts.emit({ type: 'event-loop-blocked', blockedMs, running });
  }

  private onRescued({ waiting, dead, messages }: Rescued): void {
    this.parts.emit({ type: 'rescued', waiting, dead });
    this.parts.notifier.send(messages);
    this.tell(messages);
  }

  // ── upkeep ────────────────────────────────────────────────────────────────────────────────────────────────────────

  private onSurveyed(rows: readonly SurveyRow[]): void {
    const [first] = rows;
    if (first === undefined) return;
    this.feeds.clock.heard(first.nowMicros);
    this.feeds.survey(rows.flatMap(({ feed }) => feed ?? []));
    this.suspectsMayWait ||= first.suspects;
    this.wakeup.signal();
  }

  private async rescue(): Promise<void> {
    this.runs.reportLongRuns();
    await this.membership.rescue();
  }

  /**
   * Upkeep goes through the listening connection, which has little else to do, so that a slow survey holds up no claim;
   * while that one is down, or cannot be had at all, through the one that claims.
   */
  private transact<T>(work: (client: SqlClient) => Promise<T>): Promise<T> {
    return this.listener.connected ? this.listener.transaction(work) : this.claimConnection.transaction(work);
  }

  /** A shutdown goes on without the database. */
  private async attempt(what: string, work: Promise<unknown>): Promise<void> {
    try {
      await withinMs(STEP_LIMIT_MS, work);
    } catch (error) {
      this.logger.warn(`${what} failed; the jobs are safe with their leases: ${messageOf(error)}`);
    }
  }

  // ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  private makeListener(settings: ConstructorParameters<typeof Listener>[0]): Listener {
    const events = {
      wakeUp: (wakeUp: WakeUp) => this.wakeUps.hear(wakeUp),
      // What was sent while nobody listened is found now, not at the next turn.
      connected: () => this.upkeep.poll.hurry(),
      listening: (listening: boolean) => this.parts.emit({ type: 'listening', listening }),
    };
    return new Listener(settings, events, this.logger);
  }

  private makeMembership(): Membership {
    const events = {
      beaten: (row: HeartbeatRow) => this.onBeaten(row),
      lost: (leases: readonly number[]) => this.onLost(leases),
      declaredDead: (runner: string) => this.onDeclaredDead(runner),
      blocked: (blockedMs: number) => this.onBlocked(blockedMs),
      rescued: (rescued: Rescued) => this.onRescued(rescued),
    };
    const transact: Transact = (work) => this.transact(work);
    return new Membership(this.settings, this.book, this.claimConnection, transact, events, this.logger);
  }
}
