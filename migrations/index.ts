import type { MigrationInterface } from 'typeorm';
import { CreateQueueTables } from './1764000000000-CreateQueueTables.js';

/** A class as TypeORM's `migrations` option takes it. */
export type MigrationClass = new () => MigrationInterface;

/**
 * The migrations of a queue whose tables are in another schema than `nestmq`.
 *
 * @param schema lower-case identifier of at most 40 characters: `/^[a-z_][a-z0-9_]*$/`
 * @throws {TypeError} when it is not one
 * @example migrations: [...queueMigrationsIn('billing_queue')]
 */
export function queueMigrationsIn(schema: string): MigrationClass[] {
  if (typeof schema !== 'string' || !/^[a-z_][a-z0-9_]{0,39}$/.test(schema)) {
    throw new TypeError(
      `Schema ${JSON.stringify(schema)} is not a lower-case identifier of at most 40 letters, digits and underscores.`,
    );
  }
  return [CreateQueueTables].map(
    (Migration) =>
      class extends Migration {
        constructor() {
          super(schema);
        }
      },
  );
}

/**
 * The migrations of a queue in the schema `nestmq`: spread them into the `migrations` of the application's DataSource.
 * They are safe when several processes migrate at once, and go up and down.
 *
 * @example TypeOrmModule.forRoot({ type: 'postgres', url, migrations: [...queueMigrations], migrationsRun: true })
 */
export const queueMigrations: readonly MigrationClass[] = queueMigrationsIn('nestmq');

export { migrate } from './migrate.js';
