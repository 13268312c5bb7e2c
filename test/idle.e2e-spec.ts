import { beforeEach, describe, expect, it } from '@jest/globals';
import { InvalidOptionsError } from 'nestmq';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

describe('queue.running and queue.idle', () => {
  it('count the handlers that run in this process, and wait for them with a limit', async () => {
    const { opened, open } = gate();
    const Work = workWith({ retention: '1h' }, () => opened);
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const other = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    expect(app.queue.running).toBe(0);
    const spawned = await app.jobs.spawnMany([1, 2, 3].map((payload) => ({ name: 'work', payload })));
    await until(() => app.queue.running === 3, { what: 'all three run' });
    expect(await app.queue.idle({ timeout: 20 })).toBe(false);
    expect(app.queue.running).toBe(3);
    expect([other.queue.running, await other.queue.idle()]).toEqual([0, true]);
    const idle = app.queue.idle();
    open();
    expect(await idle).toBe(true);
    expect(app.queue.running).toBe(0);
    // What ended is written when it resolves.
    for (const { id } of spawned) expect(await other.queue.get(id)).toMatchObject({ state: 'completed' });
    await app.close();
    await other.close();
  });

  it('wait on while the slot of each run is filled at once', async () => {
    const Work = workWith({ concurrency: 1 }, () => Promise.resolve());
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, concurrency: 1 }, providers: [Work] });
    await app.jobs.spawnMany(Array.from({ length: 300 }, (_, payload) => ({ name: 'work', payload })));
    await until(() => app.get(Work).runs.length, { what: 'the first one runs' });
    // Each answer is true of the moment; in the end of all moments.
    await until(async () => (await app.queue.idle({ timeout: '10s' })) && (await tables.drained()), {
      what: 'all have run',
    });
    expect(app.get(Work).runs).toHaveLength(300);
    await app.close();
  });

  it('refuse what is no time', async () => {
    const app = await startApp({ ...database, queue: { runner: false }, providers: [workWith()] });
    for (const timeout of [-1, Number.NaN, '25d', 'soon' as never] as const) {
      await expect(app.queue.idle({ timeout })).rejects.toThrow(InvalidOptionsError);
    }
    await app.close();
  });
});
