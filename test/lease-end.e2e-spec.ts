import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { beforeEach, describe, expect, it } from '@jest/globals';
import type { HandlerOptions, Job, QueueEvent } from 'nestmq';
import { rescueExpired } from '../libs/queue/src/statements/rescue-expired.js';
import { run } from '../libs/queue/src/statements/statement.js';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { startChild } from './support/child.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { openSession } from './support/engine.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, untilAborted, workWith, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const queue = { ...POLLING_OFF, leaseMs: 1_000 };

beforeEach(() => tables.clear());

const has = (app: TestApp, type: QueueEvent['type']): boolean => app.events.some((event) => event.type === type);

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'done',
    (error: unknown) => (error as { code?: string }).code ?? error,
  );

async function startWork(
  behaviour: Behaviour,
  options: HandlerOptions = {},
  settings: object = queue,
): Promise<TestApp & { runs: Job[] }> {
  const Work = workWith({ backoff: 1, ...options }, behaviour);
  const app = await startApp({ ...database, queue: settings, providers: [Work] });
  return { ...app, runs: app.get(Work).runs };
}

const aborted = (job: Job): Promise<unknown> => untilAborted(job).catch((reason: unknown) => reason);

/** Whether the lease of the only job has an end, and that is ahead. */
const leaseEnd = async (): Promise<string> => {
  const [row] = await tables.sql<{ left: string }>(
    `SELECT CASE WHEN lease_ends_at IS NULL THEN 'none' WHEN lease_ends_at > now() + interval '5 min' THEN 'far'
       WHEN lease_ends_at > now() THEN 'near' ELSE 'past' END AS left FROM nestmq.job`,
  );
  return row?.left ?? 'no job';
};

