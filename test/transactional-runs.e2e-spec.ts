import { beforeEach, describe, expect, it } from '@jest/globals';
import type { Job } from 'nestmq';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { has, ofJobs, transactional } from './support/transactional.js';
import { until } from './support/until.js';
import { gate, untilAborted, workWith } from './support/work.js';
import { startApp } from './support/app.js';

const database = useDatabase();
const tables = useTables(database);
const { boot, write, effects } = transactional(database, tables);

beforeEach(async () => {
  await tables.sql('CREATE TABLE IF NOT EXISTS shared (id int PRIMARY KEY, total int NOT NULL)');
  await tables.sql('TRUNCATE shared');
  await tables.sql('INSERT INTO shared VALUES (1, 0), (2, 0)');
});

/** Sessions of the application that are in a transaction. */
const openTransactions = (): Promise<number> =>
  tables.number(
    `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = '' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()`,
  );
const stopping = (): Promise<unknown> =>
  until(() => tables.number('SELECT count(*) FROM nestmq.runner WHERE stopping'), { what: 'it stops' });
const jobs = (): Promise<object[]> => tables.sql('SELECT id::text, attempt, run FROM nestmq.job ORDER BY id');

describe('the level of a transactional handler', () => {
  it.each(['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'] as const)(
    '%s is that of its transaction, and of its completion, kept or not',
    async (isolation) => {
      for (const retention of [0, '1h'] as const) {
        const levels: string[] = [];
        const app = await boot(
          async (job) => {
            const [{ transaction_isolation: level }] = await job.manager.query<[{ transaction_isolation: string }]>('SHOW transaction_isolation'); // prettier-ignore
            levels.push(level);
            await write(job, String(retention));
          },
          { isolation, retention },
        );
        const { id } = await app.jobs.spawn('work');
        await until(() => has(app, 'completed'), { what: 'it is completed' });
        expect(levels).toEqual([isolation.toLowerCase()]);
        expect((await effects()).filter(({ job_id }) => job_id === id)).toHaveLength(1);
        await app.close();
      }
    },
  );

  it.each(['REPEATABLE READ', 'SERIALIZABLE'] as const)(
    '%s makes a serialization failure of a write that came too late: a failed run, which is retried',
    async (isolation) => {
      const app = await boot(
        async ({ manager, attempt }) => {
          const [{ total }] = await manager.query<[{ total: number }]>('SELECT total FROM shared WHERE id = 1');
          if (attempt === 1) await tables.sql('UPDATE shared SET total = total + 10 WHERE id = 1');
          await manager.query('UPDATE shared SET total = $1 WHERE id = 1', [total + 1]);
        },
        { isolation },
      );
      await app.jobs.spawn('work');
      await until(() => has(app, 'completed'), { what: 'it is completed' });
      expect(ofJobs(app)).toEqual(['started', 'retrying', 'started', 'completed']);
      expect(await tables.number('SELECT total FROM shared WHERE id = 1')).toBe(11);
      await app.close();
    },
  );

  it('SERIALIZABLE makes one of two that read what the other writes run again, also where only the COMMIT can tell', async () => {
    const bothHaveRead = gate();
    let readers = 0;
    const app = await boot(
      async ({ manager, payload, attempt }) => {
        const [{ sum }] = await manager.query<[{ sum: string }]>('SELECT sum(total) FROM shared');
        if (attempt === 1 && ++readers === 2) bothHaveRead.open();
        await bothHaveRead.opened;
        await manager.query('UPDATE shared SET total = $1 WHERE id = $2', [Number(sum) + 1, payload]);
      },
      { isolation: 'SERIALIZABLE' },
    );
    await app.jobs.spawn('work', 1);
    await app.jobs.spawn('work', 2);
    await until(() => app.events.filter(({ type }) => type === 'completed').length === 2, { what: 'both are done' });
    expect(has(app, 'retrying')).toBe(true);
    // As if one after the other: the second has seen what the first wrote.
    expect(await tables.sql('SELECT total FROM shared ORDER BY total')).toEqual([{ total: 1 }, { total: 2 }]);
    await app.close();
  });

  it.each([0, '1h'] as const)(
    'SERIALIZABLE does not make runs refuse each other that have nothing in common, on tables that are nearly empty, with retention %s',
    async (retention) => {
      const bothHaveWritten = gate();
      let written = 0;
      const app = await boot(
        async (job) => {
          await write(job);
          if (++written === 2) bothHaveWritten.open();
          await bothHaveWritten.opened;
        },
        { isolation: 'SERIALIZABLE', retries: 0, retention },
      );
      await app.queue.pause('work');
      await app.jobs.spawnMany([1, 2].map((payload) => ({ name: 'work', payload })));
      await tables.sql('ANALYZE nestmq.job, nestmq.lease, nestmq.finished_job');
      await app.queue.resume('work');
      await until(() => app.events.filter(({ type }) => type === 'completed' || type === 'dead').length === 2, {
        what: 'both have ended',
      });
      expect(has(app, 'dead')).toBe(false);
      await app.close();
    },
  );

  it('REPEATABLE READ refuses what would write the job’s row beside it, at once and with the reason', async () => {
    const refusals: unknown[] = [];
    const app = await boot(
      async (job) => {
        await job.keepAlive('1m').catch((error: unknown) => refusals.push(error));
        await job.checkpoint({ payload: 1 }).catch((error: unknown) => refusals.push(error));
        await job.progress({ percent: 50 });
        await write(job);
      },
      { isolation: 'REPEATABLE READ' },
    );
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(refusals).toMatchObject(Array(2).fill({ code: 'invalid_transition', from: expect.stringContaining('REPEATABLE READ') })); // prettier-ignore
    expect(ofJobs(app)).toEqual(['started', 'completed']);
    await app.close();
  });
});

