import type { DataSource, EntityManager, QueryRunner } from 'typeorm';
import { DatabaseUnavailableError, TransactionAbortedError } from '../job/errors.js';
import type { IsolationLevel } from '../job/handler.js';
import { endsWithin } from '../job/time-limit.js';
import type { SqlQuery } from '../statements/statement.js';
import { beginRun, commit, rollback } from '../statements/transaction.js';
import {
  canBundle,
  QueryBundle,
  sendTogether,
  type BundleError,
  type Query,
  type QueryingClient,
} from './query-bundle.js';
import { asQueueError, sqlStateOf } from './sqlstate.js';
import { endTransaction, hasEnded } from './transaction-client.js';

/** The part of pg's client that we use; structural, since an application may have another copy of pg, or the native one. */
interface PgClient extends QueryingClient {
  query(query: unknown, ...more: unknown[]): Promise<{ command?: string }>;
  end(): Promise<void>;
  readonly processID?: number | null;
  readonly readyForQuery?: boolean | null;
  readonly pipeline?: boolean;
  readonly connection?: { readonly bind?: unknown; readonly stream?: { readonly localPort?: number } };
}

/** The server's side of a connection, by which another one may end it. */
export interface Backend {
  readonly pid: number;
  /** Our port, as the server sees it unless something stands between; −1 of a socket file. */
  readonly port: number;
}

export interface ManagedTransactionSettings {
  readonly dataSource: DataSource;
  readonly schema: string;
  readonly namedStatements: boolean;
}

/** A rollback that takes longer waits behind a statement that does not end. */
const ROLLBACK_LIMIT_MS = 5_000;

/** What TypeORM opens a transaction with. */
const START = 'START TRANSACTION';
const SET_LEVEL = 'SET TRANSACTION ISOLATION LEVEL ';

/** A statement that is sent with the COMMIT has failed: nothing is committed. */
export class RefusedCommitError extends Error {}

/**
 * A transaction on a connection of the application's pool, as TypeORM knows them, with its subscribers and savepoints. It
 * costs no round trip of its own: the statement that opens it, and says its level, goes out with the first one of the
 * handler, and the COMMIT with the last ones of ours. From then on nothing else goes through its manager: it would be
 * committed by itself.
 */
export class ManagedTransaction {
  /** What goes out before the COMMIT, `null`: nobody may commit. */
  private last: readonly SqlQuery[] | null = null;
  private committed = false;
  /** The statement that opens it, until it is sent. */
  private opening: Query | null;
  private readonly send: QueryRunner['query'];

  private constructor(
    private readonly queryRunner: QueryRunner,
    private readonly client: PgClient,
    begin: Query,
    private readonly closing: Query,
  ) {
    this.opening = begin;
    if (this.canBundle) {
      const opened = this.openedBefore(client);
      queryRunner.connect = () => Promise.resolve(this.opening === null ? client : opened);
    }
    this.send = queryRunner.query.bind(queryRunner) as QueryRunner['query'];
    queryRunner.query = ((...query: Parameters<QueryRunner['query']>) => this.route(...query)) as QueryRunner['query'];
  }

  /** @throws {DatabaseUnavailableError} */
  static async open(
    { dataSource, schema, namedStatements }: ManagedTransactionSettings,
    isolation: IsolationLevel,
  ): Promise<ManagedTransaction> {
    const queryRunner = dataSource.createQueryRunner();
    try {
      const client = (await queryRunner.connect()) as PgClient;
      const named = (name: string, text: string): Query =>
        namedStatements ? { name: `${schema}.${name}`, text } : text;
      const begin = named(isolation, beginRun(isolation));
      const transaction = new ManagedTransaction(queryRunner, client, begin, named('commit', commit));
      await queryRunner.startTransaction();
      return transaction;
    } catch (error) {
      await queryRunner.release();
      throw asQueueError(error);
    }
  }

  get manager(): EntityManager {
    return this.queryRunner.manager;
  }

  /**
   * Sends the statements and COMMIT in one round trip.
   *
   * @throws {RefusedCommitError} when one of the statements has failed by a division by zero, which is how they refuse
   * @throws {DatabaseUnavailableError} when only the database knows whether it is committed
   */
  async commit(last: readonly SqlQuery[]): Promise<void> {
    if (this.queryRunner.isReleased) throw new DatabaseUnavailableError({ cause: BROKEN });
    this.last = last;
    try {
      await this.queryRunner.commitTransaction();
    } catch (error) {
      // What a subscriber throws behind the COMMIT changes nothing.
      if (!this.committed) throw asQueueError(error);
    }
    if (!this.committed) throw new Error(NESTED);
    await this.queryRunner.release();
  }

