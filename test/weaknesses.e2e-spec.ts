import { beforeEach, describe, expect, it } from '@jest/globals';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

// acceptance: section 8, what the other systems are weak at and no other test shows absent here
describe('the backoff of a failed job', () => {
  it('is kept by the database: neither a restart nor another process runs it before its time, and then it goes on counting', async () => {
    const fails = (): new () => object =>
      workWith({ retries: 1, backoff: '1h' }, ({ payload }) => {
        if (payload === 'fails') throw new Error('told to fail');
      });
    const first = await startApp({ ...database, queue: POLLING_OFF, providers: [fails()] });
    const { id } = await first.jobs.spawn('work', 'fails');
    await until(() => first.events.some(({ type }) => type === 'retrying'), { what: 'it has failed' });
    await first.close();

    const start = () => startApp({ ...database, queue: POLLING_OFF, providers: [fails()] });
    const others = await Promise.all([start(), start()]);
    // A marker behind it: who took no notice of the time would have run both.
    await others[0]!.jobs.spawnMany(Array.from({ length: 64 }, () => ({ name: 'work', payload: 'marker' })));
    const events = () => others.flatMap((app) => app.events);
    await until(() => events().filter(({ type }) => type === 'completed').length === 64, {
      what: 'the markers have run',
    });
    expect(events().filter((event) => 'id' in event && event.id === id)).toEqual([]);
    expect(await others[0]!.queue.get(id)).toMatchObject({ state: 'waiting', attempts: 1 });

    await Promise.all(others.map((app) => app.close()));
    await tables.sql('UPDATE nestmq.job SET due_at = now()'); // when no look for the markers is to come any more
    const last = await startApp({ ...database, queue: POLLING_OFF, providers: [fails()] });
    await until(() => last.events.some(({ type }) => type === 'dead'), { what: 'its last run has failed' });
    expect(await last.queue.get(id)).toMatchObject({ state: 'dead', reason: 'exhausted', attempts: 2 });
    await last.close();
  });
});

describe('a run that outlasts its lease many times over', () => {
  it('is not run a second time when another process starts, nor while that one watches', async () => {
    const { opened, open } = gate();
    const Work = workWith({}, () => opened);
    const queue = { ...POLLING_OFF, leaseMs: 1_000 };
    const first = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await first.jobs.spawn('work');
    await until(() => first.get(Work).runs.length, { what: 'it runs' });
    const second = await startApp({ ...database, queue, providers: [Work] });
    // Three leases, by the heartbeats of both.
    await until(() => tables.number('SELECT (count(*) = 2 AND min(beat) > 12)::int FROM nestmq.runner'), {
      what: 'both have beaten',
    });
    open();
    await untilDone(tables);
    expect(first.events).toContainEqual(expect.objectContaining({ type: 'completed', id, attempt: 1 }));
    expect(second.get(Work).runs).toEqual([]);
    await Promise.all([first.close(), second.close()]);
  });
});

describe('the attempts of a job that fails again and again', () => {
  it('are counted beyond what a small integer holds', async () => {
    const Work = workWith({ retries: Infinity, backoff: 0 }, ({ attempt }) => {
      if (attempt < 32_770) throw new Error('again');
    });
    const app = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await tables.sql('UPDATE nestmq.job SET attempt = 32766');
    for (const attempt of [32_767, 32_768, 32_769]) {
      expect(await app.queue.runOne()).toMatchObject({ id, attempt, outcome: 'retrying' });
      await tables.sql('UPDATE nestmq.job SET due_at = now()');
    }
    expect(await app.queue.runOne()).toMatchObject({ id, attempt: 32_770, outcome: 'completed' });
    await app.close();
  });
});
