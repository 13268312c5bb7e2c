import { beforeEach, describe, expect, it } from '@jest/globals';
import { Inject, Injectable } from '@nestjs/common';
import { JobHandler, type HandlerOptions, type Job } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

// What the documentation of sqlxmq lists and its tests show, where no other file of ours does.

const database = useDatabase();
const tables = useTables(database);

beforeEach(async () => {
  await tables.clear();
  await tables.sql('DELETE FROM nestmq.lane');
});

const HOUR_MS = 3_600_000;

describe('the registry', () => {
  it('takes the options of the decorator before those of a preset function, and injects what a handler needs', async () => {
    const preset = (label: string): HandlerOptions => ({ retries: label.length, timeout: '1m', backoff: '9s' });
    @Injectable()
    class Example {
      seen: unknown;

      constructor(
        @Inject('NUMBER') private readonly number: number,
        @Inject('TEXT') private readonly text: string,
      ) {}

      @JobHandler('foo', { preset, ordered: true, retries: 3, backoff: '2s' })
      method(job: Job<string>): void {
        this.seen = [job.payload, this.number, this.text];
      }
    }
    const context = [
      { provide: 'NUMBER', useValue: 42 },
      { provide: 'TEXT', useValue: 'a string' },
    ];
    const app = await startApp({ ...database, queue: { runner: false }, providers: [Example, ...context] });
    await app.jobs.spawn(Example, 'method', 'payload');
    const [stored] = await tables.sql(
      `SELECT channel, job.name, max_attempts, position IS NOT NULL AS ordered, (policy.backoff ->> 'baseMs')::int AS base,
         timeout_ms::int
       FROM nestmq.job JOIN nestmq.handler_policy AS policy ON policy.id = policy_id`,
    );
    expect(stored).toEqual({
      ...{ channel: 'foo', name: 'Example.method', max_attempts: 4, ordered: true, base: 2_000, timeout_ms: 60_000 },
    });
    expect(await app.queue.runOne()).toMatchObject({ outcome: 'completed' });
    expect(app.get(Example).seen).toEqual(['payload', 42, 'a string']);
    await app.close();
  });
});

describe('a job with two retries and an exponential backoff', () => {
  it('runs three times, one base and then two apart at least, never a fourth time, and is dead', async () => {
    const options = { retries: 2, backoff: { type: 'exponential', base: '1h', max: '1d' } } as const;
    const Work = workWith(options, ({ attempt }) => Promise.reject(new Error(`run ${attempt}`)));
    const app = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    for (const waitMs of [HOUR_MS, 2 * HOUR_MS]) {
      const result = await app.queue.runOne();
      expect(result).toMatchObject({ id, outcome: 'retrying' });
      expect(result!.delayMs).toBeGreaterThanOrEqual(waitMs);
      expect(result!.delayMs).toBeLessThanOrEqual(waitMs * 1.1);
      expect(await app.queue.runOne()).toBeNull();
      await tables.sql(`UPDATE nestmq.job SET due_at = due_at - interval '3 hours'`);
    }
    expect(await app.queue.runOne()).toMatchObject({ id, attempt: 3, outcome: 'dead', reason: 'exhausted' });
    expect(await app.queue.runOne()).toBeNull();
    expect(app.get(Work).runs).toHaveLength(3);
    expect(await app.queue.get(id)).toMatchObject({ state: 'dead', attempts: 3, maxAttempts: 3 });
    await app.close();
  });
});

describe('a channel', () => {
  it('is made by its first job, without any set-up, and leaves nothing behind when it is empty', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const channel = 'never heard of before';
    await app.queue.pause(channel);
    expect(await app.queue.resume(channel)).toBe(true);
    await app.jobs.spawn('work', 1, { channel });
    await untilDone(tables);
    expect(app.get(Work).runs).toMatchObject([{ channel }]);
    expect(await app.queue.stats()).toEqual([]);
    await app.close();
  });
});

describe('a runner that serves a group of channels', () => {
  it('runs their jobs of every key, each key in an order of its own, and those of no other channel', async () => {
    const { opened, open } = gate();
    const Work = workWith({ ordered: true }, ({ payload }) => (payload === 'a1' ? opened : undefined));
    const queue = { ...POLLING_OFF, channels: ['orders', 'invoices'] };
    const app = await startApp({ ...database, queue, providers: [Work] });
    const spawn = (channel: string, key: string, payload: string) => app.jobs.spawn('work', payload, { channel, key });
    await spawn('mail', 'a', 'mail');
    for (const payload of ['a1', 'a2']) await spawn('orders', 'a', payload);
    for (const payload of ['b1', 'b2']) await spawn('orders', 'b', payload);
    await spawn('invoices', 'a', 'c1');
    const ran = (): unknown[] => app.get(Work).runs.map(({ payload }) => payload);
    await until(() => ['b2', 'c1'].every((payload) => ran().includes(payload)), { what: 'the others have run' });
    expect(ran()).not.toContain('a2');
    open();
    await until(() => ran().includes('a2'), { what: 'the first lane goes on' });
    expect(ran().indexOf('b1')).toBeLessThan(ran().indexOf('b2'));
    expect(ran()).not.toContain('mail');
    await app.close();
    expect(await tables.number(`SELECT count(*) FROM nestmq.job WHERE channel = 'mail'`)).toBe(1);
  });
});

describe('concurrency { min, max }', () => {
  const types = ({ events }: TestApp): string[] =>
    events.map(({ type }) => type).filter((type) => type !== 'listening');
  const told = (app: TestApp, type: string): number => types(app).filter((other) => other === type).length;

  it('fills up to max when fewer than min run, and not before', async () => {
    const gates = Array.from({ length: 8 }, gate);
    const Work = workWith({}, ({ payload }) => gates[payload as number]!.opened);
    const queue = { ...POLLING_OFF, concurrency: { min: 2, max: 4 }, prefetchMs: 0 };
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawnMany(gates.map((_, payload) => ({ name: 'work', payload })));
    await until(() => told(app, 'started') === 4, { what: 'as many run as may' });
    for (const done of [0, 1]) {
      gates[done]!.open();
      await until(() => told(app, 'completed') === done + 1, { what: 'one is completed' });
    }
    // Two run still: enough.
    expect(types(app)).toEqual([...Array<string>(4).fill('started'), 'completed', 'completed']);
    gates[2]!.open();
    await until(() => told(app, 'started') === 7, { what: 'one run was too few' });
    expect(app.queue.running).toBe(4);
    for (const { open } of gates) open();
    await untilDone(tables);
    await app.close();
  });
});
