import type { Logger } from '@nestjs/common';
import { Claimer } from '../claim/claimer.js';
import { Feeds } from '../claim/feeds.js';
import { messageOf, QueueClosedError } from '../job/errors.js';
import type { QueueEvent } from '../job/events.js';
import type { ClaimedJob, JobId } from '../job/job.js';
import { LeaseBook } from '../job/lease-book.js';
import type { RunOneResult } from '../job/run-one.js';
import { Connection } from '../postgres/connection.js';
import type { Rescued } from '../maintenance/rescuer.js';
import { RunWriter } from '../settle/run-writer.js';
import { Settler, type Settled } from '../settle/settler.js';
import type { HeartbeatRow } from '../statements/runners.js';
import { run } from '../statements/statement.js';
import { surveyFeeds } from '../statements/survey-feeds.js';
import { parseWakeUp } from '../statements/wake-up.js';
import { JobRuns } from './job-runs.js';
import { Membership } from './membership.js';
import type { RunnerParts, RunnerSettings } from './queue-runner.js';
import type { LaneId } from './lane-run.js';
import { eventOf, factsOf, requeuedMessage, thrownAfterCompletion } from './run-events.js';

/** How long aborted handlers may take to end. */
const ABORT_WAIT_MS = 2_000;

/**
 * A runner for one job: the same parts as {@link QueueRunner}, in a row instead of in loops. It enters the fleet, claims,
 * runs, settles and leaves; nothing of it stays behind.
 */
export class SingleRun {
  private readonly book = new LeaseBook((runner) => this.runs.started(runner));
  private readonly connection: Connection;
  private readonly membership: Membership;
  private readonly runs: JobRuns;
  private readonly feeds: Feeds;
  private readonly claimer: Claimer;
  private readonly settler: Settler;
  private readonly logger: Logger;
  private readonly ended: Promise<RunOneResult>;
  private resolve!: (result: RunOneResult) => void;
  private reject!: (error: unknown) => void;
  private nextRescue: NodeJS.Timeout | undefined;
  private left = false;

  constructor(
    private readonly settings: RunnerSettings,
    private readonly parts: RunnerParts,
  ) {
    const { schema, channels } = settings;
    const { book } = this;
    this.logger = parts.logger;
    this.ended = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.connection = new Connection({ ...settings, role: 'claim', onBroken: () => this.membership.distrust() });
    this.membership = this.makeMembership();
    this.runs = new JobRuns(
      { ...settings, min: 1, max: 1, prefetchMs: 0, singly: true },
      {
        ...{ ...parts, book },
        emit: (event) => this.emit(event),
        mayStart: () => this.membership.trusted,
        port: new RunWriter(settings, this.connection),
        ended: (ended) => this.settler.settle(ended),
        leaseEnded: () => this.expectExpired(),
        laneEnded: (end) => this.settler.endLane(end),
        wanting: () => undefined,
        extendLane: () => Promise.resolve([]),
      },
    );
    this.feeds = new Feeds(this.runs.handlerGroups(), channels && new Set(channels));
    const tellOthers = (messages: readonly string[]): void => this.parts.notifier.send(messages);
    const runnerId = (): string => this.membership.id;
    const onLanesSeen = (messages: readonly string[]): void => this.onLanesSeen(messages);
    this.claimer = new Claimer(this.connection, this.feeds, book, { schema, channels }, runnerId, onLanesSeen);
    const events = {
      settled: (settled: Settled) => this.onSettled(settled),
      lanesReady: tellOthers,
      caughtUp: () => undefined,
    };
    this.settler = new Settler(this.connection, book, events, this.logger, settings);
  }

  get running(): number {
    return this.runs.running;
  }

  /** Tells the run to stop, if its job is one of these. */
  cancel(reasons: ReadonlyMap<JobId, string | null>): void {
    this.runs.cancel(reasons);
  }

  /** Runs one due job to its end; `null` when there is none. */
  async run(): Promise<RunOneResult | null> {
    // Whoever waits for it may not have come so far when a shutdown rejects it.
    this.ended.catch(() => undefined);
    try {
      await this.parts.prepare();
      this.membership.start();
      await this.membership.join();
      const job = await this.claim();
      if (job === undefined) return null;
      await this.runs.accept([job]);
      const result = await this.ended;
      await this.settler.idle();
      return result;
    } finally {
      await this.leave();
    }
  }

