import { beforeEach, describe, expect, it } from '@jest/globals';
import type { ClaimedJob } from '../libs/queue/src/job/job.js';
import { claimSuspect } from '../libs/queue/src/statements/claim-suspect.js';
import { rescueJobs } from '../libs/queue/src/statements/rescue-jobs.js';
import {
  declareDead,
  forgetRunners,
  heartbeat,
  markStopping,
  registerRunner,
} from '../libs/queue/src/statements/runners.js';
import { completeJobs } from '../libs/queue/src/statements/complete-jobs.js';
import { run } from '../libs/queue/src/statements/statement.js';
import { beginOwningSuspects } from '../libs/queue/src/statements/transaction.js';
import { useDatabase } from './support/database.js';
import { claim, fenceOf, openSession, type Session } from './support/engine.js';
import { useTables } from './support/tables.js';

const database = useDatabase();
const tables = useTables(database);
const C = { channel: 'c', names: ['n'], runner: '1' } as const;

let session: Session;

beforeEach(async () => {
  await tables.sql('TRUNCATE nestmq.job, nestmq.lease, nestmq.finished_job, nestmq.runner, nestmq.handler_policy');
  session = await openSession(database.url);
  await session.transaction((client) => run(client, registerRunner, { runner: '1', host: 'h', pid: 1 }));
});

const spawn = (count: number, columns: { attempt?: number; maxAttempts?: number } = {}): Promise<object[]> =>
  tables.sql(
    `INSERT INTO nestmq.job (channel, name, attempt, max_attempts) SELECT 'c', 'n', $2, $3 FROM generate_series(1, $1::int)`,
    [count, columns.attempt ?? 0, columns.maxAttempts ?? 5],
  );

const die = (): Promise<object[]> => tables.sql('UPDATE nestmq.runner SET dead_at = now() WHERE id = 1');

const rescue = (on: Session = session) => on.transaction((client) => run(client, rescueJobs, {}));

const suspect = (runner = '2', lease = 1) =>
  session.transaction(
    (client) => run(client, claimSuspect, { runner, lease, names: ['n'], channels: null }),
    beginOwningSuspects('nestmq'),
  );

const live = (): Promise<Record<string, unknown>[]> =>
  tables.sql('SELECT id::text, run, attempt, suspect, last_error FROM nestmq.job ORDER BY id');
const leases = (): Promise<object[]> => tables.sql('SELECT runner_id, number FROM nestmq.lease');

