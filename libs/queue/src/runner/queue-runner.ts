import type { Logger } from '@nestjs/common';
import type { ClientConfig } from 'pg';
import type { DataSource } from 'typeorm';
import { Claimer } from '../claim/claimer.js';
import { Feeds } from '../claim/feeds.js';
import { messageOf } from '../job/errors.js';
import { LeaseBook } from '../job/lease-book.js';
import { endingOf } from '../job/outcome.js';
import { withinMs } from '../job/time-limit.js';
import type { LoopBoard } from '../maintenance/loop-board.js';
import type { Rescued, Transact } from '../maintenance/rescuer.js';
import { Connection } from '../postgres/connection.js';
import { Listener } from '../postgres/listener.js';
import type { Notifier } from '../postgres/notifier.js';
import { RunWriter } from '../settle/run-writer.js';
import type { EndedRun } from '../settle/settlement.js';
import { Settler, type Settled } from '../settle/settler.js';
import type { HeartbeatRow } from '../statements/runners.js';
import type { SqlClient } from '../statements/statement.js';
import type { SurveyRow } from '../statements/survey-feeds.js';
import { parseWakeUp, type WakeUp } from '../statements/wake-up.js';
import { ClaimLoop, type ClaimLoopParts } from './claim-loop.js';
import { idleWithin } from './idle.js';
import { JobRuns } from './job-runs.js';
import type { JobRunsParts, JobRunsSettings } from './job-runs-parts.js';
import { Membership } from './membership.js';
import { eventOf, requeuedMessage, thrownAfterCompletion } from './run-events.js';
import { Upkeep, type Survey } from './upkeep.js';
import { WakeUpDelay } from './wake-up-delay.js';

export interface RunnerSettings extends JobRunsSettings {
  /** Name of the queue instance, for the names of the loops. */
  readonly instance: string;
  readonly schema: string;
  readonly namedStatements: boolean;
  readonly options: ClientConfig;
  readonly listenOptions: ClientConfig;
  readonly runnerId: string | null;
  readonly releaseOwn: boolean;
  readonly channels: readonly string[] | null;
  readonly pollMs: number;
  readonly leaseMs: number;
  readonly blockedLimitMs: number;
  readonly shutdownGraceMs: number;
  readonly pruneEveryMs: number;
  /** How long cancelled jobs are kept. */
  readonly finishedRetentionMs: number;
  readonly dataSource: DataSource;
}

export interface RunnerParts extends Pick<JobRunsParts, 'registry' | 'policies' | 'logger' | 'emit' | 'observed'> {
  readonly notifier: Notifier;
  readonly board: LoopBoard | null;
  readonly prepare: ClaimLoopParts['prepare'];
}

/** How long aborted handlers may take to end, and each other step of a shutdown. */
const ABORT_WAIT_MS = 2_000;
const STEP_LIMIT_MS = 5_000;

/**
 * The part of a process that claims, executes and settles. The one place that knows every stage; the stages do not know
 * each other: feeds → ClaimedJob → Outcome → row.
 */
