import { describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { getJobSpawnerToken, JobHandler, QueueModule, type Job } from 'nestmq';
import { POLLING_OFF, startApp } from './support/app.js';
import { boot as bootNest, failedBoot } from './support/boot.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { transactional } from './support/transactional.js';
import { until } from './support/until.js';
import { gate, takeTime, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const { boot, write, effects } = transactional(database, tables);

const send = (count: number) => Array.from({ length: count }, (_, payload) => ({ name: 'work', payload }));
const poolOf = (max: number) => ({ typeorm: { poolSize: max } as object });
const done = (): Promise<unknown> => untilDone(tables);

describe('transactional runs', () => {
  it('leave two connections of the pool to what their handlers do outside of job.manager, so that none waits for ever', async () => {
    let running = 0;
    let most = 0;
    const app = await boot(
      async (job) => {
        most = Math.max(most, ++running);
        await write(job, String(job.payload));
        // Each holds one connection, and asks for another.
        await app.dataSource.query('SELECT pg_sleep(0.01)');
        await app.dataSource.transaction((manager) => manager.query('SELECT pg_sleep(0.01)'));
        running -= 1;
      },
      {},
      poolOf(5),
    );
    await app.jobs.spawnMany(send(60));
    await done();
    expect(await effects()).toHaveLength(60);
    expect(most).toBe(3);
    await app.close();
  });

  it('are claimed no more of than there are connections for, and hold up no other job, when they take long', async () => {
    const { opened, open } = gate();
    const started: unknown[] = [];
    @Injectable()
    class Both {
      @JobHandler('work', { name: 'work', transactional: true })
      async slow({ manager }: Job): Promise<void> {
        await manager.query('SELECT 1');
        await opened;
      }
      @JobHandler('work', { name: 'other' })
      other({ payload }: Job): void {
        started.push(payload);
      }
    }
    const app = await startApp({
      ...database,
      queue: POLLING_OFF,
      providers: [Both],
      typeorm: { poolSize: 4 } as object,
    });
    await app.jobs.spawnMany(send(50));
    await until(() => app.events.filter(({ type }) => type === 'started').length === 2, { what: 'two run' });
    await app.jobs.spawn('other', 'behind them');
    await until(() => started.length, { what: 'the other one has run' });
    expect(await tables.number('SELECT coalesce(sum(cardinality(job_ids)), 0) FROM nestmq.lease')).toBeLessThanOrEqual(
      3,
    );
    expect(app.events.filter(({ type, ...event }) => type === 'started' && 'name' in event && event.name === 'work')).toHaveLength(2); // prettier-ignore
    open();
    await done();
    await app.close();
  });

  it('of two queues on one DataSource share its pool', async () => {
    let running = 0;
    let most = 0;
    const run = async ({ manager }: Job): Promise<void> => {
      most = Math.max(most, ++running);
      await manager.query('SELECT 1');
      await takeTime(5);
      running -= 1;
    };
    const Work = workWith({ transactional: true }, run);
    @Injectable()
    class Second {
      @JobHandler('second', { name: 'second', transactional: true, instance: 'second' })
      run(job: Job): Promise<void> {
        return run(job);
      }
    }
    const app = await startApp({
      ...database,
      queue: POLLING_OFF,
      imports: [QueueModule.forRoot({ ...POLLING_OFF, name: 'second' })],
      providers: [Work, Second],
      typeorm: { poolSize: 4 } as object,
    });
    await app.jobs.spawnMany(send(30));
    const second = app.get<typeof app.jobs>(getJobSpawnerToken('second') as string);
    await second.spawnMany(send(30).map((item) => ({ ...item, name: 'second' })));
    await done();
    expect(most).toBe(2);
    await app.close();
  });

  it('on their last attempt run in their turn, though they are not claimed ahead', async () => {
    const app = await boot(
      (job) => write(job, String(job.payload)),
      { retries: 0 },
      { ...poolOf(4), queue: { prefetchMs: 1_000 } },
    );
    await app.jobs.spawnMany(send(200));
    await done();
    expect(await effects()).toHaveLength(200);
    await app.close();
  });
});

describe('the pool of an application with transactional handlers', () => {
  const imports = (poolSize: number, queue = {}) => [
    TypeOrmModule.forRoot({ type: 'postgres', ...database, retryAttempts: 0, poolSize }),
    QueueModule.forRoot({ ...POLLING_OFF, ...queue }),
  ];

  it('is told of at the boot, with how many of them run at once', async () => {
    const booted = await bootNest({ imports: imports(7), providers: [workWith({ transactional: true })] });
    expect(booted.logged).toContainEqual(
      expect.stringContaining('At most 5 transactional runs at once: the pool has 7'),
    );
    await booted.close();
  });

  it('fails the boot when it has no connection for them, and says which size it takes', async () => {
    const failed = await failedBoot({ imports: imports(2), providers: [workWith({ transactional: true })] });
    expect(failed).toMatchObject({ code: 'invalid_options', option: 'poolSize', value: 2 });
    expect(failed.message).toContain('give the DataSource 3 or more');
  });

  it('may have any size in a process that only sends, and without such handlers', async () => {
    const sending = await bootNest({ imports: imports(1, { runner: false }), providers: [workWith({ transactional: true })] }); // prettier-ignore
    await sending.close();
    const plain = await bootNest({ imports: imports(1), providers: [workWith()] });
    expect(plain.logged.join('\n')).not.toContain('transactional');
    await plain.close();
  });
});

describe('the options of a transactional handler', () => {
  it.each([
    ['transactional', { transactional: 'yes' }, 'Give true or false'],
    ['isolation', { transactional: true, isolation: 'READ UNCOMMITTED' }, 'Give one of READ COMMITTED'],
  ])('fail the boot when `%s` is wrong', async (option, options, cure) => {
    const failed = await failedBoot({
      imports: [TypeOrmModule.forRoot({ type: 'postgres', ...database, retryAttempts: 0 }), QueueModule.forRoot()],
      providers: [workWith(options as never)],
    });
    expect(failed).toMatchObject({ code: 'invalid_options', option: expect.stringContaining(option) });
    expect(failed.message).toContain(cure);
  });
});