describe('a handler with keepAlive: false', () => {
  it('has a lease that ends leaseMs after the start of its run; any other has one without an end', async () => {
    for (const [keepAlive, end] of [
      [false, 'near'],
      [true, 'none'],
    ] as const) {
      const { opened, open } = gate();
      const app = await startWork(() => opened, { keepAlive }, POLLING_OFF);
      await app.jobs.spawn('work');
      await until(() => app.runs.length, { what: 'it runs' });
      expect(await leaseEnd()).toBe(end);
      open();
      await until(() => has(app, 'completed'), { what: 'it is completed' });
      expect(await leaseEnd()).toBe('no job');
      await app.close();
    }
  });

  it('that outlives its lease is told to stop, another run begins, and what it still writes is refused', async () => {
    const second = gate();
    const refused: unknown[] = [];
    const app = await startWork(
      async (job) => {
        if (job.attempt > 1) return;
        const reason = await aborted(job);
        refused.push((reason as { code: string }).code);
        await second.opened;
        refused.push(await codeOf(job.complete()));
        refused.push(await codeOf(app.dataSource.transaction((manager) => job.complete({ manager }))));
        refused.push(await codeOf(job.checkpoint({ payload: 'late' })));
        refused.push(await codeOf(job.keepAlive('1m')));
        refused.push(await codeOf(job.progress({ percent: 100 })));
      },
      { keepAlive: false, retention: '1h' },
    );
    const { id } = await app.jobs.spawn('work', 'early');
    await until(() => has(app, 'completed'), { what: 'the second run has completed it, beside the first' });
    second.open();
    await until(() => has(app, 'lease-lost'), { what: 'the first run has ended' });
    expect(refused).toEqual(Array.from({ length: 6 }, () => 'lease_lost'));
    expect(app.runs.map(({ attempt }) => attempt)).toEqual([1, 2]);
    expect(await app.queue.get(id)).toMatchObject({
      state: 'completed',
      attempts: 2,
      payload: 'early',
      progress: null,
    });
    expect(app.events).toContainEqual({ type: 'rescued', waiting: 1, dead: 0, cancelled: 0 });
    await untilDone(tables);
    await app.close();
  });

  it('whose last attempt outlives its lease is dead, with the reason "lease expired"', async () => {
    const app = await startWork(untilAborted, { keepAlive: false, retries: 0 });
    const { id } = await app.jobs.spawn('work');
    await until(async () => (await app.queue.get(id))?.state === 'dead', { what: 'it is dead' });
    expect(await app.queue.get(id)).toMatchObject({
      reason: 'lease expired',
      attempts: 1,
      lastError: 'The lease of this run ended before the run did.',
    });
    expect(app.events).toContainEqual({ type: 'rescued', waiting: 0, dead: 1, cancelled: 0 });
    await until(() => has(app, 'lease-lost'), { what: 'its run has ended' });
    await untilDone(tables);
    expect(app.runs).toHaveLength(1);
    await app.close();
  });

  it('goes on when it keeps its lease alive, and a shorter time does not bring the end nearer', async () => {
    const { opened, open } = gate();
    const app = await startWork(
      async (job) => {
        await job.keepAlive('1h');
        await job.keepAlive(1);
        await opened;
      },
      { keepAlive: false },
      { ...queue, channels: ['work'] },
    );
    await app.jobs.spawn('work', 'kept');
    await until(async () => (await leaseEnd()) === 'far', { what: 'the end is far' });
    // Another run of the same lease, begun later, has ended in the meantime.
    const Marker = workWith({ keepAlive: false, retries: 0 }, untilAborted);
    const other = await startApp({ ...database, queue: { ...queue, channels: ['marker'] }, providers: [Marker] });
    const { id } = await other.jobs.spawn('work', 'not kept', { channel: 'marker' });
    await until(async () => (await other.queue.get(id))?.state === 'dead', { what: 'the later one has expired' });
    expect(app.runs[0]!.signal.aborted).toBe(false);
    open();
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(app.runs).toHaveLength(1);
    await other.close();
    await app.close();
  });

  it('loses its lease to the rescuer of any process, also when its own clock says otherwise', async () => {
    const lost = gate();
    const refused: unknown[] = [];
    const app = await startWork(
      async (job) => {
        if (job.attempt > 1) return;
        await job.keepAlive('1h');
        await lost.opened;
        refused.push(await codeOf(app.dataSource.transaction((manager) => job.complete({ manager }))));
        refused.push(await codeOf(job.checkpoint({ payload: 'late' })));
      },
      { keepAlive: false },
    );
    await app.jobs.spawn('work');
    await until(async () => (await leaseEnd()) === 'far', { what: 'the end is far' });
    await tables.sql(`UPDATE nestmq.job SET lease_ends_at = now() - interval '1 second'`);
    await until(() => has(app, 'completed'), { what: 'the second run has completed it' });
    lost.open();
    await until(() => has(app, 'lease-lost'), { what: 'the first run has ended' });
    expect(refused).toEqual(['lease_lost', 'lease_lost']);
    await untilDone(tables);
    await app.close();
  });

  it('leaves no end behind when its run fails: the next one has its own', async () => {
    const app = await startWork(
      (job) => {
        if (job.attempt === 1) throw new Error('told to fail');
      },
      { keepAlive: false, backoff: '1h' },
    );
    await app.jobs.spawn('work');
    await until(() => has(app, 'retrying'), { what: 'it waits for its second run' });
    expect(await leaseEnd()).toBe('none');
    await app.close();
  });

  it('whose completion is under way when the lease passes stays completed, once', async () => {
    const app = await startWork(
      (job) =>
        app.dataSource.transaction(async (manager) => {
          await job.complete({ manager });
          await aborted(job);
        }),
      { keepAlive: false, retention: '1h' },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(await app.queue.get(id)).toMatchObject({ state: 'completed', attempts: 1 });
    expect(app.runs).toHaveLength(1);
    await untilDone(tables);
    await app.close();
  });

  it('in another process, which blocks its event loop, is run by this one, and its completion is refused', async () => {
    const sender = await startApp({ ...database, queue: { runner: false, openNames: true } });
    const folder = await mkdtemp(path.join(tmpdir(), 'nestmq-'));
    const blockUntil = path.join(folder, 'go on');
    const { id } = await sender.jobs.spawn('work', { blockUntil }, { channel: 'work' });
    await sender.close();
    const child = startChild('checkpoint-worker.ts', { URL: database.url, KEEP_ALIVE: 'false' });
    await child.message((message) => message === 'stored', 'it runs in the other process');
    const app = await startWork(() => undefined, { retention: '1h', keepAlive: false });
    await until(() => has(app, 'completed'), { what: 'this process has completed it' });
    expect(app.runs).toMatchObject([{ id, attempt: 2 }]);
    await writeFile(blockUntil, '');
    await child.message((message) => message === 'lease_lost', 'the other process is refused');
    expect(child.messages).not.toContain('completed');
    await rm(folder, { recursive: true });
    expect(await app.queue.get(id)).toMatchObject({ state: 'completed', attempts: 2 });
    await app.close();
  });
});

describe('a lease that has passed by the clock of the process', () => {
  const ALONE = { ...POLLING_OFF, leaseMs: 600_000 };
  /** By the database's it passes a little later: always, since the process counts from before it asked; here by more. */
  const delayEnd = (): Promise<unknown> =>
    tables.sql(`UPDATE nestmq.job SET lease_ends_at = lease_ends_at + interval '500 ms'`);
  const firstRunOutlivesIt: Behaviour = async (job) => {
    if (job.attempt > 1) return;
    await job.keepAlive(100);
    await delayEnd();
    await untilAborted(job);
  };

  it('is looked for until it has by the database’s, by a process that runs jobs', async () => {
    const app = await startWork(firstRunOutlivesIt, {}, ALONE);
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'the second run is completed', timeoutMs: 20_000 });
    expect(app.runs.map(({ attempt }) => attempt)).toEqual([1, 2]);
    await app.close();
  });

  it('is looked for by queue.runOne, too, with nobody beside it', async () => {
    const app = await startWork(firstRunOutlivesIt, {}, { ...ALONE, runner: false });
    await app.jobs.spawn('work');
    expect(await app.queue.runOne()).toMatchObject({ outcome: 'lease-lost' });
    expect(await app.queue.runOne()).toMatchObject({ outcome: 'completed', attempt: 2 });
    await app.close();
  });
});