  /** Never throws. Answers the server's side of the connection when that has to be ended, since it is busy. */
  async rollback(atOnce: boolean): Promise<Backend | null> {
    const { queryRunner, client } = this;
    endTransaction(queryRunner);
    if (queryRunner.isReleased) return null;
    const busy = client.readyForQuery === false;
    const backend = backendOf(client);
    const undone =
      (!atOnce || !busy) &&
      (await endsWithin(
        ROLLBACK_LIMIT_MS,
        this.rollBack().catch(() => undefined),
      ));
    if (!undone) client.end().catch(() => undefined);
    await queryRunner.release();
    return undone ? null : backend;
  }

  /** Where the server has rolled back already it only says so. */
  private async rollBack(): Promise<void> {
    const { queryRunner } = this;
    // Each of TypeORM's ends one savepoint, where the handler has left some open.
    for (let savepoints = 0; queryRunner.isTransactionActive && savepoints < 100; savepoints++) {
      await queryRunner.rollbackTransaction();
    }
  }

  private route(...query: Parameters<QueryRunner['query']>): Promise<unknown> {
    const [text] = query;
    if (text.startsWith(rollback)) {
      if (text === rollback) endTransaction(this.queryRunner);
      if (this.opening !== null) return Promise.resolve();
      return this.send(...query);
    }
    if (hasEnded(this.queryRunner)) return Promise.reject(new Error(ENDED));
    if (text === commit) return this.commitWithLast();
    if (text === START) return this.canBundle ? Promise.resolve() : this.openNow();
    // The DataSource's own level, instead of which ours is said.
    if (text.startsWith(SET_LEVEL)) return Promise.resolve();
    return this.send(...query);
  }

  private async commitWithLast(): Promise<void> {
    if (this.last === null) throw new Error(NOT_YOURS);
    endTransaction(this.queryRunner);
    const answer = this.canBundle ? await this.sendBundle(this.last) : await this.sendInTurn(this.last);
    // The server's answer to a COMMIT after a failed statement.
    if (answer.command === rollback) throw new TransactionAbortedError('run');
    this.committed = true;
  }

  /** The client, whose first statement opens the transaction too. */
  private openedBefore(client: PgClient): PgClient {
    const query = (...call: Parameters<PgClient['query']>): unknown => this.queryFirst(client, call);
    return new Proxy(client, { get: (target, name) => (name === 'query' ? query : Reflect.get(target, name)) });
  }

  private queryFirst(client: PgClient, call: Parameters<PgClient['query']>): unknown {
    const [query, values, callback] = call;
    const { opening } = this;
    this.opening = null;
    if (opening === null) return client.query(...call);
    if (query instanceof QueryBundle) {
      query.prepend(opening);
      return client.query(query);
    }
    // A cursor, or what else sends itself, stands behind it in the client's queue.
    if (!isSingle(query) || typeof values === 'function' || callback !== undefined) {
      client.query(opening).catch(() => undefined);
      return client.query(...call);
    }
    return sendTogether(client, [opening, query as Query], { place: 1, values: values as unknown[] }).catch(
      (error: BundleError) => {
        throw error.cause;
      },
    );
  }

  private async openNow(): Promise<void> {
    const { opening } = this;
    this.opening = null;
    if (opening !== null) await this.client.query(opening);
  }

  private get canBundle(): boolean {
    return canBundle(this.client);
  }

  private async sendBundle(last: readonly SqlQuery[]): Promise<{ command?: string }> {
    const first = this.opening === null ? last : [this.opening, ...last];
    this.opening = null;
    try {
      return await sendTogether(this.client, [...first, this.closing], { place: null });
    } catch (error) {
      const { done, cause } = error as BundleError;
      throw refusal(cause, done < first.length);
    }
  }

  private async sendInTurn(last: readonly SqlQuery[]): Promise<{ command?: string }> {
    for (const query of last) {
      await this.client.query(query).catch((error: unknown) => {
        throw refusal(error, true);
      });
    }
    return this.client.query(commit);
  }
}

/** One statement, and neither a cursor nor what may be several in one text. */
function isSingle(query: unknown): boolean {
  const text: unknown = typeof query === 'string' ? query : (query as { text?: unknown } | null)?.text;
  const sendsItself = typeof (query as { submit?: unknown } | null)?.submit === 'function';
  return typeof text === 'string' && !sendsItself && !text.includes(';');
}

const BROKEN = new Error('the connection of the transaction has ended');

const NESTED =
  'The handler has returned while a transaction inside of job.manager was still open: await it. The run was rolled back.';

const NOT_YOURS =
  'The transaction of job.manager is committed when the handler returns, and rolled back when it throws: do not end it yourself.';

const ENDED = 'The transaction of the run has ended: nothing is written through job.manager any more.';

/** @param early before the COMMIT */
function refusal(error: unknown, early: boolean): unknown {
  const state = sqlStateOf(error);
  if (early && state === '22012') return new RefusedCommitError('refused', { cause: error });
  if (state === '25P02') return new TransactionAbortedError('run', { cause: error });
  return error;
}

function backendOf({ processID, connection }: PgClient): Backend | null {
  if (typeof processID !== 'number') return null;
  return { pid: processID, port: connection?.stream?.localPort ?? -1 };
}