describe('a transactional run that has lost its lease', () => {
  it.each(['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'] as const)('cannot commit at %s', async (isolation) => {
    for (const retention of [0, '1h'] as const) {
      const lost = gate();
      const app = await boot(
        async (job) => {
          await write(job);
          await lost.opened;
        },
        { isolation, retention },
      );
      const { id } = await app.jobs.spawn('work');
      await until(() => has(app, 'started'), { what: 'it runs' });
      // What a rescuer does: the stamp goes up, the lease ends.
      await tables.sql(`UPDATE nestmq.job SET run = run + 1, due_at = now() + interval '1 hour'`);
      await tables.sql('DELETE FROM nestmq.lease');
      lost.open();
      await until(() => has(app, 'lease-lost'), { what: 'it is refused' });
      expect(await effects()).toEqual([]);
      expect(await jobs()).toMatchObject([{ id, run: 1 }]);
      await tables.sql('DELETE FROM nestmq.job');
      await app.close();
    }
  });

  it('because it outlived the end of its lease cannot commit, and the next run does the work', async () => {
    const app = await boot(
      async (job) => {
        await write(job, `attempt ${job.attempt}`);
        if (job.attempt === 1) await untilAborted(job).catch(() => undefined);
      },
      { keepAlive: false },
      { queue: { leaseMs: 1_000 } },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(await effects()).toEqual([{ job_id: id, note: 'attempt 2' }]);
    await app.close();
  });
});

describe('a transactional run over its timeout', () => {
  it('that ends on its signal is rolled back, and retried', async () => {
    const app = await boot(
      async (job) => {
        await write(job, `attempt ${job.attempt}`);
        if (job.attempt === 1) await untilAborted(job);
      },
      { timeout: 200 },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(ofJobs(app)).toEqual(['started', 'retrying', 'started', 'completed']);
    expect(await effects()).toEqual([{ job_id: id, note: 'attempt 2' }]);
    await app.close();
  });

  it('that waits in a statement is ended with the statement, so that the retry finds its locks free', async () => {
    const app = await boot(
      async (job) => {
        await job.manager.query('UPDATE shared SET total = total + 1 WHERE id = 1');
        if (job.attempt === 1) await job.manager.query('SELECT pg_sleep(600)');
      },
      { timeout: 200 },
      { queue: { abortGraceMs: 100 } },
    );
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(ofJobs(app)).toEqual(['started', 'stuck', 'retrying', 'started', 'completed']);
    expect(await tables.number('SELECT total FROM shared WHERE id = 1')).toBe(1);
    expect(await openTransactions()).toBe(0);
    await app.close();
  });

  it('that goes on regardless writes nothing any more', async () => {
    const goOn = gate();
    const late: unknown[] = [];
    const app = await boot(
      async (job) => {
        await write(job, `attempt ${job.attempt}`);
        if (job.attempt > 1) return;
        await goOn.opened;
        await write(job, 'late').catch((error: unknown) => late.push(error));
      },
      { timeout: 100 },
      { queue: { abortGraceMs: 100 } },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'the retry is completed' });
    goOn.open();
    await until(() => late.length, { what: 'the late write is refused' });
    expect(await effects()).toEqual([{ job_id: id, note: 'attempt 2' }]);
    await app.close();
  });
});

describe('app.close() during an open transactional handler', () => {
  it('waits for it: what it wrote is committed, and the job done', async () => {
    const { opened, open } = gate();
    const app = await boot(async (job) => {
      await write(job);
      await opened;
      await app.jobs.spawn('work', 'follow-up', { manager: job.manager });
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'started'), { what: 'it runs' });
    const closed = app.close();
    await stopping();
    open();
    await closed;
    expect(await effects()).toEqual([{ job_id: id, note: 'written' }]);
    expect(await tables.sql('SELECT payload, attempt FROM nestmq.job')).toEqual([{ payload: 'follow-up', attempt: 0 }]);
    expect(ofJobs(app)).toEqual(['started', 'completed']);
  });

  it.each([
    ['ends on its signal', untilAborted],
    ['does not end', () => new Promise<never>(() => undefined)],
    ['waits in a statement', ({ manager }: Job) => manager.query('SELECT pg_sleep(600)')],
  ])('rolls back and releases a job whose handler %s, its attempt not spent', async (_, behaviour) => {
    const app = await boot(
      async (job) => {
        await write(job);
        await behaviour(job);
      },
      {},
      { queue: { shutdown: { graceMs: 100 } } },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'started'), { what: 'it runs' });
    await app.close();
    expect(await effects()).toEqual([]);
    expect(await openTransactions()).toBe(0);
    expect(await jobs()).toMatchObject([{ id, attempt: 0 }]);
    expect(ofJobs(app)).toEqual(['started', 'released']);
    expect(await tables.number('SELECT count(*) FROM nestmq.lease')).toBe(0);
  });

  it('leaves committed and done what returns in spite of its abort', async () => {
    const app = await boot(
      async (job) => {
        await write(job);
        await untilAborted(job).catch(() => undefined);
      },
      {},
      { queue: { shutdown: { graceMs: 100 } } },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'started'), { what: 'it runs' });
    await app.close();
    expect(await effects()).toEqual([{ job_id: id, note: 'written' }]);
    expect(ofJobs(app)).toEqual(['started', 'completed']);
    expect(await jobs()).toEqual([]);
  });
});

