import { describe, expect, it } from '@jest/globals';
import { RejectJob, RetryAfter, SnoozeJob, type Job } from 'nestmq';
import type { EntityManager } from 'typeorm';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { has, ofJobs, transactional } from './support/transactional.js';
import { until } from './support/until.js';
import { gate } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const { boot, write, effects } = transactional(database, tables);

const stats = (): Promise<{ id: string; attempt: number; last_error: string | null }[]> =>
  tables.sql('SELECT id::text, attempt, last_error FROM nestmq.job');

describe('a transactional handler', () => {
  it('writes in one READ COMMITTED transaction, which completes its job, whatever the default level of the server', async () => {
    const [{ name } = { name: '' }] = await tables.sql<{ name: string }>('SELECT current_database() AS name');
    await tables.sql(`ALTER DATABASE ${name} SET default_transaction_isolation = 'serializable'`);
    const seen: unknown[] = [];
    const app = await boot(async (job) => {
      await write(job);
      const [row] = await job.manager.query<unknown[]>(
        `SELECT current_setting('transaction_isolation') AS level, pg_current_xact_id()::xid::text AS xid`,
      );
      seen.push(row);
      expect(await effects()).toEqual([]);
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    const [{ xmin } = { xmin: '' }] = await tables.sql<{ xmin: string }>('SELECT xmin::text FROM effect');
    expect(seen).toEqual([{ level: 'read committed', xid: xmin }]);
    expect(await effects()).toEqual([{ job_id: id, note: 'written' }]);
    expect(ofJobs(app)).toEqual(['started', 'completed']);
    await untilDone(tables);
    await app.close();
    await tables.sql(`ALTER DATABASE ${name} RESET default_transaction_isolation`);
  });

  it('waits with its error, one attempt counted, and has all that it wrote rolled back, when it throws', async () => {
    const app = await boot(
      async (job) => {
        await write(job);
        throw new Error('no such luck');
      },
      { backoff: '1h' },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'retrying'), { what: 'it has failed' });
    expect(await effects()).toEqual([]);
    expect(await stats()).toEqual([{ id, attempt: 1, last_error: expect.stringContaining('no such luck') }]);
    await app.close();
  });

  it('begins its retry anew, as another transaction', async () => {
    const app = await boot(async (job) => {
      await write(job, `attempt ${job.attempt}`);
      if (job.attempt === 1) throw new Error('not yet');
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(await effects()).toEqual([{ job_id: id, note: 'attempt 2' }]);
    expect(ofJobs(app)).toEqual(['started', 'retrying', 'started', 'completed']);
    await app.close();
  });

  it('whose statement fails has the failure recorded, although that has aborted its transaction', async () => {
    const app = await boot(
      async (job) => {
        await write(job);
        await job.manager.query('SELECT 1 / 0');
      },
      { backoff: '1h' },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'retrying'), { what: 'it has failed' });
    expect(await effects()).toEqual([]);
    expect(await stats()).toEqual([{ id, attempt: 1, last_error: expect.stringContaining('division by zero') }]);
    await app.close();
  });

  it.each([
    ['writes', (job: Job) => write(job)],
    ['has spawned', (job: Job) => boot.app.jobs.spawn('work', 'follow-up', { manager: job.manager })],
    ['has called complete', (job: Job) => job.complete()],
  ])(
    'that %s, swallows the error of a statement and returns has failed: nothing commits, and nothing is silent',
    async (_, first) => {
      const app = await boot(
        async (job) => {
          await first(job);
          await job.manager.query('SELECT 1 / 0').catch(() => undefined);
        },
        { backoff: '1h' },
      );
      const { id } = await app.jobs.spawn('work');
      await until(() => has(app, 'retrying'), { what: 'it has failed' });
      expect(await effects()).toEqual([]);
      expect(app.events).toContainEqual(
        expect.objectContaining({ type: 'retrying', error: expect.objectContaining({ code: 'transaction_aborted' }) }),
      );
      expect(await stats()).toMatchObject([{ id, attempt: 1 }]);
      await app.close();
    },
  );

  it('may have a statement fail in a savepoint of its transaction', async () => {
    const app = await boot(async (job) => {
      await write(job, 'kept');
      await job.manager
        .transaction(async (manager: EntityManager) => {
          await manager.query('INSERT INTO effect VALUES ($1, $2)', [job.id, 'undone']);
          await manager.query('SELECT 1 / 0');
        })
        .catch(() => undefined);
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(await effects()).toEqual([{ job_id: id, note: 'kept' }]);
    await app.close();
  });

  it.each([
    ['RejectJob', new RejectJob('unusable'), 'dead'],
    ['RetryAfter', new RetryAfter('1h'), 'retrying'],
    ['SnoozeJob', new SnoozeJob('1h'), 'snoozed'],
  ] as const)('is rolled back by %s too, which means what it always means', async (_, error, outcome) => {
    const app = await boot(async (job) => {
      await write(job);
      throw error;
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, outcome), { what: `it is ${outcome}` });
    expect(await effects()).toEqual([]);
    expect(await app.queue.get(id)).toMatchObject({
      state: outcome === 'dead' ? 'dead' : 'waiting',
      attempts: outcome === 'snoozed' ? 0 : 1,
    });
    await app.close();
  });

  it('has its result kept with the job, from the same transaction', async () => {
    const app = await boot(
      async (job) => {
        await write(job);
        return { total: 3 };
      },
      { retention: '1h' },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(await app.queue.get(id)).toMatchObject({ state: 'completed', result: { total: 3 }, attempts: 1 });
    expect(await tables.sql('SELECT DISTINCT xmin::text FROM (SELECT xmin FROM effect UNION ALL SELECT xmin FROM nestmq.finished_job) AS written')).toHaveLength(1); // prettier-ignore
    await untilDone(tables);
    await app.close();
  });

  it('is rolled back when its result is not JSON', async () => {
    const app = await boot(
      async (job) => {
        await write(job, `attempt ${job.attempt}`);
        return job.attempt === 1 ? { big: 1n } : { fine: true };
      },
      { retention: '1h' },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(await effects()).toEqual([{ job_id: id, note: 'attempt 2' }]);
    expect(await app.queue.get(id)).toMatchObject({ result: { fine: true }, attempts: 2 });
    await app.close();
  });

  it('cannot end its transaction itself, nor write behind its end', async () => {
    const late = gate();
    const refusals: string[] = [];
    const refused = (error: Error): void => void refusals.push(error.message);
    const app = await boot(async (job) => {
      await write(job, 'inside');
      await job.manager.query('COMMIT').catch(refused);
      await job.manager.queryRunner!.commitTransaction().catch(refused);
      void late.opened.then(() => write(job, 'behind')).catch(refused);
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    late.open();
    await until(() => refusals.length === 3, { what: 'all is refused' });
    expect(refusals.slice(0, 2)).toEqual(Array(2).fill(expect.stringContaining('do not end it yourself')));
    expect(await effects()).toEqual([{ job_id: id, note: 'inside' }]);
    await app.close();
  });

  it('that rolls its transaction back itself and returns has failed', async () => {
    const app = await boot(async (job) => {
      await write(job, `attempt ${job.attempt}`);
      if (job.attempt > 1) return;
      await job.manager.queryRunner!.rollbackTransaction();
      await write(job, 'behind').catch(() => undefined);
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(ofJobs(app)).toEqual(['started', 'retrying', 'started', 'completed']);
    expect(await effects()).toEqual([{ job_id: id, note: 'attempt 2' }]);
    await app.close();
  });

  it('that returns while a transaction within is open has failed, and leaves no connection in it', async () => {
    const forgotten = gate();
    const app = await boot(async (job) => {
      await write(job, `attempt ${job.attempt}`);
      if (job.attempt > 1) return;
      const begun = gate();
      void job.manager
        .transaction(async () => {
          begun.open();
          await forgotten.opened;
        })
        .catch(() => undefined);
      await begun.opened;
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    forgotten.open();
    expect(ofJobs(app)).toEqual(['started', 'retrying', 'started', 'completed']);
    expect(await effects()).toEqual([{ job_id: id, note: 'attempt 2' }]);
    expect(await tables.number(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'`)).toBe(0); // prettier-ignore
    await app.close();
  });

  it('goes through TypeORM’s subscribers, whose writes before the commit are part of it', async () => {
    const heard: string[] = [];
    const app = await boot((job) => write(job));
    app.dataSource.subscribers.push({
      afterTransactionStart: () => void heard.push('started'),
      beforeTransactionCommit: ({ manager }) => manager.query(`INSERT INTO effect VALUES (0, 'subscriber')`),
      afterTransactionCommit: () => {
        heard.push('committed');
        throw new Error('changes nothing any more');
      },
    });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(heard).toEqual(['started', 'committed']);
    expect(await effects()).toEqual([
      { job_id: '0', note: 'subscriber' },
      { job_id: id, note: 'written' },
    ]);
    expect(ofJobs(app)).toEqual(['started', 'completed']);
    await app.close();
  });

  it.each([
    ['whose connections are pipelined', { extra: { pipeline: true } }, {}],
    ['without named statements', {}, { preparedStatements: false }],
    ['with a level of its own', { isolationLevel: 'SERIALIZABLE' as const }, {}],
  ])('works on a DataSource %s, where it commits, fails and loses its lease as anywhere', async (_, typeorm, queue) => {
    const app = await boot(
      async (job) => {
        await write(job, String(job.payload));
        if (job.payload === 'swallows') await job.manager.query('SELECT 1 / 0').catch(() => undefined);
        if (job.payload === 'loses') await tables.sql('UPDATE nestmq.job SET run = run + 1 WHERE id = $1', [job.id]);
      },
      { retries: 0 },
      { queue, typeorm },
    );
    for (const payload of ['keeps', 'swallows', 'loses']) await app.jobs.spawn('work', payload);
    await until(() => has(app, 'completed') && has(app, 'dead') && has(app, 'lease-lost'), { what: 'all have ended' });
    expect((await effects()).map(({ note }) => note)).toEqual(['keeps']);
    await app.close();
  });
});

describe('job.manager', () => {
  it('is refused in a handler that is not transactional, by an error that says what to do', async () => {
    const app = await boot((job) => job.manager, { transactional: false, retries: 0 });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'dead'), { what: 'it is dead' });
    expect(app.events).toContainEqual(
      expect.objectContaining({
        error: expect.objectContaining({
          code: 'not_transactional',
          jobId: id,
          message: expect.stringContaining('transactional: true'),
        }),
      }),
    );
    await app.close();
  });
});

describe('jobs that a transactional handler spawns', () => {
  it('through job.manager wake their runner with the commit, and vanish with it', async () => {
    const app = await boot(async (job) => {
      if (job.payload === 'follow-up') return;
      await app.jobs.spawn('work', 'follow-up', { manager: job.manager });
      expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(1);
      if (job.payload === 'fails') throw new RejectJob('no');
    });
    await app.jobs.spawn('work', 'fails');
    await until(() => has(app, 'dead'), { what: 'the first is dead' });
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(0);
    await app.jobs.spawn('work', 'succeeds');
    // The poll is off: only the notification can start it.
    await until(() => app.events.filter(({ type }) => type === 'completed').length === 2, { what: 'it has run too' });
    await app.close();
  });

  it('in a transaction of their own survive its error, beside one through job.manager, which vanishes', async () => {
    const app = await boot(
      async (job) => {
        await app.dataSource.transaction((manager) => app.jobs.spawn('work', null, { manager, channel: 'activity' }));
        await app.jobs.spawn('work', null, { manager: job.manager, channel: 'activity' });
        throw new Error('afterwards');
      },
      { retries: 0 },
      { queue: { channels: ['work'] } },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'dead'), { what: 'it is dead' });
    expect(await tables.number(`SELECT count(*) FROM nestmq.job WHERE channel = 'activity'`)).toBe(1);
    expect(await app.queue.get(id)).toMatchObject({ state: 'dead', lastError: expect.stringContaining('afterwards') });
    await app.close();
  });

  it('are refused once its transaction is ended', async () => {
    const late = gate();
    const refusals: unknown[] = [];
    const app = await boot((job) => {
      void late.opened
        .then(() => app.jobs.spawn('work', null, { manager: job.manager }))
        .catch((error: unknown) => refusals.push(error));
    });
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    late.open();
    await until(() => refusals.length, { what: 'it is refused' });
    expect(refusals).toMatchObject([{ code: 'invalid_manager' }]);
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(0);
    await app.close();
  });
});
