import { startPostgres } from '../scripts/postgres.mjs';

/** One server for the whole run. Durability is off: no test database outlives its run. */
export default async function globalSetup() {
  if (process.env.DATABASE_URL) {
    process.env.TEST_PG = process.env.DATABASE_URL;
    return;
  }
  const server = await startPostgres({
    settings: {
      fsync: 'off',
      synchronous_commit: 'off',
      full_page_writes: 'off',
      wal_level: 'minimal',
      max_wal_senders: 0,
      max_connections: 300,
    },
  });
  process.env.TEST_PG = server.url; // what stands in process.env here reaches the workers,
  Object.assign(globalThis, { stopTestPostgres: server.stop }); // and what stands here the teardown
}
