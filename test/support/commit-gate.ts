import { afterEach } from '@jest/globals';
import pg from 'pg';
import { count, waiters } from './demo-tables.js';
import { until } from './until.js';

/** Of the advisory lock; any number will do. */
const GATE = 4_712;

const LOCK = `locktype = 'advisory' AND objid = ${GATE}`;

/** Sessions that wait for what another one has written, which stands before the gate. */
const HELD_UP = `pg_locks JOIN pg_stat_activity AS other ON pg_locks.pid = ANY (pg_blocking_pids(other.pid))
  WHERE other.datname = current_database() AND NOT granted AND ${LOCK}`;

/** Where transactions that have written a lane in some way wait with their commit, as long as a test wants. */
export interface CommitGate {
  /** Waits until one has come to its commit: everything is written, and nobody else sees it. */
  reached(): Promise<void>;
  /** Waits until somebody else waits for a row that it has written. */
  holdsUp(): Promise<void>;
  /** Lets it commit, and is gone. */
  open(): Promise<void>;
}

/**
 * Gives a function that closes a gate. To be called in a `describe`: what is left closed there is opened before the
 * applications of the file are closed, which would wait for it.
 *
 * @returns takes the condition on OLD and NEW, the row of `nestmq.lane`, under which an update makes its transaction wait
 */
export function useCommitGate(database: { readonly url: string }): (when: string) => Promise<CommitGate> {
  const closed = new Set<pg.Client>();
  const open = async (client: pg.Client): Promise<void> => {
    if (!closed.delete(client)) return;
    await client.query('SELECT pg_advisory_unlock_all()');
    await client.query('DROP FUNCTION IF EXISTS commit_gate CASCADE'); // and with it the trigger
    await client.end();
  };
  afterEach(async () => {
    for (const client of closed) await open(client);
  });
  return async (when) => {
    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    closed.add(client);
    await client.query('SELECT pg_advisory_lock($1)', [GATE]);
    await client.query(`
      CREATE FUNCTION commit_gate() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN PERFORM pg_advisory_xact_lock_shared(${GATE}); RETURN NULL; END $$;
      CREATE CONSTRAINT TRIGGER commit_gate AFTER UPDATE ON nestmq.lane DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (${when}) EXECUTE FUNCTION commit_gate()`);
    return {
      reached: () => waiters(client, LOCK, 1),
      holdsUp: async () => {
        await until(async () => (await count(client, HELD_UP)) > 0, { what: 'somebody waits for what is written' });
      },
      open: () => open(client),
    };
  };
}