export class QueueRunner {
  private readonly logger: Logger;
  private readonly book = new LeaseBook((runner) => this.runs.started(runner));
  private readonly wakeUps = new WakeUpDelay({
    pass: (wakeUp) => this.onWakeUp(wakeUp),
    hasHandler: (news) => this.feeds.hasHandler(news),
    canRun: (news) => this.feeds.canRun(news),
    tiny: () => this.runs.tiny,
    idle: () => this.runs.empty && !this.claims.claiming && !this.feeds.ordered && this.listener.hears,
    listen: (listening) => this.listener.listen(listening),
    catchUp: () => this.upkeep.poll.hurry(),
    nowMicros: () => this.feeds.clock.nowMicros(),
  });
  private readonly claimConnection: Connection;
  private readonly settleConnection: Connection;
  private readonly listener: Listener;
  private readonly membership: Membership;
  private readonly feeds: Feeds;
  private readonly claims: ClaimLoop;
  private readonly runs: JobRuns;
  private readonly settler: Settler;
  private readonly upkeep: Upkeep;

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
    this.runs = new JobRuns(settings, {
      ...parts,
      book,
      port: new RunWriter(settings, this.settleConnection),
      mayStart: () => this.membership.trusted,
      ended: (ended) => this.onEnded(ended),
      laneEnded: (end) => this.settler.endLane(end),
      leaseEnded: () => this.expectExpired(),
      wanting: () => this.claims.wakeSoon(),
      extendLane: (lane, most) => claimer.extend(lane, most),
    });
    this.feeds = new Feeds(this.runs.handlerGroups(), channels && new Set(channels));
    const claimer = new Claimer(
      this.claimConnection,
      this.feeds,
      book,
      { schema, channels },
      () => this.membership.id,
      (messages) => this.onLanesSeen(messages),
    );
    this.claims = new ClaimLoop({
      ...{ membership: this.membership, runs: this.runs, feeds: this.feeds, claimer, logger, prepare: parts.prepare },
      survey: () => this.upkeep.poll.hurry(),
      look: () => this.wakeUps.look(),
      accepted: () => this.wakeUps.accepted(),
      backlog: () => this.settler.backlog,
    });
    this.settler = new Settler(
      this.settleConnection,
      book,
      {
        settled: (settled) => this.onSettled(settled),
        lanesReady: (messages) => this.onLanesReady(messages),
        caughtUp: () => this.onCaughtUp(),
      },
      logger,
      settings,
    );
    this.upkeep = new Upkeep(
      {
        ...settings,
        survey: () => this.survey(channels),
        arriving: () => this.feeds.arriving,
        rescueMs: settings.leaseMs / 4,
      },
      (work) => this.transact(work),
      {
        lanesFreed: (messages) => this.onLanesSeen(messages),
        rescue: () => this.rescue(),
      },
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
    this.claims.start();
  }

  /** Something this process itself has put into the queue: no need to wait for the notification. */
  tell(messages: readonly string[]): void {
    for (const message of messages) {
      const wakeUp = parseWakeUp(message);
      if (wakeUp !== undefined) this.onWakeUp(wakeUp);
    }
  }

  get running(): number {
    return this.runs.running;
  }

  idle(timeoutMs: number | null): Promise<boolean> {
    return idleWithin(timeoutMs, this.runs, () => this.settler.idle());
  }

  /** Nothing is claimed or started any more; what was taken ahead goes back. */
  stopClaiming(): void {
    if (this.claims.stopping) return;
    this.claims.stop();
    this.membership.release();
    this.runs.stop();
  }

