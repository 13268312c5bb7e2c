import { beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { ClaimedJob } from '../libs/queue/src/job/job.js';
import { claimArrivals } from '../libs/queue/src/statements/claim-lanes.js';
import { claimSuspect } from '../libs/queue/src/statements/claim-suspect.js';
import { endLanes } from '../libs/queue/src/statements/lanes.js';
import { sweepLanes } from '../libs/queue/src/statements/mend-lanes.js';
import { run } from '../libs/queue/src/statements/statement.js';
import { beginOwning, beginOwningSuspects } from '../libs/queue/src/statements/transaction.js';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { openSession, START, type Session } from './support/engine.js';
import { untilDone } from './support/events.js';
import { laneWith } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

interface OrderedJob {
  readonly id: number;
  readonly channel?: string;
  readonly key: string;
  readonly seq?: number;
  readonly suspect?: boolean;
}

async function insert(...jobs: readonly OrderedJob[]): Promise<void> {
  for (const { id, channel = 'c', key, seq = null, suspect = false } of jobs) {
    await tables.sql(
      `INSERT INTO nestmq.job (id, position, channel, key, name, seq, suspect) VALUES ($1, $1, $2, $3, 'n', $4, $5)`,
      [id, channel, key, seq, suspect],
    );
  }
}

/** Keeps whoever writes down this lane waiting, until it is let go. */
async function hold(channel: string, key: string): Promise<{ letGo: () => Promise<unknown> }> {
  const session = await openSession(database.url);
  await session.pg.query('BEGIN');
  await session.pg.query(`INSERT INTO nestmq.lane (channel, key, name) VALUES ($1, $2, 'n')`, [channel, key]);
  return { letGo: () => session.pg.query('ROLLBACK') };
}

async function waits(session: Session): Promise<boolean> {
  const { processID } = session.pg as unknown as { processID: number };
  return (await tables.number(`SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted`, [processID])) > 0;
}

async function claim(session: Session): Promise<ClaimedJob[]> {
  const rows = await session.transaction(
    (client) =>
      run(client, claimArrivals, {
        ...{ runner: '1', lease: 1, channel: 'c', priority: 0, names: ['n'] },
        ...{ after: START, limit: 10, slots: 10, run: 1, arrivals: 1_000 },
      }),
    beginOwning('nestmq', 'c'),
  );
  return rows.flatMap(({ job }) => job ?? []);
}

const heads = (): Promise<object[]> =>
  tables.sql(`SELECT key, runner_id::text AS owner, head_position::text AS head, ready_at IS NOT NULL AS ready
    FROM nestmq.lane WHERE channel = 'c' ORDER BY key`);

describe('a sweep and a claim that meet the same lanes', () => {
  it('never wait for each other crosswise, though one of the lanes was made by nobody so far', async () => {
    const [sweeper, claimer] = [await openSession(database.url), await openSession(database.url)];
    await tables.sql(`INSERT INTO nestmq.lane (channel, key, name) VALUES ('c', 'known', 'n')`);
    await insert({ id: 1, channel: 'a', key: 'before' }, { id: 2, key: 'fresh' }, { id: 3, key: 'known' });
    // The sweep comes to a stop in the middle.
    const held = await hold('a', 'before');
    const sweeping = sweeper.transaction((client) => run(client, sweepLanes, { after: null }));
    await until(() => waits(sweeper), { what: 'the sweep waits' });
    let claimed = false;
    const claiming = claim(claimer).then((jobs) => {
      claimed = true;
      return jobs;
    });
    await until(async () => claimed || (await waits(claimer)), { what: 'the claim is done, or waits' });
    await held.letGo();
    const [, jobs] = await Promise.all([sweeping, claiming]);
    expect(jobs.map(({ id }) => id)).toEqual(['2', '3']);
    expect(await heads()).toMatchObject([
      { key: 'fresh', owner: '1' },
      { key: 'known', owner: '1' },
    ]);
  });

  it('leaves alone what was claimed, run and ended while the sweep waited', async () => {
    const [sweeper, claimer] = [await openSession(database.url), await openSession(database.url)];
    await tables.sql(`INSERT INTO nestmq.lane (channel, key, name) VALUES ('c', 'known', 'n')`);
    await insert({ id: 1, channel: 'a', key: 'before' }, { id: 2, key: 'known' }, { id: 3, key: 'known' });
    const held = await hold('a', 'before');
    const sweeping = sweeper.transaction((client) => run(client, sweepLanes, { after: null }));
    await until(() => waits(sweeper), { what: 'the sweep waits' });
    const [job] = await claim(claimer);
    await end(claimer, 'known', job!);
    await held.letGo();
    await sweeping;
    expect(await heads()).toEqual([{ key: 'known', owner: null, head: '3', ready: true }]);
  });
});

/** Completes the job of a lane and gives that back. */
function end(session: Session, key: string, { id, lease, seq }: { id: string; lease: number; seq: number | null }) {
  return session.transaction(async (client) => {
    await session.pg.query('DELETE FROM nestmq.job WHERE id = $1', [id]);
    await session.pg.query('DELETE FROM nestmq.lease WHERE number = $1', [lease]);
    return run(client, endLanes, {
      runner: '1',
      lanes: [{ channel: 'c', key, runner: '1', lease, lastSeq: seq!, blockedBy: null }],
    });
  });
}

describe('a claim in the middle of which somebody writes down a lane that nobody had met', () => {
  it('is made again at once, without a word', async () => {
    const warn = jest.spyOn(Logger.prototype, 'warn');
    const Work = laneWith();
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const session = await openSession(database.url);
    await session.pg.query('BEGIN');
    await session.pg.query(`INSERT INTO nestmq.lane (channel, key, name) VALUES ('work', 'met', 'work')`);
    await app.jobs.spawnMany(['met', 'other'].map((key) => ({ name: 'work', payload: key, key })));
    const waiting = `SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted`;
    await until(async () => (await tables.number(waiting)) > 0, { what: 'the claim waits' });
    await session.pg.query('COMMIT');
    await untilDone(tables);
    expect(app.get(Work).runs.map(({ key, seq }) => [key, seq])).toEqual([
      ['met', 1],
      ['other', 1],
    ]);
    expect(warn).not.toHaveBeenCalled();
    await app.close();
  });
});

describe('a claim in the middle of which a suspect was claimed, run and ended', () => {
  it('does not write down the lane of that one as it was', async () => {
    const [claimer, other] = [await openSession(database.url), await openSession(database.url)];
    // The second one has begun before, so the first, which was committed late, stands behind it.
    await insert({ id: 1, key: 'late' }, { id: 2, key: 'late', seq: 1, suspect: true }, { id: 3, key: 'first' });
    await tables.sql(
      `INSERT INTO nestmq.lane (channel, key, name, last_seq, head_position) VALUES ('c', 'late', 'n', 1, 2)`,
    );
    const held = await hold('c', 'first');
    const claiming = claim(claimer);
    await until(() => waits(claimer), { what: 'the claim waits' });
    const [suspect] = await other.transaction(
      (client) => run(client, claimSuspect, { runner: '1', lease: 2, names: ['n'], channels: null }),
      beginOwningSuspects('nestmq'),
    );
    expect(suspect).toMatchObject({ id: '2', seq: 1 });
    await end(other, 'late', suspect!);
    await held.letGo();
    expect((await claiming).map(({ id }) => id)).toEqual(['3']);
    expect(await heads()).toEqual([
      { key: 'first', owner: '1', head: null, ready: false },
      { key: 'late', owner: null, head: '1', ready: true },
    ]);
  });
});
