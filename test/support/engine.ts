import { afterEach } from '@jest/globals';
import pg from 'pg';
import type { ClaimedJob, Position } from '../../libs/queue/src/job/job.js';
import { pgQuery } from '../../libs/queue/src/postgres/pg-query.js';
import { claimJobs, type ClaimRow } from '../../libs/queue/src/statements/claim-jobs.js';
import type { RunFence } from '../../libs/queue/src/statements/run-fence.js';
import { run, type SqlClient } from '../../libs/queue/src/statements/statement.js';
import { begin, beginOwning } from '../../libs/queue/src/statements/transaction.js';

/** Before every job. */
export const START: Position = { micros: -1, id: '0' };

/** One connection that sends the engine's statements by hand, as a runner would. */
export interface Session {
  readonly client: SqlClient;
  readonly pg: pg.Client;
  transaction<T>(work: (client: SqlClient) => Promise<T>, start?: string): Promise<T>;
}

const open = new Set<pg.Client>();

afterEach(async () => {
  await Promise.all([...open].map((client) => client.end()));
  open.clear();
});

export async function openSession(url: string): Promise<Session> {
  const connection = new pg.Client({ connectionString: url });
  await connection.connect();
  open.add(connection);
  const client: SqlClient = {
    schema: 'nestmq',
    namedStatements: true,
    query: (query) => connection.query<unknown[]>(pgQuery(query)),
  };
  return {
    client,
    pg: connection,
    async transaction(work, start = begin) {
      await connection.query(start);
      try {
        const result = await work(client);
        await connection.query('COMMIT');
        return result;
      } catch (error) {
        await connection.query('ROLLBACK');
        throw error;
      }
    },
  };
}

export interface ClaimByHand {
  readonly channel: string;
  readonly names: readonly string[];
  readonly runner?: string;
  readonly priority?: number;
  readonly after?: Position;
  readonly limit?: number;
  readonly slots?: number;
}

let lastLease = 0;

/** A claim as the runner sends it, in a transaction that owns the channel. */
export function claimRows(session: Session, wanted: ClaimByHand): Promise<ClaimRow[]> {
  const { limit = 10 } = wanted;
  lastLease += 1;
  const params = { runner: '1', lease: lastLease, priority: 0, after: START, slots: limit, ...wanted, limit };
  return session.transaction((client) => run(client, claimJobs, params), beginOwning('nestmq', wanted.channel));
}

export async function claim(session: Session, by: ClaimByHand): Promise<ClaimedJob[]> {
  return (await claimRows(session, by)).flatMap(({ job }) => job ?? []);
}

export const fenceOf = ({ id, run: stamp, lease }: ClaimedJob): RunFence => ({ id, run: stamp, lease });