describe('rescueJobs', () => {
  it('puts the jobs of a dead runner back: waiting, due at once, suspects, without a lease', async () => {
    await spawn(1);
    const [job] = await claim(session, C);
    await die();
    expect(await rescue()).toMatchObject([{ outcome: 'waiting', suspect: true }]);
    expect(await live()).toEqual([{ id: job!.id, run: 1, attempt: 1, suspect: true, last_error: 'lease expired' }]);
    expect(await leases()).toEqual([]);
  });

  it('charges the start that is known from the claim, and none of those taken ahead', async () => {
    await spawn(3);
    await claim(session, { ...C, slots: 1 });
    await die();
    await rescue();
    expect((await live()).map(({ attempt }) => attempt)).toEqual([1, 0, 0]);
  });

  it('charges the start that a heartbeat has told of', async () => {
    await spawn(3);
    const jobs = await claim(session, { ...C, slots: 0 });
    const { lease, id } = jobs[2]!;
    await session.transaction((client) =>
      run(client, heartbeat, { runner: '1', held: [lease], highest: lease, started: [id] }),
    );
    await die();
    await rescue();
    expect((await live()).map(({ attempt }) => attempt)).toEqual([0, 0, 1]);
  });

  it('makes a job dead whose last attempt was lost, so that total runs never exceed the limit', async () => {
    await spawn(1, { attempt: 2, maxAttempts: 3 });
    await claim(session, C);
    await die();
    expect(await rescue()).toMatchObject([{ outcome: 'dead' }]);
    expect(await live()).toEqual([]);
    const [dead] = await tables.sql('SELECT state, reason, attempt, last_error FROM nestmq.finished_job');
    expect(dead).toMatchObject({ state: 'dead', reason: 'lease expired', attempt: 3 });
    expect(dead!.last_error).toMatch(/process .* ended/);
  });

  it('leaves a fresh job claimable beside an exhausted one', async () => {
    await spawn(1, { attempt: 2, maxAttempts: 3 });
    await claim(session, C);
    await spawn(1);
    await die();
    await rescue();
    expect(await claim(session, { ...C, runner: '2' })).toHaveLength(1);
  });

  it('never makes a job dead that is retried for ever', async () => {
    await spawn(1, { attempt: 70_000 });
    await tables.sql('UPDATE nestmq.job SET max_attempts = NULL');
    await claim(session, C);
    await die();
    expect(await rescue()).toMatchObject([{ outcome: 'waiting' }]);
  });

  it('gives the attempt back, at the old place, when the runner was shutting down: also on the last one', async () => {
    await spawn(1, { attempt: 4, maxAttempts: 5 });
    const [before] = await tables.sql('SELECT due_at FROM nestmq.job');
    await claim(session, C);
    await session.transaction((client) => run(client, markStopping, { runner: '1' }));
    await die();
    expect(await rescue()).toMatchObject([{ outcome: 'waiting', suspect: false }]);
    expect(await live()).toMatchObject([{ attempt: 4, suspect: false, last_error: null }]);
    expect(await tables.sql('SELECT due_at FROM nestmq.job')).toEqual([before]);
  });

  it('never touches the leases of a living runner', async () => {
    await spawn(2);
    await claim(session, C);
    expect(await rescue()).toEqual([]);
    expect(await leases()).toHaveLength(1);
    expect((await live()).map(({ run: stamp }) => stamp)).toEqual([0, 0]);
  });

  it('recovers the jobs of a runner that is not even entered', async () => {
    await spawn(1);
    await claim(session, { ...C, runner: '99' });
    expect(await rescue()).toMatchObject([{ outcome: 'waiting' }]);
  });

  it('recovers none, and writes nothing, when nobody died', async () => {
    const xid = await session.transaction(async (client) => {
      expect(await run(client, rescueJobs, {})).toEqual([]);
      return (await session.pg.query('SELECT pg_current_xact_id_if_assigned() AS xid')).rows[0].xid as unknown;
    });
    expect(xid).toBeNull();
  });

  it('passes by a job that its handler is completing, and keeps its lease until that has ended', async () => {
    await spawn(2);
    const jobs = await claim(session, C);
    const handler = await openSession(database.url);
    await handler.pg.query('BEGIN');
    await run(handler.client, completeJobs, { runner: '1', entries: [fenceOf(jobs[0]!)], endedLeases: [] });
    await die();
    expect(await rescue()).toHaveLength(1);
    expect(await leases()).toHaveLength(1);
    await handler.pg.query('COMMIT');
    expect(await rescue()).toEqual([]);
    expect(await leases()).toEqual([]);
    expect((await live()).map(({ id }) => id)).toEqual([jobs[1]!.id]);
  });

  it('rescues a job whose handler rolled its completion back', async () => {
    await spawn(1);
    const [job] = await claim(session, C);
    const handler = await openSession(database.url);
    await handler.pg.query('BEGIN');
    await run(handler.client, completeJobs, { runner: '1', entries: [fenceOf(job!)], endedLeases: [] });
    await die();
    await rescue();
    await handler.pg.query('ROLLBACK');
    expect(await rescue()).toMatchObject([{ outcome: 'waiting' }]);
  });

  it('rescues each job once when several rescuers work at the same time', async () => {
    await spawn(300);
    for (let claims = 0; claims < 100; claims++) await claim(session, { ...C, limit: 3 });
    await die();
    const rescuers = await Promise.all(Array.from({ length: 4 }, () => openSession(database.url)));
    const rows = (await Promise.all(rescuers.map((rescuer) => rescue(rescuer)))).flat();
    while ((await leases()).length > 0) rows.push(...(await rescue()));
    expect(rows).toHaveLength(300);
    expect(new Set((await live()).map(({ run: stamp }) => stamp))).toEqual(new Set([1]));
  });

  it('keeps a dead job as long as the deadRetention that its handler has stored', async () => {
    await tables.sql(
      `INSERT INTO nestmq.handler_policy (id, name, retention_ms, dead_retention_ms) VALUES (5, 'n', 0, 60000)`,
    );
    await spawn(1, { attempt: 4, maxAttempts: 5 });
    await tables.sql('UPDATE nestmq.job SET policy_id = 5');
    await claim(session, C);
    await die();
    await rescue();
    expect(
      await tables.sql(`SELECT delete_at - finished_at <= interval '61 s' AS kept FROM nestmq.finished_job`),
    ).toEqual([{ kept: true }]);
  });

  it('fences the runner that was taken for dead: its completion is refused', async () => {
    await spawn(1);
    const jobs: ClaimedJob[] = await claim(session, C);
    await die();
    await rescue();
    const completed = await session.transaction((client) =>
      run(client, completeJobs, { runner: '1', entries: jobs.map(fenceOf), endedLeases: [] }),
    );
    expect(completed).toEqual([[]]);
  });
});

