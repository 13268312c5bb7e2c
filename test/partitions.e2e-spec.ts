import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable, type Type } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import {
  InvalidOptionsError,
  JobHandler,
  PartitionCountMismatchError,
  PartitionOutOfRangeError,
  QueueModule,
  RejectJob,
  SpawnItemError,
  type HandlerOptions,
  type Job,
  type JobSpawnOptions,
} from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { failedBoot } from './support/boot.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { laneWith, payloadsOf, turn, upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const idle = { runner: false };

const drained = (): Promise<boolean> => untilDone(tables);

beforeEach(() => tables.clear());

const recorded = (): Promise<object[]> =>
  tables.sql('SELECT channel, partitions FROM nestmq.partitioned_channel ORDER BY channel');

const failToBoot = (...providers: Type[]): Promise<Error> =>
  failedBoot({
    imports: [TypeOrmModule.forRoot({ type: 'postgres', url: database.url }), QueueModule.forRoot(idle)],
    providers,
  });

// acceptance: section 1 A
describe('a handler with partitions', () => {
  it('records their number with its channel, and they are listed empty', async () => {
    const app = await startApp({ ...database, queue: idle, providers: [workWith({ ordered: true, partitions: 4 })] });
    expect(await recorded()).toEqual([{ channel: 'work', partitions: 4 }]);
    expect(await app.queue.partitions('work')).toEqual(
      [0, 1, 2, 3].map((partition) => ({
        ...{ partition, key: `partition ${partition}`, jobs: 0, atLeast: false },
        ...{ failures: 0, lastSeq: 0, blockedBy: null },
      })),
    );
    expect(await app.queue.partitions('other')).toEqual([]);
    await app.close();
  });

  it('boots again, and twice at once, with one record', async () => {
    const boot = (): Promise<TestApp> =>
      startApp({ ...database, queue: idle, providers: [workWith({ partitions: 4 })] });
    const apps = await Promise.all([boot(), boot(), boot()]);
    await Promise.all(apps.map((app) => app.close()));
    await (await boot()).close();
    expect(await recorded()).toEqual([{ channel: 'work', partitions: 4 }]);
  });

  it('fails the boot when the channel has another number, naming both', async () => {
    await (await startApp({ ...database, queue: idle, providers: [workWith({ partitions: 4 })] })).close();
    const error = await failToBoot(workWith({ partitions: 2 }));
    expect(error).toBeInstanceOf(PartitionCountMismatchError);
    expect(error).toMatchObject({ code: 'partition_count_mismatch', channel: 'work', expected: 2, found: 4 });
    expect(error.message).toContain('has 4 partitions, its handler wants 2');
    expect(await recorded()).toEqual([{ channel: 'work', partitions: 4 }]);
  });

  it('fails the boot when another handler of the channel says another number', async () => {
    const error = await failToBoot(workWith({ partitions: 4 }), workWith({ name: 'other', partitions: 3 }));
    expect(error).toMatchObject({ code: 'partition_count_mismatch', expected: 3, found: 4 });
    expect(await recorded()).toEqual([]);
  });

  it.each([0, 1_025, -1, 1.5, '4', null, Infinity])('fails the boot with %p of them', async (partitions) => {
    const error = await failToBoot(workWith({ partitions: partitions as never }));
    expect(error).toBeInstanceOf(InvalidOptionsError);
    expect(error).toMatchObject({ option: expect.stringContaining('partitions'), value: partitions });
    expect(await recorded()).toEqual([]);
  });

  it.each([1, 2, 4, 8, 16, 32, 64, 3, 1_024])('may have %d of them', async (partitions) => {
    const app = await startApp({ ...database, queue: idle, providers: [workWith({ partitions })] });
    expect(await app.queue.partitions('work')).toHaveLength(partitions);
    await app.close();
  });

  it('is ordered without saying so, and fails the boot when it says no', async () => {
    const app = await startApp({ ...database, queue: idle, providers: [workWith({ partitions: 2 })] });
    await app.jobs.spawn('work', null, { partition: 0 });
    expect(await tables.sql('SELECT ordered FROM nestmq.handler_policy')).toEqual([{ ordered: true }]);
    expect(await tables.number('SELECT count(*) FROM nestmq.job WHERE position IS NOT NULL')).toBe(1);
    await app.close();
    const error = await failToBoot(workWith({ partitions: 2, ordered: false }));
    expect(error).toMatchObject({ code: 'invalid_options', option: expect.stringContaining('ordered') });
  });

  it('beside another one of another channel has partitions of its own: jobs never cross', async () => {
    const runs: string[] = [];
    const worker = (channel: string, options: HandlerOptions): Type => {
      @Injectable()
      class Worker {
        @JobHandler(channel, { name: channel, partitions: 2, ...options })
        run(job: Job): void {
          runs.push(`${channel}: ${String(job.payload)} of ${job.channel}, ${job.key}, ${job.name}, ${job.seq}`);
        }
      }
      return Worker;
    };
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [worker('a', {}), worker('b', {})] });
    for (const name of ['a', 'b']) {
      for (const partition of [0, 1]) await app.jobs.spawn(name, `${name}${partition}`, { partition });
    }
    await drained();
    expect(runs.toSorted()).toEqual(
      ['a', 'b'].flatMap((name) => [0, 1].map((p) => `${name}: ${name}${p} of ${name}, partition ${p}, ${name}, 1`)),
    );
    expect(await tables.number('SELECT count(*) FROM nestmq.lane')).toBe(4);
    await app.close();
  });
});

