import { beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { JobHandler, type Job } from 'nestmq';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { laneWith, oneByOne, payloadsOf, seqsOf, turn, upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const queue = POLLING_OFF;

const drained = (): Promise<boolean> => untilDone(tables);

beforeEach(() => tables.clear());

// acceptance: sqlxmq it_runs_jobs_in_order; modkit-db outbox C; spec 6
describe('jobs of one lane', () => {
  it('run in the order of their spawns, one after another, and are numbered as they start', async () => {
    const Work = laneWith({}, turn);
    const app = await startApp({ ...database, queue, providers: [Work] });
    for (const payload of upTo(8)) await app.jobs.spawn('work', payload, { key: 'lane' });
    await drained();
    expect(app.get(Work).steps).toEqual(oneByOne(...upTo(8)));
    expect(seqsOf(app.get(Work))).toEqual(upTo(8));
    await app.close();
  });

  it('do not start while the one before runs, and start without a poll when it has ended', async () => {
    const { opened, open } = gate();
    const Work = laneWith({}, ({ payload }) => (payload === 'first' ? opened : undefined));
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work', 'first', { key: 'lane' });
    const second = await app.jobs.spawn('work', 'second', { key: 'lane' });
    await until(() => app.get(Work).runs.length, { what: 'the first one runs' });
    await app.jobs.spawn('work', 'marker', { key: 'another lane' });
    await until(() => app.get(Work).steps.includes('marker ends'), { what: 'a job of another lane has run' });
    expect(app.get(Work).steps).toEqual(['first starts', 'marker starts', 'marker ends']);
    expect(await app.queue.get(second.id)).toMatchObject({ state: 'waiting', attempts: 0, seq: null });
    open();
    await drained();
    expect(app.get(Work).steps.slice(3)).toEqual(['first ends', 'second starts', 'second ends']);
    await app.close();
  });

  it('start when the end of the one before is written, where nothing is prefetched', async () => {
    const found: unknown[] = [];
    const Work = laneWith({}, async ({ payload }) => {
      if (payload !== null) found.push(await app.queue.get(payload as string));
    });
    const app = await startApp({ ...database, queue: { ...queue, prefetchMs: 0 }, providers: [Work] });
    await app.queue.pause('work');
    let previous: string | null = null;
    for (const _ of upTo(10)) previous = (await app.jobs.spawn('work', previous, { key: 'lane' })).id;
    await app.queue.resume('work');
    await drained();
    expect(found).toEqual(Array.from({ length: 9 }, () => null));
    await app.close();
  });

  it('keep their number over retries, and it is read with the job', async () => {
    const Work = laneWith(
      { retention: '1h', backoff: { type: 'fixed', base: 1, jitter: 0 } },
      ({ payload, attempt }) => {
        if (payload === 'flaky' && attempt < 3) throw new Error('once more');
      },
    );
    const app = await startApp({ ...database, queue, providers: [Work] });
    const flaky = await app.jobs.spawn('work', 'flaky', { key: 'lane' });
    const next = await app.jobs.spawn('work', 'next', { key: 'lane' });
    await drained();
    const runs = app.get(Work).runs.map(({ payload, attempt, seq }) => [payload, attempt, seq]);
    expect(runs).toEqual([
      ['flaky', 1, 1],
      ['flaky', 2, 1],
      ['flaky', 3, 1],
      ['next', 1, 2],
    ]);
    expect(await app.queue.get(flaky.id)).toMatchObject({ state: 'completed', seq: 1, key: 'lane' });
    expect(await app.queue.get(next.id)).toMatchObject({ state: 'completed', seq: 2, channel: 'work' });
    await app.close();
  });

  it('are numbered without a gap over many transactions, also after spawns that were rolled back', async () => {
    const Work = laneWith();
    const app = await startApp({ ...database, queue, providers: [Work] });
    const spawn = (payload: unknown, rollBack: boolean): Promise<unknown> =>
      app.dataSource
        .transaction(async (manager) => {
          await app.jobs.spawn('work', payload, { key: 'lane', manager });
          if (rollBack) throw new Error('rolled back');
        })
        .catch(() => undefined);
    for (const payload of upTo(4)) {
      await spawn(payload, false);
      await spawn(`never ${payload}`, true);
    }
    await app.dataSource.transaction(async (manager) => {
      await manager.transaction((inner) => spawnIn(inner, 'never')).catch(() => undefined);
      await app.jobs.spawn('work', 5, { key: 'lane', manager });
    });
    async function spawnIn(manager: typeof app.dataSource.manager, payload: unknown): Promise<never> {
      await app.jobs.spawn('work', payload, { key: 'lane', manager });
      throw new Error('the savepoint rolls back');
    }
    await drained();
    expect(payloadsOf(app.get(Work))).toEqual(upTo(5));
    expect(seqsOf(app.get(Work))).toEqual(upTo(5));
    await app.close();
  });
});

describe('lanes', () => {
  it('are numbered by themselves, each channel apart', async () => {
    const Work = laneWith();
    const app = await startApp({ ...database, queue, providers: [Work] });
    const sent: [string, string][] = [
      ['work', 'a'],
      ['work', 'b'],
      ['work', 'a'],
      ['other', 'a'],
      ['work', 'b'],
      ['work', 'b'],
    ];
    for (const [channel, key] of sent) await app.jobs.spawn('work', null, { channel, key });
    await drained();
    const numbers = (channel: string, key: string): (number | null)[] =>
      app.get(Work).runs.flatMap((job) => (job.channel === channel && job.key === key ? [job.seq] : []));
    expect([numbers('work', 'a'), numbers('work', 'b'), numbers('other', 'a')]).toEqual([[1, 2], [1, 2, 3], [1]]);
    await app.close();
  });

  it('that were drained run later jobs and number on, after a restart too', async () => {
    const Work = laneWith();
    for (const payload of upTo(3)) {
      const app = await startApp({ ...database, queue, providers: [Work] });
      await app.jobs.spawn('work', payload, { key: 'lane' });
      await drained();
      expect(seqsOf(app.get(Work))).toEqual([payload]);
      await app.close();
    }
    // A lane that ends with its lease is not written again: the claim has noted how far it goes.
    const numbered = 'SELECT channel, key, greatest(last_seq, leased_seq)::int AS last FROM nestmq.lane';
    expect(await tables.sql(numbered)).toEqual([{ channel: 'work', key: 'lane', last: 3 }]);
  });

  it('run beside one another', async () => {
    const { opened, open } = gate();
    const Work = laneWith({}, () => opened);
    const app = await startApp({ ...database, queue, providers: [Work] });
    for (const key of ['a', 'b', 'c']) await app.jobs.spawn('work', key, { key });
    await until(() => app.get(Work).runs.length === 3, { what: 'all three run at once' });
    expect(new Set(payloadsOf(app.get(Work)))).toEqual(new Set(['a', 'b', 'c']));
    open();
    await drained();
    await app.close();
  });

  it('may hold jobs of several handlers', async () => {
    @Injectable()
    class Account {
      readonly ran: string[] = [];

      @JobHandler('accounts', { ordered: true })
      open(job: Job): void {
        this.ran.push(`open ${job.seq}`);
      }

      @JobHandler('accounts', { ordered: true, backoff: { type: 'fixed', base: 1, jitter: 0 } })
      pay(job: Job): void {
        this.ran.push(`pay ${job.seq}`);
        if (job.attempt === 1) throw new Error('once more');
      }

      @JobHandler('accounts', { ordered: true })
      close(job: Job): void {
        this.ran.push(`close ${job.seq}`);
      }
    }
    const app = await startApp({ ...database, queue, providers: [Account] });
    await app.dataSource.transaction(async (manager) => {
      for (const method of ['open', 'pay', 'close'] as const)
        await app.jobs.spawn(Account, method, null, { key: '7', manager });
    });
    await drained();
    expect(app.get(Account).ran).toEqual(['open 1', 'pay 2', 'pay 2', 'close 3']);
    await app.close();
  });
});

describe('unordered jobs', () => {
  it('have no number, and touch no lane', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work', null, { key: 'lane', delay: '1h' });
    await app.jobs.spawn('work', null, { key: 'lane' });
    await until(() => app.get(Work).runs.length, { what: 'it has run' });
    expect(app.get(Work).runs[0]!.seq).toBeNull();
    expect(await app.queue.get(id)).toMatchObject({ seq: null });
    expect(await tables.sql('SELECT FROM nestmq.lane')).toEqual([]);
    await app.close();
  });
});