describe('job.keepAlive', () => {
  it('gives an end to the lease of a handler that has none, and the job is run again when it passes', async () => {
    const app = await startWork(async (job) => {
      if (job.attempt > 1) return;
      await job.keepAlive(50);
      await aborted(job);
    });
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'its second run has completed it' });
    expect(app.runs.map(({ attempt }) => attempt)).toEqual([1, 2]);
    await app.close();
  });

  it.each([0, -1, Number.NaN, Infinity, '366d', 'soon', null, undefined, {}])(
    'refuses %p, before any SQL',
    async (duration) => {
      const refused: unknown[] = [];
      const app = await startWork(async (job) => {
        refused.push(await codeOf(job.keepAlive(duration as never)));
        expect(await leaseEnd()).toBe('none');
      });
      await app.jobs.spawn('work');
      await until(() => has(app, 'completed') || has(app, 'retrying'), { what: 'its run has ended' });
      expect(refused).toEqual(['invalid_options']);
      expect(has(app, 'completed')).toBe(true);
      await app.close();
    },
  );
});

describe('a checkpoint’s keepAlive', () => {
  it('moves the end with what it stores', async () => {
    const { opened, open } = gate();
    const app = await startWork(
      async (job) => {
        await job.checkpoint({ payload: 'x', keepAlive: '1h' });
        await opened;
      },
      { keepAlive: false },
    );
    await app.jobs.spawn('work');
    await until(async () => (await leaseEnd()) === 'far', { what: 'the end is far' });
    open();
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    await app.close();
  });

  it('in a transaction counts when that commits: past the old end the run goes on', async () => {
    const app = await startWork(
      async (job) => {
        await app.dataSource.transaction(async (manager) => {
          await job.checkpoint({ keepAlive: '1h' }, { manager });
          // The old end passes with the transaction open: the row is locked, so nobody takes the job.
          await until(async () => (await leaseEnd()) === 'past', { what: 'the committed end has passed' });
        });
        await job.checkpoint({ payload: 'x' });
      },
      { keepAlive: false },
    );
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed') || has(app, 'lease-lost'), { what: 'its run has ended' });
    expect(has(app, 'completed')).toBe(true);
    expect(app.runs).toHaveLength(1);
    await app.close();
  });

  it('in a transaction that rolls back counts for nothing', async () => {
    const app = await startWork(
      async (job) => {
        if (job.attempt > 1) return;
        await app.dataSource
          .transaction(async (manager) => {
            await job.checkpoint({ keepAlive: '1h' }, { manager });
            throw new Error('rolled back');
          })
          .catch(() => undefined);
        await aborted(job);
      },
      { keepAlive: false },
    );
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'its second run has completed it' });
    expect(app.runs.map(({ attempt }) => attempt)).toEqual([1, 2]);
    await app.close();
  });
});

