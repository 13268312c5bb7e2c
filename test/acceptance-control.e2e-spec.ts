import { beforeEach, describe, expect, it } from '@jest/globals';
import { InvalidOptionsError } from 'nestmq';
import { SURVEY_MESSAGE } from '../libs/queue/src/statements/wake-up.js';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { openSession } from './support/engine.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const told =
  (type: string) =>
  ({ events }: { events: readonly { type: string }[] }) =>
    events.some((event) => event.type === type);

describe('a paused channel', () => {
  it('is claimed from by no process, also after a restart, and by resume at once without polling', async () => {
    const Work = workWith();
    const sender = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    const first = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    expect(await first.queue.pause('work')).toBe(true);
    expect(await sender.queue.pause('work')).toBe(false);
    await first.close();

    const again = [Work, Work].map((provider) => startApp({ ...database, queue: POLLING_OFF, providers: [provider] }));
    const runners = await Promise.all(again);
    for (const runner of runners) await until(() => told('listening')(runner), { what: 'it listens' });
    const { id } = await sender.jobs.spawn('work', 'held back');
    // Sent behind it: a runner that took no notice of the pause would have run both.
    await sender.jobs.spawn('work', 'marker', { channel: 'open' });
    const runs = () => runners.flatMap((runner) => runner.get(Work).runs.map(({ payload }) => payload));
    await until(() => runs().length, { what: 'the marker has run' });
    expect(runs()).toEqual(['marker']);
    expect(await sender.queue.get(id)).toMatchObject({ state: 'waiting', attempts: 0 });

    expect(await sender.queue.resume('work')).toBe(true);
    await until(() => runs().includes('held back'), { what: 'the job runs' });
    expect(await sender.queue.resume('work')).toBe(false);
    for (const app of [...runners, sender]) await app.close();
  });

  it('lets the run go on that had begun', async () => {
    const { opened, open } = gate();
    const Work = workWith({}, () => opened);
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    await app.jobs.spawn('work');
    await until(() => app.get(Work).runs.length, { what: 'it runs' });
    await app.queue.pause('work');
    open();
    await until(() => told('completed')(app), { what: 'it is completed' });
    await app.close();
  });
});

describe('channels', () => {
  it('narrow a runner to those, and another one serves the rest', async () => {
    const [Narrow, Wide] = [workWith(), workWith()];
    const narrow = await startApp({
      ...database,
      queue: { ...POLLING_OFF, channels: ['mine'] },
      providers: [Narrow],
    });
    await narrow.jobs.spawn('work', 'another', { channel: 'another' });
    await narrow.jobs.spawn('work', 'mine', { channel: 'mine' });
    const ran = (app: typeof narrow, Work: typeof Narrow) => app.get(Work).runs.map(({ payload }) => payload);
    await until(() => told('completed')(narrow), { what: 'its own job is completed' });
    expect(ran(narrow, Narrow)).toEqual(['mine']);

    const wide = await startApp({ ...database, queue: POLLING_OFF, providers: [Wide] });
    await until(() => told('completed')(wide), { what: 'the other job is completed' });
    expect(ran(wide, Wide)).toEqual(['another']);
    expect(ran(narrow, Narrow)).toEqual(['mine']);
    await narrow.close();
    await wide.close();
  });
});

describe('queue.get and queue.exists', () => {
  it('answer null and false for an id that nobody has, and refuse what is no id', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    const { jobs, queue } = app;
    const spawned = await jobs.spawn('work');
    expect(spawned).toEqual({ id: expect.stringMatching(/^\d+$/), isNew: true });
    expect(await queue.exists(spawned.id)).toBe(true);
    const unknown = String(BigInt(spawned.id) + 1_000n);
    expect(await queue.get(unknown)).toBeNull();
    expect(await queue.exists(unknown)).toBe(false);
    for (const id of ['', 'x', '-1', '1; DROP TABLE job', 5 as never]) {
      await expect(queue.get(id)).rejects.toThrow(InvalidOptionsError);
    }
    await app.close();
  });
});

describe('a run longer than stuckAfter', () => {
  it('is told of once by an event, and nothing ends it', async () => {
    const { opened, open } = gate();
    const Work = workWith({}, () => opened);
    const queue = { ...POLLING_OFF, leaseMs: 1_000, stuckAfter: 50 };
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => told('stuck')(app), { what: 'it is reported' });
    // The reports come with the turns of the rescue: after a second run was told of, the first was passed by.
    await app.jobs.spawn('work', 'second');
    const stuck = () => app.events.filter(({ type }) => type === 'stuck');
    await until(() => stuck().length > 1, { what: 'the second one is reported' });
    expect(stuck().filter((event) => 'id' in event && event.id === id)).toHaveLength(1);
    expect(app.get(Work).runs[0]!.signal.aborted).toBe(false);
    open();
    await untilDone(tables);
    expect(app.events.filter(({ type }) => type === 'completed')).toHaveLength(2);
    await app.close();
  });
});

describe('a rescue', () => {
  it('notifies the runners of the jobs that it has put back', async () => {
    const { pg: listening } = await openSession(database.url);
    const heard: string[] = [];
    listening.on('notification', ({ payload }) => heard.push(payload ?? ''));
    await listening.query('LISTEN nestmq_wake_up');
    // Paused, so that nobody claims the job and no other notification can be taken for the rescuer's.
    const Work = workWith();
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, leaseMs: 1_000 }, providers: [Work] });
    await app.queue.pause('orphaned');
    await tables.sql(`INSERT INTO nestmq.job (channel, name) VALUES ('orphaned', 'work')`);
    const before = heard.length;
    await tables.sql(`
      INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, started, hi_due_at, hi_id)
      SELECT 7, 1, channel, priority, ARRAY[id], ARRAY[run], 1, due_at, id FROM nestmq.job`);
    await until(() => told('rescued')(app), { what: 'the job is rescued' });
    expect(await tables.sql('SELECT attempt, suspect FROM nestmq.job')).toEqual([{ attempt: 1, suspect: true }]);
    await until(() => heard.slice(before).includes(SURVEY_MESSAGE), { what: 'the others are told to look' });
    await app.close();
  });
});