describe('a job of a partition', () => {
  let app: TestApp;
  const open = async (options: HandlerOptions = {}): Promise<void> => {
    app = await startApp({ ...database, queue: idle, providers: [workWith({ partitions: 4, ...options })] });
  };
  const keys = async (): Promise<string[]> =>
    (await tables.sql<{ key: string }>('SELECT key FROM nestmq.job ORDER BY id')).map(({ key }) => key);

  afterEach(() => app.close());

  it('stands in the one that it names, and tells channel, key and name when it is read', async () => {
    await open();
    const { id } = await app.jobs.spawn('work', null, { partition: 3 });
    expect(await app.queue.get(id)).toMatchObject({ channel: 'work', key: 'partition 3', name: 'work' });
    expect((await app.queue.partitions('work')).map(({ jobs }) => jobs)).toEqual([0, 0, 0, 1]);
  });

  it('stands in that of its partitionKey, the same for ever', async () => {
    await open();
    for (const partitionKey of ['customer 1', 'customer 2', '', 'customer 1', 'Zürich 🚲']) {
      await app.jobs.spawn('work', null, { partitionKey });
    }
    // As any other program would compute it from the documented hash.
    expect(await keys()).toEqual([0, 1, 0, 0, 3].map((partition) => `partition ${partition}`));
  });

  it('keeps the order of the items within each partition when partitions are mixed', async () => {
    await open();
    const answers = await app.jobs.spawnMany(
      [0, 1, 0, 1].map((partition) => ({ name: 'work', payload: null, partition })),
    );
    const stored = await tables.sql<{ id: string; key: string }>(
      'SELECT id, key FROM nestmq.job ORDER BY key, position',
    );
    const of = (index: number): string => answers[index]!.id;
    expect(stored).toEqual([
      { id: of(0), key: 'partition 0' },
      { id: of(2), key: 'partition 0' },
      { id: of(1), key: 'partition 1' },
      { id: of(3), key: 'partition 1' },
    ]);
  });

  it.each([4, 5, -1, 1_000_000])(
    'is refused for partition %d of four, and the transaction goes on',
    async (partition) => {
      await open();
      await app.dataSource.transaction(async (manager) => {
        const refused = app.jobs.spawn('work', null, { partition, manager });
        await expect(refused).rejects.toThrow(PartitionOutOfRangeError);
        await expect(refused).rejects.toMatchObject({
          ...{ code: 'partition_out_of_range', channel: 'work', partition, partitions: 4 },
        });
        await app.jobs.spawn('work', null, { partition: 0, manager });
      });
      expect(await keys()).toEqual(['partition 0']);
      const many = app.jobs.spawnMany(
        [0, partition].map((number) => ({ name: 'work', payload: null, partition: number })),
      );
      await expect(many).rejects.toThrow(SpawnItemError);
      await expect(many).rejects.toMatchObject({ index: 1, cause: { code: 'partition_out_of_range' } });
      expect(await keys()).toEqual(['partition 0']);
    },
  );

  it.each<[string, JobSpawnOptions]>([
    ['neither', {}],
    ['both', { partition: 0, partitionKey: 'a' }],
    ['a key', { key: 'a' }],
    ['a key beside a partition', { key: 'a', partition: 0 }],
    ['a fraction', { partition: 1.5 }],
    ['a text', { partition: '1' as never }],
    ['no text', { partitionKey: 7 as never }],
    ['too long a partitionKey', { partitionKey: 'k'.repeat(1_025) }],
    ['no order', { partition: 0, ordered: false }],
    ['another channel', { partition: 0, channel: 'other' }],
  ])('is refused with %s', async (_, options) => {
    await open();
    await expect(app.jobs.spawn('work', null, options)).rejects.toThrow(InvalidOptionsError);
    expect(await keys()).toEqual([]);
  });

  it.each<[string, JobSpawnOptions]>([
    ['partition', { partition: 0 }],
    ['partitionKey', { partitionKey: 'a' }],
  ])('is refused with a %s where the handler has no partitions', async (option, options) => {
    await open({ partitions: undefined as never, ordered: true });
    await expect(app.jobs.spawn('work', null, options)).rejects.toMatchObject({ code: 'invalid_options', option });
    expect(await keys()).toEqual([]);
  });
});

