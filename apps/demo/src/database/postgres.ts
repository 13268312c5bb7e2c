import { databaseUrl } from '../../../../scripts/postgres.mjs';

/**
 * The server of the demo: the one that DATABASE_URL names, else one of our own, which keeps its data in `.data/postgres`.
 * It ends with this process, also after a kill -9; the next start finds the data again.
 */
export const postgres = await databaseUrl({
  dir: '.data/postgres',
  settings: { max_connections: 100, shared_buffers: '128MB', max_wal_size: '1GB' },
});
