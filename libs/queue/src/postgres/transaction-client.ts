import type { DataSource, EntityManager, QueryRunner } from 'typeorm';
import { InvalidManagerError } from '../job/errors.js';
import { BINARY_ARRAYS, TEXT_ARRAYS } from '../statements/array-format.js';
import type { SqlClient, SqlQuery } from '../statements/statement.js';
import { pinPlan, unpinPlan } from '../statements/transaction.js';
import { BundleError, canBundle, sendTogether, type QueryingClient } from './query-bundle.js';
import { asQueueError } from './sqlstate.js';

/** The part of pg's client that we use; structural, since an application may have another copy of pg. */
interface PgClient extends QueryingClient {
  query(query: unknown): Promise<{ rows: unknown[][] }>;
  readonly pipeline?: boolean;
  readonly connection?: { readonly bind?: unknown };
  /** Nothing is under way, and the status is the latest. */
  readonly readyForQuery?: boolean;
  getTransactionStatus?(): string | null;
}

export interface TransactionClientSettings {
  readonly dataSource: DataSource;
  readonly schema: string;
  readonly namedStatements: boolean;
}

/**
 * The connection of a caller's open transaction. Statements go to pg's client itself: TypeORM's `query` has no place
 * for the name of a prepared statement.
 *
 * @throws {InvalidManagerError} unless the manager has an open transaction on this DataSource
 */
export async function transactionClient(
  manager: EntityManager,
  settings: TransactionClientSettings,
): Promise<SqlClient> {
  const { queryRunner } = manager ?? {};
  // The names differ between TypeORM 0.3 (`connection`) and 1 (`dataSource`).
  const owner = manager as unknown as { connection?: DataSource; dataSource?: DataSource } | null;
  if ((owner?.dataSource ?? owner?.connection) !== settings.dataSource) {
    throw new InvalidManagerError(
      'it belongs to another DataSource. Use the manager that `dataSource.transaction` gives.',
    );
  }
  if (!queryRunner?.isTransactionActive || hasEnded(queryRunner)) {
    throw new InvalidManagerError(
      'it has no open transaction. Use the manager that `dataSource.transaction` gives, inside its callback.',
    );
  }
  const client = (await queryRunner.connect()) as PgClient;
  return {
    schema: settings.schema,
    namedStatements: settings.namedStatements,
    arrays: isNative(client) ? TEXT_ARRAYS : BINARY_ARRAYS,
    query: async (query) => {
      try {
        return await client.query(query);
      } catch (error) {
        throw asQueueError(error);
      }
    },
  };
}

/** pg-native, which TypeORM takes where it is installed, sends text only. */
const isNative = ({ connection }: PgClient): boolean => typeof connection?.bind !== 'function';

/**
 * The same for statements that have one right plan, as in our own transactions. On a table that was nearly empty when it
 * was analyzed the planner would read all of it, which is slow when it has grown, and under SERIALIZABLE makes runs refuse
 * each other that have nothing in common.
 */
export async function pinnedTransactionClient(
  manager: EntityManager,
  settings: TransactionClientSettings,
): Promise<SqlClient> {
  const client = await transactionClient(manager, settings);
  const pgClient = (await manager.queryRunner!.connect()) as PgClient;
  const [pin, unpin] = [pinPlan.query(client, {}), unpinPlan.query(client, {})];
  return { ...client, query: (query) => sendPinned(pgClient, [pin, query, unpin]) };
}

/** In one round trip, and in one piece: several may be under way in one transaction. */
async function sendPinned(client: PgClient, queries: [SqlQuery, SqlQuery, SqlQuery]): Promise<{ rows: unknown[][] }> {
  try {
    if (canBundle(client)) return await sendTogether(client, queries, { place: 1 });
    const [, answer] = await Promise.all(queries.map((query) => client.query(query)));
    return answer!;
  } catch (error) {
    throw asQueueError(error instanceof BundleError ? error.cause : error);
  }
}

/**
 * Whether a statement has failed in the transaction, so that its COMMIT would be answered with ROLLBACK. pg rejects a
 * failed statement before it has read the server's word on the transaction, which may come in a later packet; an empty
 * statement, allowed also in an aborted transaction, waits for it.
 */
export async function isAborted(manager: EntityManager): Promise<boolean> {
  const client = (await manager.queryRunner?.connect()) as PgClient | undefined;
  if (client?.readyForQuery !== true) await client?.query('');
  return client?.getTransactionStatus?.() === 'E';
}

/** Whether the transaction of a manager is still to be ended. */
export function hasOpenTransaction({ queryRunner }: EntityManager): boolean {
  return (
    queryRunner !== undefined && !queryRunner.isReleased && queryRunner.isTransactionActive && !hasEnded(queryRunner)
  );
}

/** Those whose COMMIT or ROLLBACK is under way: what is sent behind that would be committed by itself. */
const ended = new WeakSet<QueryRunner>();

/** Nothing of ours is sent through it any more. */
export function endTransaction(queryRunner: QueryRunner): void {
  ended.add(queryRunner);
}

/** Whether its transaction was ended by {@link endTransaction}. */
export function hasEnded(queryRunner: QueryRunner): boolean {
  return ended.has(queryRunner);
}
