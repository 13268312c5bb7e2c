import {
  Logger,
  type BeforeApplicationShutdown,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
  type OnModuleDestroy,
  type OnModuleInit,
} from '@nestjs/common';
import type { ClientConfig } from 'pg';
import { Subject } from 'rxjs';
import type { DataSource, EntityManager } from 'typeorm';
import { HandlerRegistry } from './handlers/handler.registry.js';
import { agreeOnPartitions } from './handlers/partitions.js';
import { Policies } from './handlers/policies.js';
import { JobWaiter } from './inspect/job-waiter.js';
import { DeadLetters } from './inspect/dead-letters.js';
import { Queue } from './inspect/queue.js';
import { DatabaseUnavailableError, InvalidOptionsError, messageOf, SchemaMissingError } from './job/errors.js';
import type { QueueEvent } from './job/events.js';
import { withinMs } from './job/time-limit.js';
import type { LoopBoard } from './maintenance/loop-board.js';
import { Connection } from './postgres/connection.js';
import { connectionOptionsOf, listenOptionsOf } from './postgres/connection-options.js';
import { Notifier } from './postgres/notifier.js';
import { maxTransactionsOf, poolSizeOf } from './postgres/pool-share.js';
import { withPoolClient, withPoolTransaction } from './postgres/pool-client.js';
import { TransactionWatch } from './postgres/transaction-watch.js';
import type { ResolvedQueueOptions } from './queue.options.js';
import { QueueRunner, type RunnerParts, type RunnerSettings } from './runner/queue-runner.js';
import { SingleRun } from './runner/single-run.js';
import { SingleRuns } from './runner/single-runs.js';
import { Holds } from './spawn/holds.js';
import { JobSpawner } from './spawn/job-spawner.js';
import { KeyedSpawns } from './spawn/keyed-spawns.js';
import { plainSpawns } from './spawn/spawn-queue.js';
import { findSchemaVersion, SCHEMA_VERSION } from './statements/check-schema.js';
import { run, type SqlClient } from './statements/statement.js';
import { beginReading } from './statements/transaction.js';
import { findEnded } from './statements/wait-for.js';

export interface QueueInstanceParts {
  readonly name: string;
  readonly options: ResolvedQueueOptions;
  readonly dataSource: DataSource;
  /** Fills the registry once all providers exist. */
  readonly explore: (registry: HandlerRegistry) => void;
  readonly board: () => LoopBoard | null;
  /** Throws when another module has the same name. */
  readonly checkUnique: () => void;
}

/** How long the last spawns may take at shutdown. */
const CLOSE_LIMIT_MS = 5_000;

/** A `spawnMany` of a million jobs takes its time. */
const BULK_SPAWN_MS = 300_000;

/** How long after boot it is looked whether signals will reach the shutdown hooks. */
const HOOKS_CHECK_MS = 5_000;

