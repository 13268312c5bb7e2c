import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Claimer } from '../libs/queue/src/claim/claimer.js';
import { Feeds } from '../libs/queue/src/claim/feeds.js';
import type { ClaimedJob, Position } from '../libs/queue/src/job/job.js';
import { LeaseBook } from '../libs/queue/src/job/lease-book.js';
import { Connection } from '../libs/queue/src/postgres/connection.js';
import type { Stream } from '../libs/queue/src/statements/wake-up.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';

const database = useDatabase();
const tables = useTables(database);
let connection: Connection;

beforeEach(async () => {
  await tables.clear();
  connection = new Connection({
    options: { connectionString: database.url },
    ...{ schema: 'nestmq', namedStatements: true, role: 'claim' },
  });
});

afterEach(() => connection.close());

/** One job of each key, due so long ago, the first key first; answers the place of the first. */
async function insert(keys: readonly string[], ago: string, ordered = false): Promise<Position> {
  const rows = await tables.sql<{ id: string; micros: string }>(
    `INSERT INTO nestmq.job (id, position, channel, name, key, due_at)
     SELECT id, CASE WHEN $3 THEN id END, 'c', 'n', key, now() - $2::interval + (ordinal - 1) * interval '1 ms'
     FROM (
       SELECT nextval('nestmq.job_id_seq') AS id, item.*
       FROM unnest($1::text[]) WITH ORDINALITY AS item (key, ordinal)
       ORDER BY ordinal
     ) AS numbered
     RETURNING id::text, (extract(epoch FROM due_at) * 1000000)::bigint::text AS micros`,
    [keys, ago, ordered],
  );
  return { micros: Number(rows[0]!.micros), id: rows[0]!.id };
}

/** Claims of one handler in one stream, which hear only what they are told. */
function claimsOf(stream: Stream, run: number) {
  const feeds = new Feeds([{ names: ['n'], channel: null, capacity: () => Infinity }], null);
  const settings = { schema: 'nestmq', channels: null };
  const claimer = new Claimer(connection, feeds, new LeaseBook(() => []), settings, () => '1', () => undefined); // prettier-ignore
  const tell = (position: Position): void =>
    feeds.tell({ ...{ kind: 'jobs', channel: 'c', priority: 0, keyed: true, name: 'n' }, stream, position });
  const claim = (limit: number): Promise<ClaimedJob[]> => claimer.claim({ limit, slots: limit, run });
  const claimAll = async (): Promise<ClaimedJob[]> => {
    const jobs: ClaimedJob[] = [];
    while (feeds.hasWork(10)) jobs.push(...(await claim(10)));
    return jobs;
  };
  const untilReady = (): Promise<boolean> => until(() => feeds.hasWork(2), { what: 'the feeds take it for due' });
  return { tell, claim, claimAll, untilReady };
}

describe('what was committed late, with a job that a claim has leased before it was told of it, is left to the next claim', () => {
  it('by a claim by key', async () => {
    const { tell, claim, claimAll, untilReady } = claimsOf('jobs', 1);
    // The first claim goes in due order, and leaves the feed behind what is about to be committed late.
    tell(await insert(['a'], '1 s'));
    expect(await claimAll()).toHaveLength(1);
    const late = await insert(['a', 'b', 'c', 'a', 'b', 'c'], '1 hour');
    tell(await insert(['a'], '0 s'));
    await untilReady();
    const byKey = claim(2);
    tell(late);
    const first = await byKey;
    expect(first.map(({ id, key }) => [id, key])).toEqual([
      [late.id, 'a'],
      [expect.any(String), 'b'],
    ]);
    expect([...first, ...(await claimAll())]).toHaveLength(7);
  });

  it('by a claim of a lane, which takes older jobs of it too', async () => {
    const { tell, claim, claimAll, untilReady } = claimsOf('arrivals', 10);
    tell(await insert(['x'], '1 s', true));
    expect(await claimAll()).toHaveLength(1);
    const late = await insert(['a', 'b'], '1 hour', true);
    tell(await insert(['a'], '0 s', true));
    await untilReady();
    const look = claim(10);
    tell(late);
    expect((await look).map(({ key }) => key)).toEqual(['a', 'a']);
    expect((await claimAll()).map(({ key }) => key)).toEqual(['b']);
  });
});
