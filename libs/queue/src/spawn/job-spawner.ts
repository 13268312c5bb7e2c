import type { DataSource, EntityManager } from 'typeorm';
import {
  InvalidOptionsError,
  PayloadInvalidError,
  PayloadTooLargeError,
  QueueClosedError,
  ReservationError,
  SpawnItemError,
  UnknownJobError,
} from '../job/errors.js';
import type { HandlerClass, RegisteredHandler } from '../job/handler.js';
import type { JobId } from '../job/job.js';
import { validatePayload } from '../job/validate-payload.js';
import { PartitionOutOfRangeError } from '../job/partition-errors.js';
import { checkJobId } from '../job/names.js';
import { transactionClient } from '../postgres/transaction-client.js';
import { chunksOf, insertJobsInTransaction } from '../statements/insert-jobs.js';
import type { NewJob } from '../statements/new-job.js';
import { run } from '../statements/statement.js';
import { notifyChannelOf } from '../statements/wake-up.js';
import { checkOptions, managerOf } from './check-options.js';
import type { Holds } from './holds.js';
import type { KeyedSpawns } from './keyed-spawns.js';
import { prepareJob, type Target } from './prepare-job.js';
import { Reservation } from './reservation.js';
import type {
  HandlerMethod,
  HoldOption,
  JobSpawnOptions,
  PayloadOf,
  SpawnItem,
  SpawnOptions,
  SpawnResult,
  TransactionOption,
} from './spawn-options.js';
import type { SpawnQueue } from './spawn-queue.js';

/** Where the spawner looks names up. */
export interface SpawnTargets {
  find(name: string): RegisteredHandler | undefined;
  findMethod(ownerClass: HandlerClass, method: string): RegisteredHandler;
  names(): readonly string[];
}

export interface SpawnerSettings {
  readonly dataSource: DataSource;
  readonly schema: string;
  readonly namedStatements: boolean;
  readonly maxPayloadBytes: number;
  readonly openNames: boolean;
}

/** Sends jobs. Inject it wherever a service has something to be done later. */
export class JobSpawner {
  private closed = false;

  /** @internal made by `QueueModule` */
  constructor(
    private readonly targets: SpawnTargets,
    private readonly settings: SpawnerSettings,
    private readonly queue: SpawnQueue<JobId>,
    private readonly keyed: KeyedSpawns,
    private readonly holds: Holds,
    private readonly onJoined: (manager: EntityManager) => void,
  ) {}

  /**
   * Sends one job to a handler. The payload's type is the handler's.
   *
   * @param handler class with the `@JobHandler`
   * @param method  name of the method
   * @param payload JSON value, with `bytes` and `metadata` at most `maxPayloadBytes` (65 536) once encoded
   * @param options `manager` to join a transaction; else the job is committed when the call resolves
   * @returns the id: a decimal string, since Postgres `bigint` exceeds a JavaScript number
   * @throws {UnknownJobError} when the method is no handler
   * @throws {PayloadInvalidError | PayloadTooLargeError | InvalidOptionsError | PartitionOutOfRangeError} before any SQL; the transaction stays usable
   * @throws {TransactionAbortedError} when an earlier statement of the transaction failed
   * @throws {TransactionConflictError} when another transaction was in the way; run the whole transaction again
   * @throws {IdempotencyConflictError} with `strict`, when the key's earlier job is another one; the transaction stays usable
   * @throws {DatabaseUnavailableError} when the database cannot be reached
   * @example await this.jobs.spawn(Mailer, 'welcome', { userId: user.id }, { manager });
   * @see docs/spawning.md · modelled on River's `InsertTx`
   */
  spawn<T, Method extends HandlerMethod<T>>(
    handler: HandlerClass<T>,
    method: Method,
    payload: PayloadOf<T, Method>,
    options: SpawnOptions & HoldOption,
  ): Promise<Reservation>;
  spawn<T, Method extends HandlerMethod<T>>(
    handler: HandlerClass<T>,
    method: Method,
    payload: PayloadOf<T, Method>,
    options?: SpawnOptions,
  ): Promise<SpawnResult>;
  /**
   * Sends one job by its handler's name; the payload is checked by the handler's schema, at run time only.
   *
   * @param name name of the job, one of this application's handlers unless `openNames` is set; then `channel` is needed
   * @example await this.jobs.spawn('Mailer.welcome', { userId });
   */
  spawn(name: string, payload: unknown, options: SpawnOptions & HoldOption): Promise<Reservation>;
  spawn(name: string, payload?: unknown, options?: SpawnOptions): Promise<SpawnResult>;
  async spawn(...call: [unknown, unknown?, unknown?, unknown?]): Promise<SpawnResult> {
    const byName = typeof call[0] === 'string';
    const target = byName ? this.byName(call[0] as string) : this.byMethod(call[0], call[1]);
    const payload = byName ? call[1] : call[2];
    const { manager, ...options } = checkOptions((byName ? call[2] : call[3]) as SpawnOptions | undefined);
    const schema = target.handler?.schema;
    if (schema) await validatePayload(schema, target.name, payload);
    const job = prepareJob(target, payload, options, this.settings.maxPayloadBytes);
    const [answer] = await this.insert([job], manager);
    return answer!;
  }