describe('partitions', () => {
  it('run beside one another, each in order, and are numbered by themselves', async () => {
    const { opened, open } = gate();
    const Work = laneWith({ partitions: 2 }, (job) => (job.payload === '0 1' ? opened : turn()));
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    for (const nth of upTo(5)) {
      for (const partition of [0, 1]) await app.jobs.spawn('work', `${partition} ${nth}`, { partition });
    }
    const work = app.get(Work);
    await until(() => payloadsOf(work, 'partition 1').length === 5, { what: 'the other partition has run' });
    expect(payloadsOf(work, 'partition 0')).toEqual(['0 1']);
    open();
    await drained();
    for (const partition of [0, 1]) {
      expect(payloadsOf(work, `partition ${partition}`)).toEqual(upTo(5).map((nth) => `${partition} ${nth}`));
      expect(work.runs.filter(({ key }) => key === `partition ${partition}`).map(({ seq }) => seq)).toEqual(upTo(5));
    }
    await until(
      async () => (await app.queue.partitions('work')).every(({ lastSeq, jobs }) => lastSeq === 5 && jobs === 0),
      {
        what: 'both partitions are at rest, and have given out five numbers',
      },
    );
    await app.close();
  });

  it('tell of the failures of their first jobs, and of the dead one that blocks them', async () => {
    const Work = laneWith({ partitions: 2, onDead: 'block', retries: 1, backoff: '1h' }, (job) => {
      throw job.payload === 'dies' ? new RejectJob('never') : new Error('not yet');
    });
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    await app.jobs.spawn('work', 'fails', { partition: 0 });
    const { id } = await app.jobs.spawn('work', 'dies', { partition: 1 });
    await app.jobs.spawn('work', 'waits', { partition: 1 });
    const partitions = await until(
      async () => {
        const [first, second] = await app.queue.partitions('work');
        return first?.failures === 1 && second?.blockedBy !== null ? [first, second] : null;
      },
      { what: 'one has failed and one is blocked' },
    );
    expect(partitions).toMatchObject([
      { blockedBy: null, jobs: 1, failures: 1, lastSeq: 1 },
      { blockedBy: id, jobs: 1, failures: 0, lastSeq: 1 },
    ]);
    await app.close();
  });
});
