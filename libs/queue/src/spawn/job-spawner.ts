import type { DataSource, EntityManager } from 'typeorm';
import {
  InvalidOptionsError,
  PayloadInvalidError,
  PayloadTooLargeError,
  QueueClosedError,
  SpawnItemError,
  UnknownJobError,
} from '../job/errors.js';
import type { HandlerClass, RegisteredHandler } from '../job/handler.js';
import type { JobId } from '../job/job.js';
import { transactionClient } from '../postgres/transaction-client.js';
import { chunksOf, insertJobsInTransaction, type NewJob } from '../statements/insert-jobs.js';
import { run } from '../statements/statement.js';
import { notifyChannelOf } from '../statements/wake-up.js';
import { prepareJob, type Target } from './prepare-job.js';
import type {
  HandlerMethod,
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
    private readonly queue: SpawnQueue,
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
   * @throws {PayloadInvalidError | PayloadTooLargeError | InvalidOptionsError} before any SQL; the transaction stays usable
   * @throws {TransactionAbortedError} when an earlier statement of the transaction failed
   * @throws {TransactionConflictError} when another transaction was in the way; run the whole transaction again
   * @throws {DatabaseUnavailableError} when the database cannot be reached
   * @example await this.jobs.spawn(Mailer, 'welcome', { userId: user.id }, { manager });
   * @see docs/spawning.md · modelled on River's `InsertTx`
   */
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
  spawn(name: string, payload?: unknown, options?: SpawnOptions): Promise<SpawnResult>;
  async spawn(...call: [unknown, unknown?, unknown?, unknown?]): Promise<SpawnResult> {
    const byName = typeof call[0] === 'string';
    const target = byName ? this.byName(call[0] as string) : this.byMethod(call[0], call[1]);
    const payload = byName ? call[1] : call[2];
    const { manager, ...options } = checkOptions((byName ? call[2] : call[3]) as SpawnOptions | undefined);
    const job = await prepareJob(target, payload, options, this.settings.maxPayloadBytes);
    const [id] = await this.insert([job], manager);
    return { id: id!, isNew: true };
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
    items: readonly SpawnItem<PayloadOf<T, Method>>[],
    options?: TransactionOption,
  ): Promise<SpawnResult[]>;
  /** Sends many jobs by the names of their handlers, all or none. */
  spawnMany(items: readonly (SpawnItem & { name: string })[], options?: TransactionOption): Promise<SpawnResult[]>;
  async spawnMany(...call: [unknown, unknown?, unknown?, unknown?]): Promise<SpawnResult[]> {
    const byName = Array.isArray(call[0]);
    const items = (byName ? call[0] : call[2]) as readonly (SpawnItem & { name: string })[];
    if (!Array.isArray(items)) throw new InvalidOptionsError('items', items, 'Give an array of { payload, … }.');
    const { manager, ...others } = checkOptions((byName ? call[1] : call[3]) as TransactionOption | undefined);
    checkNone(others);
    const target = byName ? null : this.byMethod(call[0], call[1]);
    const jobs: NewJob[] = [];
    for (const [index, item] of items.entries()) jobs.push(await this.prepareItem(index, item, target));
    if (jobs.length === 0) return [];
    return (await this.insert(jobs, manager)).map((id) => ({ id, isNew: true }));
  }

  /** Waits for the spawns under way and refuses later ones. @internal */
  async close(): Promise<void> {
    this.closed = true;
    await this.queue.idle();
  }

  private async prepareItem(index: number, item: SpawnItem & { name: string }, target: Target | null): Promise<NewJob> {
    try {
      const { maxPayloadBytes } = this.settings;
      const { payload, ...options } = checkItem(item);
      if (target !== null) return await prepareJob(target, payload, options, maxPayloadBytes);
      const { name, ...rest } = options;
      return await prepareJob(this.byName(name), payload, rest, maxPayloadBytes);
    } catch (error) {
      if (isItemError(error)) throw new SpawnItemError(index, error);
      throw error;
    }
  }

  private async insert(jobs: readonly NewJob[], manager: EntityManager | undefined): Promise<JobId[]> {
    if (this.closed) throw new QueueClosedError('A job was spawned');
    if (manager === undefined) return this.queue.insert(jobs);
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

function checkOptions<Options extends object = SpawnOptions>(options: Options | undefined): Options {
  if (options === undefined) return {} as Options;
  if (typeof options === 'object' && options !== null && !Array.isArray(options)) return options;
  throw new InvalidOptionsError('options', options, 'Give an object such as { manager, key, delay }.');
}

function checkNone(options: object): void {
  const [[option, value] = []] = Object.entries(options);
  if (option === undefined) return;
  throw new InvalidOptionsError(option, value, 'Only "manager" is of the whole call: give it with each item.');
}

function checkItem<Item>(item: Item): Item {
  if (typeof item === 'object' && item !== null && !Array.isArray(item)) return item;
  throw new InvalidOptionsError('item', item, 'Give an object with a `payload`, and options beside it.');
}

function isItemError(error: unknown): error is Error {
  return [InvalidOptionsError, PayloadInvalidError, PayloadTooLargeError, UnknownJobError].some(
    (kind) => error instanceof kind,
  );
}