  /**
   * Sends many jobs to one handler, all or none. Any number works; nothing is sent for `[]`.
   *
   * @returns the answers in the order of the items
   * @throws {SpawnItemError} naming the index of the item that is wrong, before any SQL
   * @example await this.jobs.spawnMany(Mailer, 'welcome', users.map(({ id }) => ({ payload: { userId: id }, key: id })));
   */
  spawnMany<T, Method extends HandlerMethod<T>>(
    handler: HandlerClass<T>,
    method: Method,
    items: readonly (SpawnItem<PayloadOf<T, Method>> & HoldOption)[],
    options?: TransactionOption,
  ): Promise<Reservation[]>;
  spawnMany<T, Method extends HandlerMethod<T>>(
    handler: HandlerClass<T>,
    method: Method,
    items: readonly SpawnItem<PayloadOf<T, Method>>[],
    options?: TransactionOption,
  ): Promise<SpawnResult[]>;
  /** Sends many jobs by the names of their handlers, all or none. The answer to an item with `hold` is a {@link Reservation}. */
  spawnMany(
    items: readonly (SpawnItem & HoldOption & { name: string })[],
    options?: TransactionOption,
  ): Promise<Reservation[]>;
  spawnMany(items: readonly (SpawnItem & { name: string })[], options?: TransactionOption): Promise<SpawnResult[]>;
  async spawnMany(...call: [unknown, unknown?, unknown?, unknown?]): Promise<SpawnResult[]> {
    const byName = Array.isArray(call[0]);
    const items = (byName ? call[0] : call[2]) as readonly (SpawnItem & { name: string })[];
    if (!Array.isArray(items)) throw new InvalidOptionsError('items', items, 'Give an array of { payload, … }.');
    const manager = managerOf(
      (byName ? call[1] : call[3]) as TransactionOption | undefined,
      'Only "manager" is of the whole call: give it with each item.',
    );
    const target = byName ? null : this.byMethod(call[0], call[1]);
    const jobs: NewJob[] = [];
    for (const [index, item] of items.entries()) {
      try {
        const { payload, options, of } = this.readItem(item, target);
        // To wait for nothing costs as much as all the rest.
        if (of.handler?.schema) await validatePayload(of.handler.schema, of.name, payload);
        jobs.push(prepareJob(of, payload, options, this.settings.maxPayloadBytes));
      } catch (error) {
        throw isItemError(error) ? new SpawnItemError(index, error) : error;
      }
    }
    if (jobs.length === 0) return [];
    return this.insert(jobs, manager);
  }

  /**
   * Commits jobs that were spawned with `hold`, so that they run. What cannot be committed is left out of the answer:
   * expired, released, committed before, unknown, or locked by another transaction for 5 s.
   *
   * @param reservations what `spawn` has answered, or ids, from any process
   * @param options      `manager` to commit them with a transaction; else they are committed when the call resolves
   * @returns exactly the ids that this call has committed, in the order given
   * @throws {InvalidOptionsError} when one is neither a reservation nor an id, {@link ReservationError} when one was made
   *   by another queue; nothing is committed then
   * @throws {TransactionAbortedError | InvalidManagerError | DatabaseUnavailableError}
   * @example const committed = await this.jobs.commit(reservations, { manager });
   * @see docs/two-phase-commit.md
   */
  async commit(reservations: readonly (Reservation | JobId)[], options?: TransactionOption): Promise<JobId[]> {
    if (!Array.isArray(reservations)) {
      throw new InvalidOptionsError('reservations', reservations, 'Give an array of reservations or ids.');
    }
    const manager = managerOf(options);
    const ids = [...new Set(reservations.map((reservation) => this.heldId(reservation)))];
    if (ids.length === 0) return [];
    if (this.closed) throw new QueueClosedError('Reservations were committed');
    const committed = await this.holds.commit(ids, manager);
    return ids.filter((id) => committed.has(id));
  }

