import type { DataSource } from 'typeorm';
import type { SqlClient, SqlQuery } from '../statements/statement.js';
import { asQueueError } from './sqlstate.js';

/** Runs statements that only read on a connection of the application's pool: they may be slow, and hold up nothing of ours. */
export async function withPoolClient<T>(
  dataSource: DataSource,
  settings: { readonly schema: string; readonly namedStatements: boolean },
  work: (client: SqlClient) => Promise<T>,
): Promise<T> {
  const queryRunner = dataSource.createQueryRunner();
  try {
    const client = (await queryRunner.connect()) as { query(query: SqlQuery): Promise<{ rows: unknown[][] }> };
    return await work({ ...settings, query: (query) => client.query(query) });
  } catch (error) {
    throw asQueueError(error);
  } finally {
    await queryRunner.release();
  }
}