/** One queue of an application, put together from its parts, in Nest's phases. */
export class QueueInstance
  implements OnModuleInit, OnApplicationBootstrap, OnModuleDestroy, BeforeApplicationShutdown, OnApplicationShutdown
{
  readonly spawner: JobSpawner;
  readonly queue: Queue;
  readonly deadLetters: DeadLetters;
  private readonly logger: Logger;
  private readonly events = new Subject<QueueEvent>();
  private readonly registry: HandlerRegistry;
  private readonly connectionOptions: ClientConfig;
  private readonly side: Connection;
  private readonly notifier: Notifier;
  private readonly policies: Policies;
  private readonly watch: TransactionWatch;
  private readonly waiter: JobWaiter;
  private readonly singleRuns = new SingleRuns((channels) => this.makeSingleRun(channels));
  private runner: QueueRunner | null = null;
  private prepared = false;
  private hooksTimer: NodeJS.Timeout | undefined;

  constructor(private readonly parts: QueueInstanceParts) {
    const { options, dataSource } = parts;
    const { schema, namedStatements } = options;
    this.logger = new Logger(parts.name === 'default' ? 'QueueModule' : `QueueModule ${parts.name}`);
    this.registry = new HandlerRegistry({ instance: parts.name, defaults: options.defaults });
    this.connectionOptions = connectionOptionsOf(dataSource);
    this.side = new Connection({
      options: this.connectionOptions,
      schema,
      namedStatements,
      role: 'spawn',
      answerTimeoutMs: BULK_SPAWN_MS,
    });
    this.notifier = new Notifier(this.side, schema, this.logger);
    this.policies = new Policies((work) => this.side.transaction(work), this.logger);
    this.watch = new TransactionWatch(dataSource);
    const wake = (messages: readonly string[]): void => this.wake(messages);
    const onJoined = (manager: EntityManager): void => this.watch.watch(manager);
    this.spawner = new JobSpawner(
      this.registry,
      { ...options, dataSource },
      plainSpawns(this.side, wake),
      new KeyedSpawns({ ...options, dataSource }, this.side, wake, onJoined),
      new Holds({ ...options, dataSource }, this.side, wake, onJoined),
      onJoined,
    );
    const read = <T>(work: (client: SqlClient) => Promise<T>): Promise<T> =>
      withPoolClient(dataSource, { schema, namedStatements }, work);
    this.waiter = new JobWaiter((ids) => read((client) => run(client, findEnded, { ids })), this.events);
    this.queue = new Queue({
      schema,
      names: () => this.registry.names(),
      events: this.events.asObservable(),
      read,
      readMoment: (work, begin = beginReading) =>
        withPoolTransaction(dataSource, { schema, namedStatements }, work, begin),
      write: (work, begin) => this.side.transaction(work, begin),
      wake,
      emit: (event) => this.events.next(event),
      keepMs: options.finishedRetentionMs,
      waiter: this.waiter,
      running: () => (this.runner?.running ?? 0) + this.singleRuns.running,
      idle: (timeoutMs) => this.idle(timeoutMs),
      runOne: (channels) => this.singleRuns.runOne(channels),
    });
    this.deadLetters = new DeadLetters({
      keepMs: options.finishedRetentionMs,
      read: (work, begin) => withPoolTransaction(dataSource, { schema, namedStatements }, work, begin),
      write: (work, begin) => this.side.transaction(work, begin),
      wake,
    });
  }

  async onModuleInit(): Promise<void> {
    try {
      this.parts.checkUnique();
      this.parts.explore(this.registry);
      if (this.parts.options.runner) this.checkPool();
      await this.boot();
    } catch (error) {
      // No hook is called after a boot that failed.
      await this.side.close();
      throw error;
    }
    this.watch.start();
  }

  onApplicationBootstrap(): void {
    if (!this.parts.options.runner) return;
    this.runner = this.makeRunner();
    this.runner.start();
    this.hooksTimer = setTimeout(() => this.checkShutdownHooks(), HOOKS_CHECK_MS).unref();
  }

  onModuleDestroy(): void {
    clearTimeout(this.hooksTimer);
    this.runner?.stopClaiming();
  }

  /** TypeORM closes its pool in the next phase: until then handlers may use it, and spawn. */
  async beforeApplicationShutdown(): Promise<void> {
    await Promise.all([this.runner?.drain(), this.singleRuns.drain()]);
    // Before the HTTP server waits for the requests that wait for a job.
    await this.waiter.close();
  }

  async onApplicationShutdown(): Promise<void> {
    this.watch.stop();
    try {
      await withinMs(CLOSE_LIMIT_MS, Promise.all([this.spawner.close(), this.notifier.idle()]));
    } catch (error) {
      this.logger.warn(`The last spawns or wake-ups did not go out: ${messageOf(error)}`);
    }
    await this.side.close();
    this.events.complete();
  }

  private wake(messages: readonly string[]): void {
    this.runner?.tell(messages);
    this.singleRuns.tell(messages);
    this.notifier.send(messages);
  }

  private async idle(timeoutMs: number | null): Promise<boolean> {
    const answers = await Promise.all([this.runner?.idle(timeoutMs) ?? true, this.singleRuns.idle(timeoutMs)]);
    return answers.every(Boolean);
  }

  private makeRunner(): QueueRunner {
    return new QueueRunner(this.runnerSettings(), this.runnerParts());
  }

  private makeSingleRun(channels: readonly string[] | null): SingleRun {
    if (this.parts.options.runner) {
      throw new InvalidOptionsError('runner', true, 'Set it to false where `queue.runOne` runs the jobs.');
    }
    const settings = this.runnerSettings();
    return new SingleRun({ ...settings, channels: channels ?? settings.channels }, this.runnerParts());
  }

  private runnerSettings(): RunnerSettings {
    const { name, options, dataSource } = this.parts;
    return {
      ...options,
      ...options.concurrency,
      instance: name,
      dataSource,
      // `runOne` runs in an application that checks nothing at its boot.
      maxTransactions: Math.max(1, maxTransactionsOf(dataSource)),
      options: this.connectionOptions,
      listenOptions: listenOptionsOf(this.connectionOptions, options.listenUrl),
    };
  }

  private runnerParts(): RunnerParts {
    return {
      registry: this.registry,
      policies: this.policies,
      notifier: this.notifier,
      prepare: () => this.prepare(),
      board: this.parts.board(),
      logger: this.logger,
      emit: (event) => this.events.next(event),
      observed: () => this.events.observed,
    };
  }

  /** Transactional handlers take connections of the application's pool, and leave some of them free. */
  private checkPool(): void {
    const transactional = this.registry.handlers().filter(({ isolation }) => isolation !== null);
    const [first] = transactional;
    if (first === undefined) return;
    const size = poolSizeOf(this.parts.dataSource);
    const most = maxTransactionsOf(this.parts.dataSource);
    if (most < 1) throw new InvalidOptionsError('poolSize', size, `${first.label} is transactional, which takes a connection for each run and leaves 2 free: give the DataSource 3 or more, better 2 more than runs at once.`); // prettier-ignore
    const { max } = this.parts.options.concurrency;
    this.logger.log(
      `At most ${Math.min(most, max)} transactional runs at once: the pool has ${size} connections, of which 2 stay free, and \`concurrency\` is ${max}.`,
    );
  }

  /** A missing migration ends the boot; a database that is down does not: the runner goes on trying. */
  private async boot(): Promise<void> {
    try {
      await this.prepare();
    } catch (error) {
      if (!(error instanceof DatabaseUnavailableError)) throw error;
      this.logger.warn(`Started without the database, which is tried again: ${messageOf(error)}`);
    }
  }

  /** Once: makes sure of the tables and of the partitions, and stores what the handlers promise. */
  private async prepare(): Promise<void> {
    if (this.prepared) return;
    const { schema } = this.parts.options;
    const [version] = await this.side.transaction((client) => run(client, findSchemaVersion, {}));
    if (version !== SCHEMA_VERSION) throw new SchemaMissingError(schema, version ?? 'nothing is there');
    await this.side.transaction((client) => agreeOnPartitions(client, this.registry.handlers()));
    await this.policies.store(this.registry.handlers());
    this.prepared = true;
  }

  private checkShutdownHooks(): void {
    if (process.listenerCount('SIGTERM') > 0 || process.listenerCount('SIGINT') > 0) return;
    this.logger.warn('Running jobs are cut off by a SIGTERM: call app.enableShutdownHooks() so that they can end.');
  }
}