  /** A shutdown: the handler may end, is aborted when the grace is over, and given up a little later. */
  async drain(): Promise<void> {
    this.membership.release();
    this.runs.stop();
    await this.membership.announceStop().catch((error: unknown) => this.warn('Announcing the shutdown', error));
    await this.runs.drain(this.settings.shutdownGraceMs, ABORT_WAIT_MS);
    if (this.running > 0) this.reject(new QueueClosedError('The job was still running'));
  }

  private async claim(): Promise<ClaimedJob | undefined> {
    const suspect = await this.claimer.claimSuspect();
    if (suspect !== undefined) return suspect;
    const params = { ...this.feeds.surveyed(), channels: this.settings.channels };
    const answered = this.feeds.clock.ask();
    const rows = await this.connection.transaction((client) => run(client, surveyFeeds, params));
    if (rows[0] !== undefined) answered(rows[0].nowMicros);
    this.feeds.survey(rows.flatMap(({ feed }) => feed ?? []));
    while (this.feeds.hasWork(1)) {
      const [job] = await this.claimer.claim({ limit: 1, slots: 1, run: 1 });
      if (job !== undefined) return job;
    }
    return undefined;
  }

  private async leave(): Promise<void> {
    this.left = true;
    clearTimeout(this.nextRescue);
    this.runs.stop();
    this.settler.stop();
    await this.runs.hooksEnded();
    await this.membership.stopBeating();
    await this.membership.leave().catch((error: unknown) => this.warn('Leaving the fleet', error));
    await this.connection.close();
  }

  private onSettled(settled: Settled): void {
    // This process looks at nothing any more, also when it is due later.
    const message = requeuedMessage(settled);
    if (message !== null) this.parts.notifier.send([message]);
    if (settled.result === 'written') settled.run.written?.(settled.run.outcome);
    const thrown = thrownAfterCompletion(settled);
    if (thrown !== null) this.logger.warn(thrown);
    this.runs.settled(settled);
    this.emit(eventOf(settled));
  }

  /** Lanes whose head must wait, has another priority than was thought, or is for others. */
  private onLanesSeen(messages: readonly string[]): void {
    for (const message of messages) {
      const wakeUp = parseWakeUp(message);
      if (wakeUp?.kind === 'jobs') this.feeds.tell(wakeUp);
    }
    this.parts.notifier.send(messages);
  }

  private emit(event: QueueEvent): void {
    if (this.parts.observed()) this.parts.emit(event);
    const result = resultOf(event);
    if (result !== null) this.resolve(result);
  }

  private onLost(isLost: (job: LaneId) => boolean): void {
    // One that has not started is forgotten without an event.
    for (const job of this.runs.lose(isLost)) this.resolve({ outcome: 'lease-lost', ...factsOf(job) });
  }

  private makeMembership(): Membership {
    const { settings, book, connection, logger } = this;
    const events = {
      beaten: (row: HeartbeatRow) => {
        this.cancel(new Map(row.cancelRequests.map(({ id, reason }) => [id, reason])));
        this.runs.startReady();
        if (row.expired) this.expectExpired();
      },
      lost: (leases: readonly number[]) => this.onLost(({ lease }) => leases.includes(lease)),
      declaredDead: (dead: string) => this.onLost(({ runner }) => runner === dead),
      blocked: () => undefined,
      rescued: ({ messages }: Rescued) => this.parts.notifier.send(messages),
      formerGone: () => undefined,
      peerDied: () => undefined,
    };
    return new Membership(
      // It stays for one job: what others have left is for runners.
      { ...settings, releaseOwn: false },
      () => this.parts.registry.names(),
      book,
      connection,
      (work, start) => connection.transaction(work, start),
      events,
      logger,
    );
  }

  /** The lease of the run has passed: its job goes back, also when no other process is there to see to it. */
  private expectExpired(): void {
    this.membership.expectExpired();
    void this.rescue();
  }

  private async rescue(): Promise<void> {
    clearTimeout(this.nextRescue);
    try {
      const againMs = await this.membership.rescue();
      if (againMs !== undefined && !this.left) this.nextRescue = setTimeout(() => void this.rescue(), againMs);
    } catch (error) {
      this.warn('The rescue', error);
    }
  }

  private warn(what: string, error: unknown): void {
    this.logger.warn(`${what} failed; the jobs are safe with their leases: ${messageOf(error)}`);
  }
}

function resultOf(event: QueueEvent): RunOneResult | null {
  switch (event.type) {
    case 'completed':
    case 'retrying':
    case 'dead':
    case 'snoozed':
    case 'released':
    case 'cancelled':
    case 'lease-lost': {
      const { type: outcome, ...facts } = event;
      return { outcome, ...facts };
    }
    default:
      return null;
  }
}
