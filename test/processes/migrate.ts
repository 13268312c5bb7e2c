import { migrate, queueMigrations } from 'nestmq/migrations';
import { DataSource } from 'typeorm';

// A process that migrates when it is told to, so that several can do it at the same moment.

const dataSource = new DataSource({
  type: 'postgres',
  url: process.env['DATABASE']!,
  migrations: [...queueMigrations],
});
await dataSource.initialize();
process.on('message', () => {
  void migrate(dataSource)
    .then(
      () => process.send?.({ migrated: true }),
      (error: unknown) => process.send?.({ failed: String(error) }),
    )
    .then(() => dataSource.destroy())
    .then(() => process.disconnect());
});
process.send?.({ ready: true });
