import { defineStatement } from './statement.js';

/**
 * Ends a connection of the application whose statement does not end, so that its transaction is rolled back and its locks
 * are free. Only one that has our port at its other end: behind a pooler the number of the process is not the server's.
 */
export const endBackend = defineStatement<{ pid: number; port: number }, boolean>({
  name: 'end_backend_v1',
  text: () => `
  SELECT pg_terminate_backend(pid)
  FROM pg_stat_activity
  WHERE pid = $1::integer
    AND client_port = $2::integer
    AND datname = current_database()
    AND usename = current_user
    AND xact_start IS NOT NULL`,
  values: ({ pid, port }) => [pid, port],
  row: ([ended]) => ended as boolean,
});
