import { beforeEach, describe, expect, it } from '@jest/globals';
import { ChannelBusyError, InvalidOptionsError } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { openSession } from './support/engine.js';
import { recordSql } from './support/sql-log.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith, type Work } from './support/work.js';
import { startWorker } from './support/workers.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const spawnInto = (app: TestApp, ...channels: string[]) =>
  app.jobs.spawnMany(channels.map((channel) => ({ name: 'work', payload: channel, channel })));
const payloadsOf = ({ runs }: Work): string[] => runs.map(({ payload }) => String(payload));
const jobsIn = (channel: string): Promise<number> =>
  tables.number('SELECT count(*) FROM nestmq.job WHERE channel = $1', [channel]);

describe('queue.clear', () => {
  it('deletes the jobs of the named channels and no others, and answers how many', async () => {
    const Worker = workWith();
    const sender = await startApp({ ...database, queue: { runner: false }, providers: [Worker] });
    await spawnInto(sender, 'foo', 'foo', 'bar', 'bar', 'baz', 'baz');
    expect(await sender.queue.clear(['foo', 'baz'])).toBe(4);
    const runner = await startApp({ ...database, queue: POLLING_OFF, providers: [Worker] });
    await untilDone(tables);
    expect(payloadsOf(runner.get(Worker))).toEqual(['bar', 'bar']);
    await sender.close();
    await runner.close();
  });

  it('deletes scheduled, retrying, held, ordered and suspect jobs, and leaves finished ones and the pause', async () => {
    const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith()] });
    await app.jobs.spawn('work', null, { delay: '1h', key: 'k' });
    const columns = 'channel, name, attempt, due_at, suspect, held_until, position, seq';
    await tables.sql(`INSERT INTO nestmq.job (${columns}) VALUES
      ('work', 'work', 3, now() + interval '1 minute', false, NULL, NULL, NULL),
      ('work', 'work', 1, now(), true, NULL, NULL, NULL),
      ('work', 'work', 0, now(), false, now() + interval '1 hour', NULL, NULL),
      ('work', 'work', 0, now(), true, now() + interval '1 hour', NULL, NULL),
      ('work', 'work', 0, now(), false, NULL, 7, NULL),
      ('work', 'work', 1, now(), true, NULL, 8, 1),
      ('work', 'work', 0, now(), false, now() + interval '1 hour', 9, NULL)`);
    await tables.sql(`INSERT INTO nestmq.job_progress (job_id, percent) SELECT id, 50 FROM nestmq.job`);
    await tables.sql(`INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, channel, key, name)
      VALUES (1000000, 'dead', 1, 0, now(), now(), 'work', '', 'work')`);
    await app.queue.pause('work');
    expect(await app.queue.clear(['work'])).toBe(8);
    expect(await jobsIn('work')).toBe(0);
    expect(await tables.number('SELECT count(*) FROM nestmq.job_progress')).toBe(0);
    expect(await app.queue.stats()).toMatchObject([{ channel: 'work', paused: true, dead: 1 }]);
    expect(await app.queue.clear(['work', 'never used'])).toBe(0);
    await app.close();
  });

  it('refuses while jobs run, and has then changed nothing, in none of the channels', async () => {
    const { opened, open } = gate();
    const Worker = workWith({ concurrency: 1 }, () => opened);
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Worker] });
    await spawnInto(app, 'busy', 'busy', 'busy');
    await until(() => app.get(Worker).runs.length, { what: 'one runs' });
    await app.queue.pause('idle');
    await spawnInto(app, 'idle', 'idle');
    const refusal = app.queue.clear(['idle', 'busy']);
    await expect(refusal).rejects.toThrow(ChannelBusyError);
    await expect(refusal).rejects.toMatchObject({ code: 'channel_busy', channels: ['busy'], running: 1 });
    expect([await jobsIn('idle'), await jobsIn('busy')]).toEqual([2, 3]);
    await expect(app.queue.clearAll()).rejects.toThrow(ChannelBusyError);
    expect([await jobsIn('idle'), await jobsIn('busy')]).toEqual([2, 3]);
    open();
    await until(async () => (await jobsIn('busy')) === 0, { what: 'they have run' });
    await app.close();
  });

  it('with keepRunning leaves the running jobs, which end as ever, and deletes the others', async () => {
    const { opened, open } = gate();
    const Worker = workWith({ concurrency: 1, retention: '1h' }, () => opened.then(() => 'done'));
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Worker] });
    const spawned = await spawnInto(app, 'busy', 'busy', 'busy');
    await until(() => app.get(Worker).runs.length, { what: 'one runs' });
    expect(await app.queue.clear(['busy'], { keepRunning: true })).toBe(2);
    open();
    expect(await app.queue.waitFor(spawned[0]!.id)).toBe('done');
    expect(app.get(Worker).runs).toHaveLength(1);
    expect(await Promise.all(spawned.map(({ id }) => app.queue.exists(id)))).toEqual([true, false, false]);
    await app.close();
  });

  it('works on 25 000 jobs, and leaves those that are spawned meanwhile', async () => {
    const Worker = workWith();
    const app = await startApp({ ...database, queue: { runner: false }, providers: [Worker] });
    await app.jobs.spawnMany(Array.from({ length: 25_000 }, () => ({ name: 'work', payload: 'old' })));
    const clearing = app.queue.clear(['work']);
    // Goes out behind the first chunk and before the last: spawns and clears of a process share a connection.
    const { id } = await app.jobs.spawn('work', 'new');
    expect(await clearing).toBe(25_000);
    expect(await tables.sql('SELECT id FROM nestmq.job')).toEqual([{ id }]);
    await app.close();
  });

  it('waits neither for a handler that keeps its completing transaction open nor for a commit of a held job', async () => {
    const { opened, open } = gate();
    let completing = false;
    const Worker = workWith({}, (job) =>
      app.dataSource.transaction(async (manager) => {
        await job.complete({ manager });
        completing = true;
        await opened;
      }),
    );
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Worker] });
    await spawnInto(app, 'work');
    await until(() => completing, { what: 'its completion is not committed yet' });
    const { pg } = await openSession(database.url);
    await tables.sql(
      `INSERT INTO nestmq.job (channel, name, held_until) VALUES ('work', 'work', now() + interval '1 h')`,
    );
    await pg.query('BEGIN');
    await pg.query('UPDATE nestmq.job SET held_until = NULL WHERE held_until IS NOT NULL');
    expect(await app.queue.clear(['work'], { keepRunning: true })).toBe(0);
    await pg.query('COMMIT');
    expect(await app.queue.clear(['work'], { keepRunning: true })).toBe(1);
    open();
    await untilDone(tables);
    await app.close();
  });

  it('takes a reservation with it, whose commit is then refused', async () => {
    const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith()] });
    const reservation = await app.jobs.spawn('work', null, { hold: '1h' });
    expect(await app.queue.clear(['work'])).toBe(1);
    await expect(reservation.commit()).rejects.toMatchObject({ code: 'reservation_invalid', reason: 'unknown' });
    expect(await app.queue.runOne()).toBeNull();
    await app.close();
  });

  it('refuses what is no list of channels, and sends nothing for an empty one', async () => {
    const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith()] });
    for (const channels of ['work', undefined, [''], [5], ['work', 'x'.repeat(256)]] as never[]) {
      await expect(app.queue.clear(channels)).rejects.toThrow(InvalidOptionsError);
    }
    const statements = recordSql();
    expect(await app.queue.clear([])).toBe(0);
    expect(statements).toEqual([]);
    await app.close();
  });
});

