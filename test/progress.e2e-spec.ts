import { beforeEach, describe, expect, it } from '@jest/globals';
import type { Job, ProgressReport, QueueEvent } from 'nestmq';
import { openSession } from './support/engine.js';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';
import { pruneProgress } from '../libs/queue/src/statements/report-progress.js';
import { run } from '../libs/queue/src/statements/statement.js';

const database = useDatabase();
const tables = useTables(database);
const queue = POLLING_OFF;

beforeEach(() => tables.clear());

const has = (app: TestApp, type: QueueEvent['type']): boolean => app.events.some((event) => event.type === type);

describe('job.progress', () => {
  it('is read by others while the job runs, and as long as the finished job is kept, apart from the payload', async () => {
    const { opened, open } = gate();
    const Work = workWith({ retention: '1h' }, async (job) => {
      await job.progress({ percent: 12.5, message: '1 of 8' });
      await opened;
      await job.progress({ percent: 100 });
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work', { file: 'a' });
    const running = await until(
      async () => {
        const job = await app.queue.get(id);
        return job?.progress && job;
      },
      { what: 'it has told how far it is' },
    );
    expect(running).toMatchObject({ state: 'running', payload: { file: 'a' } });
    expect(running.progress).toEqual({ percent: 12.5, message: '1 of 8', updatedAt: expect.any(Date) });
    open();
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    const finished = await app.queue.get(id);
    expect(finished).toMatchObject({ state: 'completed', progress: { percent: 100, message: '1 of 8' } });
    expect(finished!.progress!.updatedAt.getTime()).toBeGreaterThanOrEqual(running.progress!.updatedAt.getTime());
    await app.close();
  });

  it('is null where none was told', async () => {
    const Work = workWith({ retention: '1h' });
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    expect((await app.queue.get(id))?.progress).toBeNull();
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect((await app.queue.get(id))?.progress).toBeNull();
    await app.close();
  });

  it('is what the last run to tell of any has told, also between two runs and when the job is dead', async () => {
    const between: unknown[] = [];
    const Work = workWith({ retries: 2, backoff: 1 }, async (job) => {
      if (job.attempt === 1) await job.progress({ percent: 90, message: 'almost' });
      if (job.attempt === 3) {
        between.push((await app.queue.get(job.id))?.progress);
        await job.progress({ message: 'from the start' });
      }
      throw new Error('told to fail');
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'dead'), { what: 'it is dead' });
    expect(between).toMatchObject([{ percent: 90, message: 'almost' }]);
    expect((await app.queue.get(id))?.progress).toMatchObject({ percent: null, message: 'from the start' });
    await app.close();
  });

  it('that comes faster than it can be written adds up: the last word on each field is written, in few statements', async () => {
    await tables.sql('CREATE TABLE IF NOT EXISTS told (percent real, message text)');
    await tables.sql(`CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO told VALUES (NEW.percent, NEW.message); RETURN NEW; END $$`);
    await tables.sql(
      `CREATE TRIGGER note AFTER INSERT OR UPDATE ON nestmq.job_progress FOR EACH ROW EXECUTE FUNCTION note()`,
    );
    const Work = workWith({ retention: '1h' }, (job) => {
      for (let percent = 0; percent <= 100; percent += 1) {
        void job.progress(percent === 50 ? { percent, message: 'half' } : { percent });
      }
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    // Nobody has awaited any of them, and still the last is written before the job's end.
    expect(await app.queue.get(id)).toMatchObject({ progress: { percent: 100, message: 'half' } });
    expect(await tables.sql('SELECT * FROM told')).toEqual([
      { percent: 0, message: null },
      { percent: 100, message: 'half' },
    ]);
    await app.close();
    await tables.sql('DROP TRIGGER note ON nestmq.job_progress');
  });

  it('does not wait for a transaction of its handler that has checkpointed the job', async () => {
    const Work = workWith({ retention: '1h' }, (job) =>
      app.dataSource.transaction(async (manager) => {
        await job.checkpoint({ payload: 'x' }, { manager });
        await job.progress({ percent: 50 });
        expect((await app.queue.get(job.id))?.progress?.percent).toBe(50);
      }),
    );
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed') || has(app, 'retrying'), { what: 'the run has ended' });
    expect(has(app, 'completed')).toBe(true);
    await app.close();
  });

  const wrong: [string, unknown][] = [
    ['nothing', {}],
    ['a bare number', 50],
    ['more than 100', { percent: 100.1 }],
    ['less than 0', { percent: -1 }],
    ['no number', { percent: Number.NaN }],
    ['a share as text', { percent: '50' }],
    ['a message of more than 1 KiB', { message: 'ü'.repeat(513) }],
    ['a message with NUL', { message: 'a\0b' }],
    ['a message that is no well-formed Unicode', { message: '\ud800' }],
    ['a message that is a number', { message: 5 }],
    ['a field that is not there', { percent: 5, total: 10 }],
  ];

  it('refuses what is no report, before any SQL, and the run goes on', async () => {
    const refused: unknown[] = [];
    const Work = workWith({ retention: '1h' }, async (job: Job) => {
      for (const [what, report] of wrong) {
        const answer = job.progress(report as ProgressReport).then(
          () => 'written',
          (error: unknown) => (error as { code: string }).code,
        );
        refused.push([what, await answer]);
      }
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(refused).toEqual(wrong.map(([what]) => [what, 'invalid_options']));
    expect((await app.queue.get(id))?.progress).toBeNull();
    await app.close();
  });

  it('ends no process when it is refused and nobody awaits it', async () => {
    const lost = gate();
    const unheard: unknown[] = [];
    const hear = (reason: unknown): void => void unheard.push(reason);
    process.on('unhandledRejection', hear);
    const Work = workWith({}, async (job) => {
      await lost.opened;
      void job.progress({ percent: 1 });
      void job.progress({ percent: 2 });
      await job.progress({ percent: 3 }).catch(() => undefined);
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work');
    await until(() => app.get(Work).runs.length, { what: 'it runs' });
    await tables.sql('UPDATE nestmq.job SET run = run + 1, due_at = now() + interval $$1 hour$$');
    lost.open();
    await until(() => has(app, 'lease-lost'), { what: 'its end is refused' });
    await app.close();
    process.off('unhandledRejection', hear);
    expect(unheard).toEqual([]);
    expect(await tables.number('SELECT count(*) FROM nestmq.job_progress')).toBe(0);
  });
});

describe('the pruner', () => {
  it('deletes the progress of jobs that are gone, and no other', async () => {
    const Work = workWith({}, (job) => job.progress({ message: String(job.payload) }));
    const app = await startApp({ ...database, queue: { ...queue, pruneEvery: 100 }, providers: [Work] });
    await app.queue.pause('work');
    await app.jobs.spawn('work', 'waits');
    const { id: live } = await app.jobs.spawn('work', 'live', { channel: 'work' });
    await tables.sql(`INSERT INTO nestmq.job_progress (job_id, message) VALUES ($1, 'live'), ($2, 'kept')`, [
      live,
      900_000,
    ]);
    await tables.sql(
      `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, channel, key, name)
       VALUES (900000, 'dead', 1, 0, now(), now(), 'work', '', 'work')`,
    );
    await tables.sql(`INSERT INTO nestmq.job_progress (job_id) SELECT i FROM generate_series(1000000, 1015000) AS i`);
    await until(async () => (await tables.number('SELECT count(*) FROM nestmq.job_progress')) === 2, {
      what: 'those of jobs that are gone are deleted',
    });
    expect(await tables.sql('SELECT job_id::text, message FROM nestmq.job_progress ORDER BY job_id')).toEqual([
      { job_id: live, message: 'live' },
      { job_id: '900000', message: 'kept' },
    ]);
    await app.close();
  });

  it('several at once share the work, without a deadlock', async () => {
    await tables.sql(`INSERT INTO nestmq.job_progress (job_id) SELECT i FROM generate_series(1, 900) AS i`);
    const sessions = await Promise.all([1, 2, 3].map(() => openSession(database.url)));
    const prunings = sessions.map((session) =>
      session.transaction((client) => run(client, pruneProgress, { after: '0' })),
    );
    const pruned = (await Promise.all(prunings)).flat().reduce((sum, row) => sum + row.pruned, 0);
    expect(pruned).toBe(900);
    expect(await tables.number('SELECT count(*) FROM nestmq.job_progress')).toBe(0);
  });
});