  /** Waits for the running handlers, aborts them when the grace is over, and writes what ended. The rest is left to its lease. */
  async drain(): Promise<void> {
    this.stopClaiming();
    if (!this.claims.started) return;
    await this.attempt('Ending the last claim', this.claims.ended());
    await this.attempt('Ending the upkeep', Promise.all([this.upkeep.poll.stop(), this.upkeep.prune.stop()]));
    await this.attempt('Announcing the shutdown', this.membership.announceStop());
    await this.runs.drain(this.settings.shutdownGraceMs, ABORT_WAIT_MS);
    await this.attempt('Writing the last outcomes', this.settler.idle());
    await this.attempt('Ending the error hooks', this.runs.hooksEnded());
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

  // ── what is heard ─────────────────────────────────────────────────────────────────────────────────────────────────

  private onEnded(ended: EndedRun): void {
    this.settler.settle(ended);
    this.claims.runEnded();
  }

  private onSettled(settled: Settled): void {
    const { run: ended, result } = settled;
    const message = requeuedMessage(settled);
    if (message !== null) {
      this.tell([message]);
      // Others learn of later due times from their polls while this one will look; of a job at an old place they must be told.
      if (endingOf(ended.outcome).kind === 'released' || this.claims.stopping) this.parts.notifier.send([message]);
    }
    if (result === 'written') ended.written?.(ended.outcome);
    const thrown = thrownAfterCompletion(settled);
    if (thrown !== null) this.logger.warn(thrown);
    if (result === 'lost') {
      this.logger.warn(`The lease of job ${ended.job.id} (${ended.job.name}) was lost: its end is not written.`);
    }
    this.runs.settled(settled);
    if (this.parts.observed()) this.parts.emit(eventOf(settled));
  }

  /** What was kept for ends that were not written is free, and claims that have waited for the database may go on. */
  private onCaughtUp(): void {
    this.claims.runEnded();
    this.claims.wake();
  }

  /** The lease of a run has passed: there is a job to rescue, maybe by this process. */
  private expectExpired(): void {
    this.membership.expectExpired();
    this.upkeep.rescue.hurry();
  }

  /** Lanes whose head must wait, or is for runners that know its name: this process, too, learns the times. */
  private onLanesSeen(messages: readonly string[]): void {
    this.tell(messages);
    this.parts.notifier.send(messages);
  }

  /** Lanes that go on: here, or where there is room. Of suspects all are told: there is no saying whose they are. */
  private onLanesReady(messages: readonly string[]): void {
    this.tell(messages);
    const full = this.claims.stopping || this.runs.demand(true).limit < messages.length;
    const forOthers = messages.filter((message) => {
      const lane = parseWakeUp(message);
      return full || lane?.kind !== 'jobs' || !this.feeds.canRun(lane);
    });
    if (forOthers.length > 0) this.parts.notifier.send(forOthers);
  }

  private onWakeUp(wakeUp: WakeUp): void {
    if (wakeUp.kind === 'survey') {
      this.claims.expectSuspects();
      this.upkeep.poll.hurry();
    } else if (wakeUp.kind === 'suspects') this.claims.expectSuspects();
    else if (wakeUp.kind === 'cancel') this.runs.cancel(new Map(wakeUp.ids.map((id) => [id, wakeUp.reason])));
    else if (wakeUp.kind === 'jobs') this.feeds.tell(wakeUp);
    this.claims.wake();
  }

  private onBeaten(row: HeartbeatRow): void {
    this.wakeUps.order.setFleet(this.membership.id, row.peers);
    if (this.membership.see(row)) this.upkeep.rescue.hurry();
    if (row.dropped > 0) this.upkeep.poll.hurry();
    this.runs.cancel(new Map(row.cancelRequests.map(({ id, reason }) => [id, reason])));
    this.runs.startReady();
    this.claims.wake();
  }

  private onLost(leases: readonly number[]): void {
    const lost = new Set(leases);
    this.runs.lose(({ lease, runner }) => runner === this.membership.id && lost.has(lease));
    for (const lease of leases) this.book.close(lease);
  }

  private onDeclaredDead(dead: string): void {
    this.book.clear();
    this.runs.lose(({ runner }) => runner === dead);
    this.claims.wake();
  }

  private onBlocked(blockedMs: number): void {
    const running = this.runs.labels(blockedMs);
    this.logger.warn(
      `The event loop was blocked for ${Math.round(blockedMs)} ms. Running: ${running.join(', ') || 'no handler'}. Leases were kept, but nothing could start or end.`,
    );
    this.parts.emit({ type: 'event-loop-blocked', blockedMs, running });
  }

  private onRescued({ waiting, dead, cancelled, messages }: Rescued): void {
    this.parts.emit({ type: 'rescued', waiting, dead, cancelled });
    this.parts.notifier.send(messages);
    this.tell(messages);
  }

  // ── upkeep ────────────────────────────────────────────────────────────────────────────────────────────────────────

  private survey(channels: readonly string[] | null): Survey {
    const answered = this.feeds.clock.ask();
    return {
      params: { ...this.feeds.surveyed(), channels },
      found: (rows) => {
        if (rows[0] !== undefined) answered(rows[0].nowMicros);
        this.onSurveyed(rows);
      },
    };
  }

  private onSurveyed(rows: readonly SurveyRow[]): void {
    const [first] = rows;
    if (first === undefined) return;
    this.feeds.survey(rows.flatMap(({ feed }) => feed ?? []));
    if (first.suspects) this.claims.expectSuspects();
    this.claims.wake();
  }

  private async rescue(): Promise<number | undefined> {
    this.runs.reportLongRuns();
    return this.membership.rescue();
  }

  /**
   * Upkeep goes through the listening connection, which has little else to do, so that a slow survey holds up no claim;
   * while that one is down, or cannot be had at all, through the one that claims.
   */
  private transact<T>(work: (client: SqlClient) => Promise<T>, start?: string): Promise<T> {
    const connection = this.listener.connected ? this.listener : this.claimConnection;
    return connection.transaction(work, start);
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
      connected: () => this.upkeep.catchUp(),
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
      formerGone: () => this.upkeep.rescue.hurry(),
      peerDied: () => this.upkeep.catchUp(),
    };
    const transact: Transact = (work, start) => this.transact(work, start);
    const { settings, book, claimConnection, logger } = this;
    const names = (): readonly string[] => this.parts.registry.names();
    return new Membership(settings, names, book, claimConnection, transact, events, logger);
  }
}