describe('an ordered job with a lease that ends', () => {
  /** The lanes as they stand, without times. One that ended with its lease is not written again. */
  const lanes = (): Promise<unknown[]> =>
    tables.sql(
      `SELECT key, greatest(last_seq, leased_seq)::int AS last_seq, blocked_by IS NOT NULL AS blocked,
         EXISTS (SELECT FROM nestmq.lease WHERE lease.runner_id = lane.runner_id AND number = lane.lease) AS leased
       FROM nestmq.lane ORDER BY key`,
    );

  it('is run again before those behind it, with the same number, by the process whose first run still hangs', async () => {
    const hung = gate();
    const app = await startWork((job) => (job.payload === 1 && job.attempt === 1 ? hung.opened : undefined), {
      ordered: true,
      keepAlive: false,
      retention: '1h',
    });
    const ids = await app.jobs.spawnMany([0, 1, 2, 3].map((payload) => ({ name: 'work', payload, key: 'k' })));
    await until(async () => (await app.queue.get(ids[3]!.id))?.state === 'completed', {
      what: 'the last is completed',
    });
    expect(app.runs.map(({ payload, attempt, seq }) => [payload, attempt, seq])).toEqual([
      [0, 1, 1],
      [1, 1, 2],
      [1, 2, 2],
      [2, 1, 3],
      [3, 1, 4],
    ]);
    hung.open();
    await until(() => has(app, 'lease-lost'), { what: 'the run that hung has ended' });
    await untilDone(tables);
    expect(app.runs).toHaveLength(5);
    expect(await lanes()).toEqual([{ key: 'k', last_seq: 4, leased: false, blocked: false }]);
    await app.close();
  });

  it.each([
    ['skip', [1, 2, 3], false],
    ['block', [1], true],
  ] as const)('that was its last lets its lane go on, or wait: onDead %s', async (onDead, seqs, blocked) => {
    const app = await startWork((job) => (job.payload === 0 ? untilAborted(job) : undefined), {
      ordered: true,
      onDead,
      keepAlive: false,
      retries: 0,
    });
    const [head] = await app.jobs.spawnMany([0, 1, 2].map((payload) => ({ name: 'work', payload, key: 'k' })));
    await until(async () => (await app.queue.get(head!.id))?.state === 'dead', { what: 'the head is dead' });
    expect(await app.queue.get(head!.id)).toMatchObject({ reason: 'lease expired', seq: 1 });
    await until(async () => (await tables.number('SELECT count(*) FROM nestmq.job')) === (blocked ? 2 : 0), {
      what: 'those behind it are done, or wait',
    });
    await until(async () => (await tables.number('SELECT count(*) FROM nestmq.lease')) === 0, {
      what: 'no lease is left',
    });
    expect(app.runs.map(({ seq }) => seq)).toEqual(seqs);
    expect(await lanes()).toEqual([{ key: 'k', last_seq: seqs.length, leased: false, blocked }]);
    await app.close();
  });

  it('of which the process is killed -9 is run by another one, in order', async () => {
    const sender = await startApp({ ...database, queue: { runner: false, openNames: true } });
    const payloads = [{ blockUntil: '/never' }, {}, {}];
    await sender.jobs.spawnMany(
      payloads.map((payload) => ({ name: 'work', payload, channel: 'work', key: 'k', ordered: true })),
    );
    await sender.close();
    const child = startChild('checkpoint-worker.ts', { URL: database.url, KEEP_ALIVE: 'false' });
    await child.message((message) => message === 'stored', 'the first runs in the other process');
    await child.kill();
    const app = await startWork(() => undefined, { ordered: true, keepAlive: false });
    await until(() => app.runs.length === 3, { what: 'this process has run them' });
    expect(app.runs.map(({ seq, attempt }) => [seq, attempt])).toEqual([
      [1, 2],
      [2, 1],
      [3, 1],
    ]);
    await untilDone(tables);
    await app.close();
  });
});

