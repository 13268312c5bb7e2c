import { beforeEach, describe, expect, it } from '@jest/globals';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { openSession } from './support/engine.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith, type Work } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(async () => {
  await tables.clear();
  await tables.sql('DELETE FROM nestmq.lane');
});

const spawn = (app: TestApp, ...payloads: string[]) =>
  app.jobs.spawnMany(payloads.map((payload) => ({ name: 'work', payload, key: 'lane' })));
const drained = () => untilDone(tables);
const ranIn = ({ runs }: Work): unknown[] => runs.map(({ payload, seq }) => [payload, seq]);

describe('an ordered lane that is cleared', () => {
  it('behind its running head goes on with the next job that is spawned, numbered without a gap', async () => {
    const { opened, open } = gate();
    const Ordered = workWith({ ordered: true }, () => opened);
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, prefetchMs: 0 }, providers: [Ordered] });
    await spawn(app, 'running', 'cleared', 'cleared', 'cleared');
    await until(() => app.get(Ordered).runs.length, { what: 'the head runs' });
    expect(await app.queue.clear(['work'], { keepRunning: true })).toBe(3);
    await spawn(app, 'next', 'last');
    open();
    await drained();
    expect(ranIn(app.get(Ordered))).toEqual([
      ['running', 1],
      ['next', 2],
      ['last', 3],
    ]);
    await app.close();
  });

  it('with a head that waits for its retry, or for its time, forgets it: what comes later starts at once', async () => {
    const Ordered = workWith({ ordered: true, backoff: '1h' }, ({ payload }) =>
      payload === 'fails' ? Promise.reject(new Error('not now')) : undefined,
    );
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Ordered] });
    await spawn(app, 'first', 'fails', 'behind');
    await until(() => tables.number(`SELECT count(*) FROM nestmq.job WHERE attempt = 1`), { what: 'it waits' });
    await until(() => tables.number(`SELECT count(*) FROM nestmq.lane WHERE ready_at > now()`), {
      what: 'its lane waits too',
    });
    expect(await app.queue.clear(['work'])).toBe(2);
    expect(await tables.sql('SELECT head_position, ready_at, last_seq FROM nestmq.lane')).toEqual([
      { head_position: null, ready_at: null, last_seq: '2' },
    ]);
    await app.jobs.spawn('work', 'later', { key: 'lane', delay: '1h' });
    expect(await app.queue.clearAll()).toBe(1);
    await spawn(app, 'next');
    await drained();
    expect(ranIn(app.get(Ordered))).toEqual([
      ['first', 1],
      ['fails', 2],
      ['next', 3],
    ]);
    await app.close();
  });

  it('but for a job that another transaction has in hand goes on with that one, without polling', async () => {
    const Ordered = workWith({ ordered: true, backoff: '1h' }, ({ payload }) =>
      payload === 'fails' ? Promise.reject(new Error('not now')) : undefined,
    );
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Ordered] });
    const [, kept] = await spawn(app, 'fails', 'in hand', 'behind');
    await until(() => tables.number(`SELECT count(*) FROM nestmq.lane WHERE ready_at > now()`), { what: 'it waits' });
    const { pg } = await openSession(database.url);
    await pg.query('BEGIN');
    await pg.query('SELECT FROM nestmq.job WHERE id = $1 FOR NO KEY UPDATE', [kept!.id]);
    expect(await app.queue.clear(['work'])).toBe(2);
    await pg.query('COMMIT');
    await drained();
    expect(ranIn(app.get(Ordered))).toEqual([
      ['fails', 1],
      ['in hand', 2],
    ]);
    await app.close();
  });

  it('job by job by hand, in the middle, goes on with the next one', async () => {
    const Ordered = workWith({ ordered: true });
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Ordered] });
    await app.queue.pause('work');
    const spawned = await spawn(app, 'a', 'b', 'c', 'd');
    await tables.sql('DELETE FROM nestmq.job WHERE id = $1', [spawned[1]!.id]);
    await app.queue.resume('work');
    await drained();
    expect(ranIn(app.get(Ordered))).toEqual([
      ['a', 1],
      ['c', 2],
      ['d', 3],
    ]);
    await app.close();
  });
});
