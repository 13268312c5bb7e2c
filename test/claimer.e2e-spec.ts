import { afterEach, beforeEach, expect, it } from '@jest/globals';
import { Claimer } from '../libs/queue/src/claim/claimer.js';
import { Feeds } from '../libs/queue/src/claim/feeds.js';
import type { ClaimedJob, Position } from '../libs/queue/src/job/job.js';
import { LeaseBook } from '../libs/queue/src/job/lease-book.js';
import { Connection } from '../libs/queue/src/postgres/connection.js';
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
async function insert(keys: readonly string[], ago: string): Promise<Position> {
  const rows = await tables.sql<{ id: string; micros: string }>(
    `INSERT INTO nestmq.job (channel, name, key, due_at)
     SELECT 'c', 'n', key, now() - $2::interval + (ordinal - 1) * interval '1 ms'
     FROM unnest($1::text[]) WITH ORDINALITY AS item (key, ordinal) ORDER BY ordinal
     RETURNING id::text, (extract(epoch FROM due_at) * 1000000)::bigint::text AS micros`,
    [keys, ago],
  );
  return { micros: Number(rows[0]!.micros), id: rows[0]!.id };
}

it('leaves what was committed with the one job that a claim by key has leased, and was told of meanwhile, to the next claim', async () => {
  const feeds = new Feeds([{ names: ['n'], channel: null, capacity: () => Infinity }], null);
  const book = new LeaseBook(() => []);
  const claimer = new Claimer(connection, feeds, book, { schema: 'nestmq', channels: null }, () => '1', () => undefined); // prettier-ignore
  const tell = (position: Position): void =>
    feeds.tell({ kind: 'jobs', stream: 'jobs', channel: 'c', priority: 0, keyed: true, name: 'n', position });
  const claim = (limit: number): Promise<ClaimedJob[]> => claimer.claim({ limit, slots: limit, run: 1 });
  const claimAll = async (): Promise<ClaimedJob[]> => {
    const jobs: ClaimedJob[] = [];
    while (feeds.hasWork(10)) jobs.push(...(await claim(10)));
    return jobs;
  };
  // The first claim goes in due order, and leaves the feed behind what is about to be committed late.
  tell(await insert(['a'], '1 s'));
  expect(await claimAll()).toHaveLength(1);
  const late = await insert(['a', 'b', 'c', 'a', 'b', 'c'], '1 hour');
  tell(await insert(['a'], '0 s'));
  await until(() => feeds.hasWork(2), { what: 'the last one is due by the clock of the feeds' });
  const byKey = claim(2);
  tell(late);
  const first = await byKey;
  expect(first.map(({ id, key }) => [id, key])).toEqual([
    [late.id, 'a'],
    [expect.any(String), 'b'],
  ]);
  expect([...first, ...(await claimAll())]).toHaveLength(7);
});