describe('queue.clearAll', () => {
  it('empties every channel, however many, and the queue goes on as if nothing had been', async () => {
    const Worker = workWith();
    const sender = await startApp({ ...database, queue: { runner: false }, providers: [Worker] });
    await spawnInto(sender, ...Array.from({ length: 750 }, (_, nth) => `channel ${nth % 250}`));
    expect(await sender.queue.clearAll()).toBe(750);
    // There is no row in the tables that the queue could not do without: the second time they are empty.
    expect(await sender.queue.clearAll()).toBe(0);
    expect(await tables.drained()).toBe(true);
    const runner = await startApp({ ...database, queue: POLLING_OFF, providers: [Worker] });
    await spawnInto(sender, 'channel 1', 'brand new');
    await untilDone(tables);
    expect(payloadsOf(runner.get(Worker)).toSorted()).toEqual(['brand new', 'channel 1']);
    await runner.close();
    await sender.close();
  });
});

describe('clears beside two processes that claim', () => {
  it('delete no job that has been claimed, and no job runs that was deleted', async () => {
    const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith()] });
    const workers = await Promise.all([startWorker(database.url), startWorker(database.url)]);
    const ran = () => workers.flatMap((worker) => worker.of('started').map(({ id }) => id));
    let spawned = 0;
    let cleared = 0;
    const state = { spawning: true };
    const spawn = async (): Promise<void> => {
      for (let call = 0; call < 100; call++) {
        const items = Array.from({ length: 50 }, (_, nth) => ({
          ...{ name: 'work', payload: 'end', channel: `c${nth % 3}` },
          ...{ key: nth % 2 ? `k${nth % 4}` : '', ordered: nth % 4 > 1 },
        }));
        spawned += (await app.jobs.spawnMany(items)).length;
      }
      state.spawning = false;
    };
    const clear = async (): Promise<void> => {
      while (state.spawning) {
        cleared += await app.queue.clear(['c2', 'c0'], { keepRunning: true });
        cleared += await app.queue.clearAll({ keepRunning: true });
      }
    };
    await Promise.all([spawn(), clear()]);
    await untilDone(tables);
    // Each run is told of in a message of its own.
    await until(() => ran().length + cleared >= spawned, { what: 'all are accounted for' });
    expect(spawned).toBe(5_000);
    expect(cleared).toBeGreaterThan(0);
    expect(ran().length).toBeGreaterThan(0);
    expect(new Set(ran()).size + cleared).toBe(spawned);
    expect(ran()).toHaveLength(new Set(ran()).size);

    // No lane has been left with a head that is gone.
    const lanes = await tables.sql<{ channel: string; key: string }>('SELECT channel, key FROM nestmq.lane');
    expect(lanes.length).toBeGreaterThan(0);
    await app.jobs.spawnMany(lanes.map((lane) => ({ name: 'work', payload: 'end', ordered: true, ...lane })));
    await untilDone(tables);
    await app.close();
  });
});