  /** Waits for the spawns under way and refuses later ones. @internal */
  async close(): Promise<void> {
    this.closed = true;
    await Promise.all([this.queue.idle(), this.keyed.idle()]);
  }

  /** @param target whom all items of the call are for; `null`: each names its own */
  private readItem(item: SpawnItem & { name: string }, target: Target | null): ReadItem {
    const { payload, ...options } = checkItem(item);
    if (target !== null) return { of: target, payload, options };
    const { name, ...rest } = options;
    return { of: this.byName(name), payload, options: rest };
  }

  private heldId(reservation: unknown): JobId {
    if (!(reservation instanceof Reservation)) return checkJobId(reservation, 'reservations');
    if (!reservation.isOf(this.holds)) throw new ReservationError(reservation.id, 'foreign');
    return reservation.id;
  }

  private async insert(jobs: readonly NewJob[], manager: EntityManager | undefined): Promise<SpawnResult[]> {
    if (this.closed) throw new QueueClosedError('A job was spawned');
    const now = performance.now();
    const answers = jobs.some(({ idempotency }) => idempotency !== null)
      ? await this.keyed.insert(jobs, manager)
      : await this.insertPlain(manager, jobs);
    return jobs.map(({ holdMs }, index) => {
      const answer = answers[index]!;
      return holdMs === null ? answer : new Reservation(answer, now + holdMs, this.holds);
    });
  }

  private async insertPlain(manager: EntityManager | undefined, jobs: readonly NewJob[]): Promise<SpawnResult[]> {
    const ids = await (manager === undefined ? this.queue.insert(jobs) : this.insertIn(manager, jobs));
    return ids.map((id) => ({ id, isNew: true }));
  }

  private async insertIn(manager: EntityManager, jobs: readonly NewJob[]): Promise<JobId[]> {
    const client = await transactionClient(manager, this.settings);
    this.onJoined(manager);
    const notifyChannel = notifyChannelOf(this.settings.schema);
    const ids: JobId[] = [];
    for (const chunk of chunksOf(jobs)) {
      const [row] = await run(client, insertJobsInTransaction, { jobs: chunk, notifyChannel });
      ids.push(...(row?.ids ?? []));
    }
    return ids;
  }

  private byName(name: string): Target {
    const handler = this.targets.find(name);
    if (handler !== undefined) return { name: handler.name, handler };
    if (this.settings.openNames && typeof name === 'string') return { name, handler: null };
    throw new UnknownJobError(String(name), this.targets.names());
  }

  private byMethod(handler: unknown, method: unknown): Target {
    if (typeof handler !== 'function' || typeof method !== 'string') {
      throw new InvalidOptionsError(
        'handler',
        handler,
        'Give the class and the method of a @JobHandler, or the name of a job.',
      );
    }
    const found = this.targets.findMethod(handler as HandlerClass<unknown>, method);
    return { name: found.name, handler: found };
  }
}

interface ReadItem {
  readonly of: Target;
  readonly payload: unknown;
  readonly options: JobSpawnOptions;
}

function checkItem<Item>(item: Item): Item {
  if (typeof item === 'object' && item !== null && !Array.isArray(item)) return item;
  throw new InvalidOptionsError('item', item, 'Give an object with a `payload`, and options beside it.');
}

function isItemError(error: unknown): error is Error {
  const kinds = [
    InvalidOptionsError,
    PartitionOutOfRangeError,
    PayloadInvalidError,
    PayloadTooLargeError,
    UnknownJobError,
  ];
  return kinds.some((kind) => error instanceof kind);
}
