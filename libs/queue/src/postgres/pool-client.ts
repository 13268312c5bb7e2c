import type { DataSource } from 'typeorm';
import type { SqlClient, SqlQuery } from '../statements/statement.js';
import { commit, rollback } from '../statements/transaction.js';
import { asQueueError } from './sqlstate.js';

export interface PoolSettings {
  readonly schema: string;
  readonly namedStatements: boolean;
}

/** Runs statements that only read on a connection of the application's pool: they may be slow, and hold up nothing of ours. */
export async function withPoolClient<T>(
  dataSource: DataSource,
  settings: PoolSettings,
  work: (client: SqlClient) => Promise<T>,
): Promise<T> {
  return withPgClient(dataSource, (client) => work({ ...settings, query: (query) => client.query(query) }));
}

/** The same in a transaction, for what an operator writes: it may be long, and holds up no spawn. */
export async function withPoolTransaction<T>(
  dataSource: DataSource,
  settings: PoolSettings,
  work: (client: SqlClient) => Promise<T>,
  begin: string,
): Promise<T> {
  return withPgClient(dataSource, async (client) => {
    await client.query(begin);
    try {
      const result = await work({ ...settings, query: (query) => client.query(query) });
      await client.query(commit);
      return result;
    } catch (error) {
      // Where that fails too the connection is gone, and the transaction with it.
      await client.query(rollback).catch(() => undefined);
      throw error;
    }
  });
}

interface PgClient {
  query(query: SqlQuery | string): Promise<{ rows: unknown[][] }>;
}

async function withPgClient<T>(dataSource: DataSource, work: (client: PgClient) => Promise<T>): Promise<T> {
  const queryRunner = dataSource.createQueryRunner();
  try {
    return await work((await queryRunner.connect()) as PgClient);
  } catch (error) {
    throw asQueueError(error);
  } finally {
    await queryRunner.release();
  }
}