describe('claimSuspect', () => {
  beforeEach(async () => {
    await spawn(2);
    await claim(session, C);
    await die();
    await rescue();
  });

  it('leases one suspect, its start recorded, and the next one apart', async () => {
    const first = await suspect('2', 1);
    const second = await suspect('2', 2);
    expect(first).toMatchObject([{ attempt: 2, suspect: true }]);
    expect(second).toMatchObject([{ attempt: 2, suspect: true }]);
    expect(first[0]!.id).not.toBe(second[0]!.id);
    expect(await suspect('2', 3)).toEqual([]);
    expect(await tables.sql('SELECT started, cardinality(job_ids) AS jobs FROM nestmq.lease')).toEqual([
      { started: 1, jobs: 1 },
      { started: 1, jobs: 1 },
    ]);
  });

  it('is the only way to a suspect: ordinary claims pass it by', async () => {
    expect(await claim(session, { ...C, runner: '2' })).toEqual([]);
  });

  it('takes none before it is due', async () => {
    await tables.sql(`UPDATE nestmq.job SET due_at = now() + interval '1 minute'`);
    expect(await suspect()).toEqual([]);
  });
});

describe('declareDead', () => {
  it('loses against a heartbeat that came in between', async () => {
    await session.transaction((client) => run(client, heartbeat, { runner: '1', held: [], highest: 0, started: [] }));
    const declared = (beat: number) => session.transaction((client) => run(client, declareDead, { runner: '1', beat }));
    expect(await declared(0)).toEqual([]);
    expect(await declared(1)).toEqual([true]);
    expect(await declared(1)).toEqual([]);
  });
});

describe('heartbeat', () => {
  const beat = (held: number[], highest: number) =>
    session
      .transaction((client) => run(client, heartbeat, { runner: '1', held, highest, started: [] }))
      .then(([row]) => row!);

  it('tells a runner that was declared dead', async () => {
    await die();
    expect(await beat([], 0)).toMatchObject({ alive: false });
  });

  it('gives back a lease whose claim was answered to nobody, and none with a higher number', async () => {
    await spawn(2);
    const [unknown] = await claim(session, { ...C, limit: 1 });
    const [inFlight] = await claim(session, { ...C, limit: 1 });
    expect(await beat([], unknown!.lease)).toMatchObject({ alive: true, dropped: 1 });
    expect(await leases()).toEqual([{ runner_id: '1', number: inFlight!.lease }]);
    expect((await claim(session, { ...C, runner: '2' })).map(({ id }) => id)).toEqual([unknown!.id]);
  });

  it('names the held leases that are gone, and sees peers and orphaned leases', async () => {
    await spawn(1);
    await claim(session, { ...C, runner: '99' });
    await session.transaction((client) => run(client, registerRunner, { runner: '2', host: 'h', pid: 2 }));
    expect(await beat([5], 5)).toMatchObject({ missing: [5], peers: [{ id: '2', beat: 0 }], orphaned: true });
  });

  it.each([
    ['that serve some channels', ['mail'], null],
    ['that serve all channels', null, ['mail']],
  ])('tells of runners %s which of the others run the same jobs, and go on', async (_, channels, otherChannels) => {
    const names = ['a', 'b'];
    const cards = [
      { runner: '1', names, channels },
      { runner: '2', names, channels },
      { runner: '3', names, channels: otherChannels },
      { runner: '4', names: ['a'], channels },
      { runner: '5', names, channels },
    ];
    await tables.sql('DELETE FROM nestmq.runner');
    for (const card of cards) {
      await session.transaction((client) => run(client, registerRunner, { host: 'h', pid: 1, ...card }));
    }
    await session.transaction((client) => run(client, markStopping, { runner: '5' }));
    const { peers } = await beat([], 0);
    const alike = peers.filter((peer) => peer.alike).map(({ id }) => id);
    expect([peers.length, alike]).toEqual([4, ['2']]);
  });
});

describe('forgetRunners', () => {
  it('keeps a dead runner until its leases are rescued, and a living one', async () => {
    await spawn(1);
    await claim(session, C);
    await session.transaction((client) => run(client, registerRunner, { runner: '2', host: 'h', pid: 2 }));
    await die();
    const forget = () => session.transaction((client) => run(client, forgetRunners, { runner: null }));
    expect(await forget()).toEqual([]);
    await rescue();
    expect(await forget()).toEqual(['1']);
  });
});