describe('job.complete in a transactional handler', () => {
  it('gives the result, which is written with the commit', async () => {
    const app = await boot(
      async (job) => {
        await job.complete({ result: 'given', manager: job.manager });
        expect(await app.queue.get(job.id)).toMatchObject({ state: 'running' });
        await write(job);
        return 'returned';
      },
      { retention: '1h' },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(await app.queue.get(id)).toMatchObject({ state: 'completed', result: 'given' });
    expect(await effects()).toHaveLength(1);
    await app.close();
  });

  it('is undone by a throw afterwards', async () => {
    const app = await boot(async (job) => {
      await write(job, `attempt ${job.attempt}`);
      await job.complete();
      if (job.attempt === 1) throw new Error('after all');
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(ofJobs(app)).toEqual(['started', 'retrying', 'started', 'completed']);
    expect(await effects()).toEqual([{ job_id: id, note: 'attempt 2' }]);
    await app.close();
  });

  it('is refused the second time, and with another transaction’s manager', async () => {
    const refusals: unknown[] = [];
    const refused = (error: unknown): void => void refusals.push(error);
    const app = await boot(async (job) => {
      await app.dataSource.transaction((manager) => job.complete({ manager })).catch(refused);
      await job.complete();
      await job.complete().catch(refused);
      await job.checkpoint({ payload: 1 }).catch(refused);
    });
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(refusals).toMatchObject([
      { code: 'invalid_manager' },
      { code: 'invalid_transition' },
      { code: 'invalid_transition' },
    ]);
    expect(ofJobs(app)).toEqual(['started', 'completed']);
    await app.close();
  });

  it('is what `completion: manual` asks for: without it the run is rolled back and has failed', async () => {
    const app = await boot(
      async (job) => {
        await write(job, `attempt ${job.attempt}`);
        if (job.attempt > 1) await job.complete();
      },
      { completion: 'manual' },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(ofJobs(app)).toEqual(['started', 'retrying', 'started', 'completed']);
    expect(await effects()).toEqual([{ job_id: id, note: 'attempt 2' }]);
    await app.close();
  });
});

describe('job.checkpoint in a transactional handler', () => {
  it('by itself survives the rollback, and with job.manager does not', async () => {
    const payloads: unknown[] = [];
    const app = await boot(async (job) => {
      payloads.push(job.payload);
      if (job.attempt === 1) await job.checkpoint({ payload: 'stored' });
      if (job.attempt === 2) await job.checkpoint({ payload: 'undone', extraRetries: 5 }, { manager: job.manager });
      if (job.attempt < 3) throw new Error('again');
      expect(job.maxAttempts).toBe(5);
      await job.checkpoint({ payload: 'in vain' }, { manager: job.manager });
    });
    await app.jobs.spawn('work', 'sent');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(payloads).toEqual(['sent', 'stored', 'stored']);
    await app.close();
  });
});

describe('ordered jobs with a transactional handler', () => {
  it('run in order, each committed before the next begins; one that fails holds its lane, rolled back', async () => {
    const app = await boot(
      async (job) => {
        const [{ before }] = await job.manager.query<[{ before: number }]>(
          'SELECT count(*)::int AS before FROM effect',
        );
        if (job.payload === 7 && job.attempt < 3) {
          await write(job, 'undone');
          throw new Error('not yet');
        }
        await write(job, `seq ${job.seq} behind ${before}`);
      },
      { ordered: true },
    );
    await app.jobs.spawnMany(Array.from({ length: 40 }, (_, payload) => ({ name: 'work', payload, key: 'lane' })));
    await untilDone(tables);
    expect((await effects()).map(({ note }) => note)).toEqual(
      Array.from({ length: 40 }, (_, index) => `seq ${index + 1} behind ${index}`),
    );
    expect(app.events.filter(({ type }) => type === 'retrying')).toHaveLength(2);
    await app.close();
  });

  it('that are rejected let their lane go on, or block it', async () => {
    const { RejectJob } = await import('nestmq');
    const app = await boot(
      async (job) => {
        await write(job, String(job.payload));
        if (job.payload === 2) throw new RejectJob('unusable');
      },
      { ordered: true, onDead: 'block' },
    );
    await app.jobs.spawnMany([1, 2, 3].map((payload) => ({ name: 'work', payload, key: 'lane' })));
    await until(() => has(app, 'dead'), { what: 'the second is dead' });
    expect((await effects()).map(({ note }) => note)).toEqual(['1']);
    await app.deadLetters.discard({ channel: 'work', key: 'lane' });
    await untilDone(tables);
    expect((await effects()).map(({ note }) => note)).toEqual(['1', '3']);
    await app.close();
  });
});

describe('queue.runOne', () => {
  it('runs a transactional handler, and answers how its transaction ended', async () => {
    const app = await boot(
      async (job) => {
        await write(job, `attempt ${job.attempt}`);
        if (job.attempt === 1) throw new Error('first');
      },
      { backoff: 0 },
      { queue: { runner: false } },
    );
    const { id } = await app.jobs.spawn('work');
    expect(await app.queue.runOne()).toMatchObject({ id, outcome: 'retrying' });
    expect(await effects()).toEqual([]);
    expect(await app.queue.runOne()).toMatchObject({ id, outcome: 'completed' });
    expect(await effects()).toEqual([{ job_id: id, note: 'attempt 2' }]);
    await untilDone(tables);
    await app.close();
  });
});

describe('a transactional handler without a connection', () => {
  it('waits, its attempt not spent, and runs when there is one', async () => {
    const Work = workWith({ transactional: true }, (job) => write(job));
    const app = await startApp({
      ...database,
      providers: [Work],
      // Long enough to open a connection on a busy machine.
      typeorm: { extra: { max: 3, connectionTimeoutMillis: 1_500 } } as object,
    });
    const taken = await Promise.all(
      [1, 2, 3].map(async () => {
        const queryRunner = app.dataSource.createQueryRunner();
        await queryRunner.connect();
        return queryRunner;
      }),
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'snoozed'), { what: 'it had to wait' });
    expect(await jobs()).toMatchObject([{ id, attempt: 0 }]);
    await Promise.all(taken.map((queryRunner) => queryRunner.release()));
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(app.get(Work).runs.map(({ attempt }) => attempt)).toEqual([1]);
    await app.close();
  });
});
