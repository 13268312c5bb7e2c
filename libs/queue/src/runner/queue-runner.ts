import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { Logger } from '@nestjs/common';
import type { ClientConfig } from 'pg';
import { Claimer } from '../claim/claimer.js';
import { Feeds, type HandlerGroup } from '../claim/feeds.js';
import { LeaseKeeper } from '../claim/lease-keeper.js';
import { JobExecutor } from '../execute/job-executor.js';
import { RunningJob } from '../execute/running-job.js';
import type { HandlerRegistry } from '../handlers/handler.registry.js';
import type { Policies } from '../handlers/policies.js';
import { messageOf, QueueClosedError } from '../job/errors.js';
import type { QueueEvent } from '../job/events.js';
import type { CompletionPort, RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import { LeaseBook } from '../job/lease-book.js';
import { RELEASED, type Outcome } from '../job/outcome.js';
import { RetryDelay } from '../job/retry-delay.js';
import { Loop, type LoopBoard } from '../maintenance/loop.js';
import { Pruner } from '../maintenance/pruner.js';
import { Rescuer, type Rescued } from '../maintenance/rescuer.js';
import { Connection } from '../postgres/connection.js';
import { Listener } from '../postgres/listener.js';
import type { Notifier } from '../postgres/notifier.js';
import { Settler, type Settled } from '../settle/settler.js';
import { forgetRunners, markStopping, registerRunner, type HeartbeatRow } from '../statements/runners.js';
import { run } from '../statements/statement.js';
import { surveyFeeds } from '../statements/survey-feeds.js';
import { parseWakeUp, type WakeUp } from '../statements/wake-up.js';
import { RunBoard, type ActiveRun } from './run-board.js';
import { eventOf, factsOf } from './run-events.js';
import { Slots } from './slots.js';
import { WakeUpDelay } from './wake-up-delay.js';
import { Wakeup } from './wakeup.js';

export interface RunnerSettings {
  /** Name of the queue instance, for the names of the loops. */
  readonly instance: string;
  readonly schema: string;
  readonly namedStatements: boolean;
  readonly options: ClientConfig;
  readonly listenOptions: ClientConfig;
  readonly channels: readonly string[] | null;
  readonly concurrency: { readonly min: number; readonly max: number };
  readonly prefetchMs: number;
  readonly pollMs: number;
  readonly leaseMs: number;
  readonly blockedLimitMs: number;
  readonly abortGraceMs: number;
  readonly stuckAfterMs: number;
  readonly shutdownGraceMs: number;
  readonly pruneEveryMs: number;
}

export interface RunnerParts {
  readonly registry: HandlerRegistry;
  readonly policies: Policies;
  readonly completion: CompletionPort;
  readonly notifier: Notifier;
  readonly board: LoopBoard | null;
  readonly logger: Logger;
  readonly emit: (event: QueueEvent) => void;
  /** Whether anybody listens to events: nothing is made for nobody. */
  readonly observed: () => boolean;
}

/** Settlements that may wait before claims pause until the database has caught up. */
const MAX_BACKLOG = 5_000;

/** How long aborted handlers may take to end, and their ends to be written, at shutdown. */
const ABORT_WAIT_MS = 2_000;
const SETTLE_WAIT_MS = 5_000;

/**
 * The part of a process that claims, executes and settles. The one place that knows every stage; the stages do not know
 * each other: rows → ClaimedJob → Outcome → row.
 */
export class QueueRunner {
  private id = newRunnerId();
  private readonly slots: Slots;
  private readonly runs = new RunBoard();
  private readonly book = new LeaseBook();
  private readonly wakeup = new Wakeup();
  private readonly delay = new RetryDelay({ minMs: 100, maxMs: 5_000 });
  private readonly feeds: Feeds;
  private readonly claimConnection: Connection;
  private readonly settleConnection: Connection;
  private readonly listener: Listener;
  private readonly claimer: Claimer;
  private readonly executor: JobExecutor;
  private readonly settler: Settler;
  private readonly keeper: LeaseKeeper;
  private readonly rescuer: Rescuer;
  private readonly loops: { readonly poll: Loop; readonly rescue: Loop; readonly prune: Loop };
  private readonly wakeUps: WakeUpDelay;
  private readonly stopSignal = new AbortController();
  private registered = false;
  private stopping = false;
  private suspectsMayWait = true;
  private claiming: Promise<void> | null = null;

  constructor(
    private readonly settings: RunnerSettings,
    private readonly parts: RunnerParts,
  ) {
    const { schema, namedStatements, options } = settings;
    const { logger, registry } = parts;
    const runnerId = (): string => this.id;
    const connection = (role: string): Connection => new Connection({ options, schema, namedStatements, role });
    this.slots = new Slots({ ...settings.concurrency, prefetchMs: settings.prefetchMs });
    this.feeds = new Feeds(handlerGroups(registry, this.slots), settings.channels && new Set(settings.channels));
    this.claimConnection = connection('claim');
    this.settleConnection = connection('settle');
    this.listener = new Listener(
      { options: settings.listenOptions, schema, namedStatements },
      { wakeUp: (wakeUp) => this.wakeUps.hear(wakeUp), listening: (listening) => this.onListening(listening) },
      logger,
    );
    const names = registry.names();
    this.claimer = new Claimer(
      this.claimConnection,
      this.feeds,
      this.book,
      { schema, names, channels: settings.channels },
      runnerId,
    );
    this.executor = new JobExecutor(settings.abortGraceMs, (job) => this.reportStuck(job));
    this.settler = new Settler(
      this.settleConnection,
      this.book,
      runnerId,
      (settled) => this.onSettled(settled),
      logger,
    );
    const heartbeatMs = Math.round(settings.leaseMs / 4);
    this.keeper = new LeaseKeeper(
      { ...settings, heartbeatMs },
      this.book,
      runnerId,
      {
        beaten: (row) => this.onBeaten(row),
        lost: (leases) => this.onLost(leases),
        declaredDead: () => void this.startAnew(),
        blocked: (blockedMs) => this.onBlocked(blockedMs),
      },
      logger,
    );
    const transact = <T>(work: Parameters<Listener['transaction']>[0]): Promise<T> =>
      this.listener.transaction(work) as Promise<T>;
    this.rescuer = new Rescuer(
      { leaseMs: settings.leaseMs, heartbeatMs },
      transact,
      (rescued) => this.onRescued(rescued),
      logger,
    );
    const pruner = new Pruner(transact);
    const loop = (name: string, everyMs: number, jitter: number, turn: () => Promise<unknown>): Loop =>
      new Loop(
        { name: `nestmq ${settings.instance} ${name}`, everyMs, jitter, turn: async () => void (await turn()) },
        logger,
        parts.board,
      );
    this.loops = {
      poll: loop('poll', settings.pollMs, 0.25, () => this.survey()),
      rescue: loop('rescue', heartbeatMs, 0.1, () => this.rescueAndReport()),
      prune: loop('prune', settings.pruneEveryMs, 0.25, () => pruner.turn()),
    };
    this.wakeUps = new WakeUpDelay((wakeUp) => this.onWakeUp(wakeUp));
  }

  /** Starts in the background; a database that is down is tried again until it is there. */
  start(): void {
    if (this.parts.registry.handlers().length === 0) {
      this.parts.logger.log('No job handlers here: this process only sends jobs.');
      return;
    }
    this.listener.start();
    this.keeper.start();
    for (const loop of Object.values(this.loops)) loop.start();
    this.claiming = this.claimUntilStopped();
  }

  /** Something this process itself has put into the queue: no need to wait for the notification. */
  tell(messages: readonly string[]): void {
    for (const message of messages) {
      const wakeUp = parseWakeUp(message);
      if (wakeUp !== undefined) this.onWakeUp(wakeUp);
    }
  }

  get runningCount(): number {
    return this.slots.runningCount;
  }

  // ── claiming ──────────────────────────────────────────────────────────────────────────────────────────────────────

  private async claimUntilStopped(): Promise<void> {
    while (!this.stopping) {
      try {
        if (!(await this.claimOnce())) {
          this.slots.rest();
          await this.wakeup.wait(this.feeds.msUntilDue());
        }
        this.delay.reset();
      } catch (error) {
        if (this.stopping) return;
        this.parts.logger.warn(`Claiming failed, will try again: ${messageOf(error)}`);
        await this.delay.wait(this.stopSignal.signal);
        this.loops.poll.hurry();
      }
    }
  }

  /** Claims what there is room for; says whether it is worth while to go on at once. */
  private async claimOnce(): Promise<boolean> {
    await this.makeSureOfLeases();
    if (this.stopping || this.settler.backlog > MAX_BACKLOG) return false;
    if (await this.claimSuspect()) return true;
    const demand = this.slots.demand(performance.now());
    if (demand.limit === 0 || !this.feeds.hasWork()) return false;
    await this.accept(await this.claimer.claim(demand));
    return true;
  }

  /** After an outage somebody may have declared this process dead: it asks before it claims or starts anything. */
  private async makeSureOfLeases(): Promise<void> {
    if (!this.registered) {
      const { id } = this;
      await this.claimConnection.transaction((client) =>
        run(client, registerRunner, { runner: id, host: hostname(), pid: process.pid }),
      );
      this.registered = true;
      this.loops.poll.hurry();
    }
    if (!this.keeper.trusted) await this.keeper.beat();
  }

  /** A job whose last lease was lost runs as the only one of its kind here: it may be what ends processes. */
  private async claimSuspect(): Promise<boolean> {
    if (!this.suspectsMayWait || this.slots.full || this.slots.aheadCount > 0 || this.runs.suspects > 0) return false;
    const job = await this.claimer.claimSuspect();
    if (job === undefined) this.suspectsMayWait = false;
    else await this.accept([job]);
    return job !== undefined;
  }

  private async accept(jobs: readonly ClaimedJob[]): Promise<void> {
    await this.parts.policies.learn(jobs);
    for (const job of jobs) this.slots.take(job, this.handlerOf(job));
    this.startReady();
    if (this.stopping) this.releaseAhead();
  }

  // ── executing ─────────────────────────────────────────────────────────────────────────────────────────────────────

  private startReady(): void {
    if (this.stopping || !this.keeper.trusted) return;
    for (;;) {
      const job = this.slots.start(performance.now());
      if (job === undefined) return;
      void this.execute(job);
    }
  }

  private async execute(claimed: ClaimedJob): Promise<void> {
    const handler = this.handlerOf(claimed);
    const policy = this.parts.policies.of(claimed, handler);
    const job = new RunningJob(claimed, this.parts.completion, policy.retentionMs);
    const active: ActiveRun = { job, handler, leaseLost: false, stuckReported: false };
    this.runs.add(active);
    this.book.start(claimed.id);
    if (this.parts.observed()) this.parts.emit({ type: 'started', ...factsOf(claimed) });
    const outcome = await this.executor.execute({ job, handler, policy });
    const durationMs = performance.now() - job.startedAt;
    this.runs.remove(active);
    this.book.end(claimed.id);
    this.slots.end(handler, durationMs);
    this.end(active, outcome, durationMs);
    this.startReady();
    if (this.slots.aheadCount === 0 || this.slots.demand(performance.now()).limit > 0) this.wakeup.signal();
  }

  private end({ job: { claimed }, handler, leaseLost }: ActiveRun, outcome: Outcome, durationMs: number): void {
    if (leaseLost) this.parts.emit({ type: 'lease-lost', ...factsOf(claimed) });
    else this.settler.settle({ job: claimed, outcome, policy: this.parts.policies.of(claimed, handler), durationMs });
  }

  private handlerOf(job: ClaimedJob): RegisteredHandler {
    const handler = this.parts.registry.find(job.name);
    if (handler === undefined) throw new Error(`Job ${job.id} with the unknown name "${job.name}" was claimed.`);
    return handler;
  }

  // ── what is heard ─────────────────────────────────────────────────────────────────────────────────────────────────

  private onSettled(settled: Settled): void {
    const { run: ended, result } = settled;
    if (result === 'written' && settled.requeued) {
      this.tell([settled.requeued.message]);
      // Others know of later due times from their polls; a job that is free at an old place they must be told of.
      if (ended.outcome.kind === 'released') this.parts.notifier.send([settled.requeued.message]);
    }
    if (result === 'lost')
      this.parts.logger.warn(`The lease of job ${ended.job.id} (${ended.job.name}) was lost: its end is not written.`);
    if (this.parts.observed()) this.parts.emit(eventOf(settled));
    if (this.settler.backlog === 0) this.wakeup.signal();
  }

  private onWakeUp(wakeUp: WakeUp): void {
    if (wakeUp.kind === 'survey') {
      this.suspectsMayWait = true;
      this.loops.poll.hurry();
    } else if (wakeUp.kind === 'jobs') this.feeds.tell(wakeUp);
    this.wakeup.signal();
  }

  private onListening(listening: boolean): void {
    if (this.parts.observed()) this.parts.emit({ type: 'listening', listening });
    // What was sent while nobody listened is found now, not at the next turn.
    this.loops.poll.hurry();
  }

  private onBeaten(row: HeartbeatRow): void {
    this.wakeUps.setFleet(
      this.id,
      row.peers.map(({ id }) => id),
    );
    if (this.rescuer.see(row)) this.loops.rescue.hurry();
    if (row.dropped > 0) this.loops.poll.hurry();
    this.startReady();
    this.wakeup.signal();
  }

  private onLost(leases: readonly number[]): void {
    const lost = new Set(leases);
    this.slots.withdraw(
      ({ lease, runner }) => runner === this.id && lost.has(lease),
      (job) => this.handlerOf(job),
    );
    this.runs.lose((lease, runner) => runner === this.id && lost.has(lease));
    for (const lease of leases) this.book.close(lease);
  }

  /** Somebody has declared this process dead, and has its jobs: a new life under a new id, with nothing in hand. */
  private async startAnew(): Promise<void> {
    const dead = this.id;
    this.id = newRunnerId();
    this.registered = false;
    this.parts.logger.error(
      `Runner ${dead} was declared dead while it lived (was the process paused?): its leases are lost.`,
    );
    this.slots.withdraw(
      () => true,
      (job) => this.handlerOf(job),
    );
    this.runs.lose((_, runner) => runner === dead);
    this.book.clear();
    this.wakeup.signal();
  }

  private onBlocked(blockedMs: number): void {
    const running = this.runs.labels();
    this.parts.logger.warn(
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

  private async survey(): Promise<void> {
    const params = { names: this.parts.registry.names(), channels: this.settings.channels };
    const rows = await this.listener.transaction((client) => run(client, surveyFeeds, params));
    const [first] = rows;
    if (first === undefined) return;
    this.feeds.clock.heard(first.nowMicros);
    this.feeds.survey(rows.flatMap(({ feed }) => feed ?? []));
    this.suspectsMayWait ||= first.suspects;
    this.wakeup.signal();
  }

  private async rescueAndReport(): Promise<void> {
    for (const { job } of this.runs.takeStuck(this.settings.stuckAfterMs, performance.now())) this.reportStuck(job);
    await this.rescuer.turn();
  }

  private reportStuck(job: RunningJob): void {
    const runningMs = Math.round(performance.now() - job.startedAt);
    this.parts.logger.warn(`Job ${job.id} (${job.name}) has been running for ${runningMs} ms and does not end.`);
    this.parts.emit({ type: 'stuck', runningMs, ...factsOf(job.claimed) });
  }

  // ── shutdown ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Nothing is claimed or started any more; what was taken ahead goes back. */
  stopClaiming(): void {
    if (this.stopping) return;
    this.stopping = true;
    this.stopSignal.abort();
    this.wakeup.signal();
    this.releaseAhead();
  }

  /** Waits for the running handlers, aborts them when the grace is over, and writes what ended. The rest is left to its lease. */
  async drain(): Promise<void> {
    this.stopClaiming();
    if (this.claiming === null) return;
    await this.claiming;
    await this.loops.poll.stop();
    await this.loops.prune.stop();
    await this.markStopping();
    if (!(await this.runs.idle(this.settings.shutdownGraceMs))) {
      this.runs.abortAll(() => new QueueClosedError('The job was still running'));
      await this.runs.idle(ABORT_WAIT_MS);
    }
    await within(SETTLE_WAIT_MS, this.settler.idle());
    await this.loops.rescue.stop();
    await this.keeper.stop();
    await this.leave();
    await this.parts.notifier.idle();
    this.wakeUps.stop();
    await Promise.all([this.listener.stop(), this.claimConnection.close(), this.settleConnection.close()]);
  }

  private releaseAhead(): void {
    for (const job of this.slots.withdraw(
      () => true,
      (claimed) => this.handlerOf(claimed),
    )) {
      this.settler.settle({
        job,
        outcome: RELEASED,
        policy: this.parts.policies.of(job, this.handlerOf(job)),
        durationMs: 0,
      });
    }
  }

  /** A rescuer gives the attempt back to whatever outlasts this shutdown. */
  private async markStopping(): Promise<void> {
    if (this.registered)
      await this.attempt('Marking the shutdown', () =>
        this.claimConnection.transaction((client) => run(client, markStopping, { runner: this.id })),
      );
  }

  private async leave(): Promise<void> {
    if (this.registered)
      await this.attempt('Leaving', () =>
        this.claimConnection.transaction((client) => run(client, forgetRunners, { runner: this.id })),
      );
  }

  /** A shutdown goes on without the database. */
  private async attempt(what: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await within(SETTLE_WAIT_MS, work());
    } catch (error) {
      this.parts.logger.warn(`${what} failed; the jobs are safe with their leases: ${messageOf(error)}`);
    }
  }
}

/** 63 random bits: an id that a crash of the server cannot hand out again. */
function newRunnerId(): string {
  return (randomBytes(8).readBigUInt64BE() >> 1n).toString();
}

/** All handlers without a limit of their own are claimed for together, each other one by itself. */
function handlerGroups(registry: HandlerRegistry, slots: Slots): HandlerGroup[] {
  const namesOf = (handler: RegisteredHandler): string[] => [handler.name, ...handler.formerNames];
  const handlers = registry.handlers();
  const shared = handlers.filter(({ concurrency }) => concurrency === null).flatMap(namesOf);
  const limited = handlers
    .filter(({ concurrency }) => concurrency !== null)
    .map((handler) => ({ names: namesOf(handler), channel: handler.channel, capacity: () => slots.room(handler) }));
  return shared.length === 0 ? limited : [{ names: shared, channel: null, capacity: () => Infinity }, ...limited];
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  await Promise.race([work, new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)))]);
  clearTimeout(timer);
}