describe('behind a job whose end is not written yet', () => {
  /** Of one lane, claimed together: the first ends while its row is locked, so that its end cannot be written. */
  async function secondBehindLockedFirst(
    second: (job: Job, app: TestApp) => Promise<unknown>,
    options: HandlerOptions = {},
  ): Promise<string[]> {
    const log: string[] = [];
    const locked = gate();
    const app = await startWork(
      async (job) => {
        if (job.payload === 'first') await locked.opened;
        if (job.payload !== 'second') return;
        log.push('second starts');
        await second(job, app);
        log.push('second has written');
      },
      { ordered: true, ...options },
      // Handlers as fast as these are claimed as a run.
      { ...POLLING_OFF, prefetchMs: 1_000 },
    );
    await app.jobs.spawnMany(Array.from({ length: 50 }, () => ({ name: 'work', payload: 'warms up', key: 'w' })));
    await untilDone(tables);
    const [first] = await app.jobs.spawnMany(
      ['first', 'second'].map((payload) => ({ name: 'work', payload, key: 'k' })),
    );
    await until(() => app.runs.some(({ payload }) => payload === 'first'), { what: 'the first runs' });
    expect(await tables.sql('SELECT cardinality(job_ids) AS jobs FROM nestmq.lease')).toEqual([{ jobs: 2 }]);
    const session = await openSession(database.url);
    await session.pg.query('BEGIN');
    await session.pg.query('SELECT FROM nestmq.job WHERE id = $1 FOR UPDATE', [first!.id]);
    locked.open();
    await until(
      () =>
        tables.number(
          `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
        ),
      {
        what: 'the end of the first waits',
      },
    );
    // As much as the second could do meanwhile.
    for (let n = 0; n < 20; n += 1) await app.dataSource.transaction((manager) => manager.query('SELECT 1'));
    log.push('first is written');
    await session.pg.query('ROLLBACK');
    await untilDone(tables);
    await app.close();
    return log;
  }

  const inOrder = ['second starts', 'first is written', 'second has written'];

  it.each<[string, (job: Job, app: TestApp) => Promise<unknown>]>([
    [
      'a completion in a transaction',
      (job, { dataSource }) => dataSource.transaction((manager) => job.complete({ manager })),
    ],
    ['a completion', (job) => job.complete()],
    [
      'a checkpoint in a transaction',
      (job, { dataSource }) => dataSource.transaction((manager) => job.checkpoint({ payload: 'x' }, { manager })),
    ],
    ['a checkpoint', (job) => job.checkpoint({ payload: 'x' })],
    ['the end of a lease', (job) => job.keepAlive('1m')],
  ])('%s waits for it', async (_, write) => {
    expect(await secondBehindLockedFirst(write)).toEqual(inOrder);
  });

  it('no run begins whose lease has an end', async () => {
    const nothing = (): Promise<void> => Promise.resolve();
    expect(await secondBehindLockedFirst(nothing, { keepAlive: false })).toEqual([
      'first is written',
      'second starts',
      'second has written',
    ]);
  });
});

describe('rescueExpired', () => {
  it('by several rescuers at once ends each run once, and none whose end is ahead or missing', async () => {
    await tables.sql(
      `INSERT INTO nestmq.job (channel, name, attempt, max_attempts, lease_ends_at)
       SELECT 'work', 'work', 1, CASE WHEN i % 2 = 0 THEN 2 ELSE 5 END, now() - interval '1 second' FROM generate_series(1, 60) AS i`,
    );
    await tables.sql(
      `INSERT INTO nestmq.job (channel, name, lease_ends_at) VALUES ('work', 'ahead', now() + interval '1 hour'), ('work', 'missing', NULL)`,
    );
    const sessions = await Promise.all([1, 2, 3].map(() => openSession(database.url)));
    const rescues = sessions.map((session) => session.transaction((client) => run(client, rescueExpired, {})));
    const outcomes = (await Promise.all(rescues)).flat().map(({ outcome }) => outcome);
    expect(outcomes.toSorted()).toEqual([
      ...Array.from({ length: 30 }, () => 'dead'),
      ...Array.from({ length: 30 }, () => 'waiting'),
    ]);
    expect(
      await tables.sql(
        `SELECT DISTINCT run, attempt, suspect, lease_ends_at, last_error FROM nestmq.job WHERE name = 'work'`,
      ),
    ).toEqual([{ run: 1, attempt: 2, suspect: true, lease_ends_at: null, last_error: 'lease expired' }]);
    expect(await tables.sql(`SELECT DISTINCT state, reason, attempt FROM nestmq.finished_job`)).toEqual([
      { state: 'dead', reason: 'lease expired', attempt: 2 },
    ]);
    expect(await tables.number(`SELECT count(*) FROM nestmq.job WHERE name <> 'work' AND run = 0`)).toBe(2);
  });
});
