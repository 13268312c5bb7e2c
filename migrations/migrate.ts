import type { DataSource } from 'typeorm';

/**
 * Runs the pending migrations of a DataSource, ours and the application's, as TypeORM does, but one process at a time:
 * TypeORM takes no lock, so of several processes that start on an empty database all but one fail. The others wait here
 * and find nothing left to do.
 *
 * Needs two connections of the pool for as long as it runs.
 *
 * @returns the same DataSource
 * @throws {TypeError} when the pool may have one connection only
 * @throws whatever a migration throws; nothing is recorded of that one
 * @example
 * TypeOrmModule.forRootAsync({
 *   useFactory: () => ({ type: 'postgres', url, migrations: [...queueMigrations] }),
 *   dataSourceFactory: async (options) => migrate(await new DataSource(options!).initialize()),
 * })
 */
export async function migrate(dataSource: DataSource): Promise<DataSource> {
  const { max } = (dataSource.driver as unknown as { master: { options: { max: number } } }).master.options;
  if (max < 2) throw new TypeError(`migrate() needs two connections, the pool has ${max}. Raise \`poolSize\`.`);
  const owner = dataSource.createQueryRunner();
  try {
    // Held by a transaction, not by a session: so it also works through a pooler.
    await owner.startTransaction();
    await owner.query(`SELECT pg_advisory_xact_lock(hashtextextended('nestmq migrate', 0))`);
    await dataSource.runMigrations();
    await owner.commitTransaction();
  } catch (error) {
    if (owner.isTransactionActive) await owner.rollbackTransaction();
    throw error;
  } finally {
    await owner.release();
  }
  return dataSource;
}
