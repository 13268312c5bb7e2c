import { statfs } from 'node:fs/promises';
import { startPostgres } from '../scripts/postgres.mjs';

/** One server for the whole run. Durability is off: no test database outlives its run. */
export default async function globalSetup() {
  process.env.PG_TMP ??= await roomInMemory(); // what stands in process.env here reaches the workers
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
  process.env.TEST_PG = server.url;
  Object.assign(globalThis, { stopTestPostgres: server.stop }); // what stands here reaches the teardown
}

const MEMORY = '/dev/shm';
const ENOUGH_BYTES = 4 * 2 ** 30;

/**
 * A folder in memory, empty where there is little of it. Tests make, empty and drop tables by the thousand, and a disk's
 * file system takes most of their server's time for that.
 */
async function roomInMemory() {
  const room = await statfs(MEMORY).catch(() => null);
  const bytes = room === null ? 0 : Math.min(room.bavail * room.bsize, process.availableMemory());
  return bytes >= ENOUGH_BYTES ? MEMORY : '';
}
