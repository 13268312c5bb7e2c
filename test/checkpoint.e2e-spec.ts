import { beforeEach, describe, expect, it } from '@jest/globals';
import type { CheckpointChanges, HandlerOptions, Job, QueueEvent } from 'nestmq';
import { z } from 'zod';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { startChild } from './support/child.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith, type Behaviour } from './support/work.js';
import type { StoreThenHang } from './processes/checkpoint-worker.js';

const database = useDatabase();
const tables = useTables(database);
const queue = POLLING_OFF;

beforeEach(() => tables.clear());

const has = (app: TestApp, type: QueueEvent['type']): boolean => app.events.some((event) => event.type === type);
const ended = (app: TestApp): Promise<boolean> =>
  until(() => has(app, 'completed') || has(app, 'dead'), { what: 'the job has come to its end' });

/** The last step of a run that is to be run again. */
const fail = (): never => {
  throw new Error('told to fail');
};

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'done',
    (error: unknown) => (error as { code?: string }).code ?? error,
  );

async function startWork(behaviour: Behaviour, options: HandlerOptions = {}): Promise<TestApp & { runs: Job[] }> {
  const Work = workWith({ backoff: 1, ...options }, behaviour);
  const app = await startApp({ ...database, queue, providers: [Work] });
  return { ...app, runs: app.get(Work).runs };
}

describe('job.checkpoint', () => {
  it('is what the next run begins with: the first stores and fails, the second completes, and there is no third', async () => {
    const app = await startWork(async (job) => {
      if (job.payload === true) return;
      await job.checkpoint({ payload: true });
      fail();
    });
    await app.jobs.spawn('work', false);
    await ended(app);
    await untilDone(tables);
    expect(app.runs.map(({ payload, attempt }) => [payload, attempt])).toEqual([
      [false, 1],
      [true, 2],
    ]);
    await app.close();
  });

  it('is what the next run begins with, for a handler that completes by itself and returns without', async () => {
    const app = await startWork(
      async (job) => {
        if (job.payload === true) await job.complete();
        else await job.checkpoint({ payload: true });
      },
      { completion: 'manual' },
    );
    await app.jobs.spawn('work', false);
    await ended(app);
    expect(app.runs.map(({ payload }) => payload)).toEqual([false, true]);
    expect(has(app, 'completed')).toBe(true);
    await app.close();
  });

  it('is durable when it resolves: another connection reads it, and the run goes on with its own payload', async () => {
    const { opened, open } = gate();
    const app = await startWork(async (job) => {
      await job.checkpoint({ payload: { page: 2 } });
      await opened;
    });
    const { id } = await app.jobs.spawn('work', { page: 1 });
    await until(async () => (await app.queue.get(id))?.state === 'running', { what: 'it runs' });
    await until(async () => JSON.stringify((await app.queue.get(id))?.payload) === '{"page":2}', {
      what: 'it is stored',
    });
    expect(app.runs[0]!.payload).toEqual({ page: 1 });
    open();
    await ended(app);
    await app.close();
  });

  it('keeps what it does not change, and takes bytes away by null', async () => {
    const steps: CheckpointChanges[] = [{ payload: 'two' }, { bytes: Buffer.from([0, 255, 10]) }, { bytes: null }];
    const app = await startWork(async (job) => {
      const step = steps[job.attempt - 1];
      if (step === undefined) return;
      await job.checkpoint(step);
      fail();
    });
    await app.jobs.spawn('work', 'one', { bytes: Buffer.from('b') });
    await ended(app);
    expect(app.runs.map(({ payload, bytes }) => [payload, bytes])).toEqual([
      ['one', Buffer.from('b')],
      ['two', Buffer.from('b')],
      ['two', Buffer.from([0, 255, 10])],
      ['two', null],
    ]);
    await app.close();
  });

  it('gives bytes back as a Buffer, and JSON to the last digit', async () => {
    const payload = {
      numbers: [0.1 + 0.2, Number.MAX_SAFE_INTEGER, 5e-324, 1.7976931348623157e308, -1e-7, 123456789.12345678],
      text: 'ü 😀 \u0000 \ud800',
      nested: { deep: [null, true, {}] },
      nothing: null,
    };
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
    const app = await startWork(async (job) => {
      if (job.attempt > 1) return;
      await job.checkpoint({ payload, bytes: new Uint8Array(bytes) });
      fail();
    });
    await app.jobs.spawn('work');
    await ended(app);
    const [, second] = app.runs;
    expect(second!.payload).toEqual(payload);
    expect(JSON.stringify(second!.payload)).toBe(JSON.stringify(payload));
    expect(Buffer.isBuffer(second!.bytes)).toBe(true);
    expect(second!.bytes!.equals(bytes)).toBe(true);
    await app.close();
  });
});

describe('the runs that a job may have', () => {
  it('are no more after a checkpoint on the last attempt: a failed run is the last (sqlxmq: retried without end)', async () => {
    const app = await startWork(
      async (job) => {
        await job.checkpoint({ payload: job.attempt, keepAlive: '1m' });
        fail();
      },
      { retries: 1 },
    );
    const { id } = await app.jobs.spawn('work', 0);
    await ended(app);
    expect(await app.queue.get(id)).toMatchObject({ state: 'dead', reason: 'exhausted', attempts: 2, payload: 2 });
    expect(app.runs.map(({ attempt }) => attempt)).toEqual([1, 2]);
    expect(await tables.number('SELECT count(*) FROM nestmq.job')).toBe(0);
    await app.close();
  });

  it('are more where a checkpoint asks for them, on the last attempt too', async () => {
    const limits: number[] = [];
    const app = await startWork(
      async (job) => {
        if (job.attempt === 2) await job.checkpoint({ extraRetries: 2 });
        limits.push(job.maxAttempts);
        fail();
      },
      { retries: 1 },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'dead'), { what: 'it is dead' });
    expect(limits).toEqual([2, 4, 4, 4]);
    expect(await app.queue.get(id)).toMatchObject({ state: 'dead', attempts: 4, maxAttempts: 4 });
    await app.close();
  });

  it('are without limit as before where there was none', async () => {
    const app = await startWork(
      async (job) => {
        await job.checkpoint({ extraRetries: 1 });
        if (job.attempt < 4) fail();
      },
      { retries: Infinity, retention: '1h' },
    );
    const { id } = await app.jobs.spawn('work');
    await ended(app);
    expect(await app.queue.get(id)).toMatchObject({ state: 'completed', attempts: 4, maxAttempts: Infinity });
    await app.close();
  });

  it('are no more when the transaction that asked for them rolled back, whatever the handler believes', async () => {
    const app = await startWork(
      async (job) => {
        await app.dataSource
          .transaction(async (manager) => {
            await job.checkpoint({ payload: 'never stored', extraRetries: 5 }, { manager });
            fail();
          })
          .catch(() => undefined);
        fail();
      },
      { retries: 0 },
    );
    const { id } = await app.jobs.spawn('work', 'stored');
    await until(() => has(app, 'dead'), { what: 'it is dead' });
    expect(await app.queue.get(id)).toMatchObject({ attempts: 1, maxAttempts: 1, payload: 'stored' });
    expect(app.runs).toHaveLength(1);
    await app.close();
  });

  it('are those that a committed transaction asked for', async () => {
    const app = await startWork(
      async (job) => {
        if (job.attempt > 1) return;
        await app.dataSource.transaction((manager) => job.checkpoint({ extraRetries: 1 }, { manager }));
        fail();
      },
      { retries: 0 },
    );
    await app.jobs.spawn('work');
    await ended(app);
    expect(app.runs.map(({ attempt }) => attempt)).toEqual([1, 2]);
    expect(has(app, 'completed')).toBe(true);
    await app.close();
  });
});

describe('kill -9 after a checkpoint', () => {
  const rescuing = { leaseMs: 1_000, pollMs: 200 };

  async function storedAndKilled(payload: StoreThenHang, retries: number): Promise<string> {
    const sender = await startApp({ ...database, queue: { runner: false, openNames: true } });
    const { id } = await sender.jobs.spawn('work', payload, { channel: 'work', retries });
    await sender.close();
    const child = startChild('checkpoint-worker.ts', { URL: database.url });
    await child.message((message) => message === 'stored', 'the handler has stored it');
    await child.kill();
    return id;
  }

  it('the next run begins with what was stored, and reads as far as it had come', async () => {
    const id = await storedAndKilled(
      { checkpoint: { payload: { page: 7 } }, text: 'seven', progress: { percent: 70 } },
      4,
    );
    const Work = workWith({ retention: '1h' });
    const app = await startApp({ ...database, queue: rescuing, providers: [Work] });
    expect((await app.queue.get(id))?.progress).toMatchObject({ percent: 70 });
    await until(() => has(app, 'completed'), { what: 'another process has completed it' });
    expect(app.get(Work).runs).toMatchObject([{ attempt: 2, payload: { page: 7 }, bytes: Buffer.from('seven') }]);
    await app.close();
  });

  it('on the last attempt makes the job dead, with what was stored and the reason (sqlxmq: a job that is nowhere)', async () => {
    const id = await storedAndKilled({ checkpoint: { payload: { page: 7 } } }, 0);
    const Work = workWith();
    const app = await startApp({ ...database, queue: rescuing, providers: [Work] });
    await until(async () => (await app.queue.get(id))?.state === 'dead', { what: 'it is dead' });
    expect(await app.queue.get(id)).toMatchObject({ reason: 'lease expired', attempts: 1, payload: { page: 7 } });
    expect(app.get(Work).runs).toHaveLength(0);
    await app.close();
  });

  it('on the last attempt runs again where the checkpoint asked for it', async () => {
    await storedAndKilled({ checkpoint: { payload: { page: 7 }, extraRetries: 1 } }, 0);
    const Work = workWith();
    const app = await startApp({ ...database, queue: rescuing, providers: [Work] });
    await until(() => has(app, 'completed'), { what: 'another process has completed it' });
    expect(app.get(Work).runs).toMatchObject([{ attempt: 2, payload: { page: 7 } }]);
    await app.close();
  });
});

describe('job.checkpoint in a transaction', () => {
  it('commits with what the handler writes, or not at all', async () => {
    await tables.sql('CREATE TABLE IF NOT EXISTS page (id int PRIMARY KEY)');
    await tables.sql('TRUNCATE page');
    const app = await startWork(
      async (job) => {
        const page = job.payload as number;
        if (page === 3) return;
        await app.dataSource.transaction(async (manager) => {
          await manager.query('INSERT INTO page VALUES ($1)', [page]);
          await job.checkpoint({ payload: page + 1 }, { manager });
          // The odd runs are cut off before their commit.
          if (job.attempt % 2 === 1) fail();
        });
        fail();
      },
      { retries: 10 },
    );
    await app.jobs.spawn('work', 0);
    await until(() => has(app, 'completed'), { what: 'all pages are there' });
    expect(app.runs.map(({ payload }) => payload)).toEqual([0, 0, 1, 1, 2, 2, 3]);
    expect(await tables.sql('SELECT id FROM page ORDER BY id')).toEqual([{ id: 0 }, { id: 1 }, { id: 2 }]);
    await app.close();
  });

  it('and a completion in the same one commit together, and the kept job has the payload of the checkpoint', async () => {
    const app = await startWork(
      (job) =>
        app.dataSource.transaction(async (manager) => {
          await job.checkpoint({ payload: 'the end' }, { manager });
          await job.complete({ manager });
        }),
      { retention: '1h' },
    );
    const { id } = await app.jobs.spawn('work', 'the beginning');
    await ended(app);
    expect(await app.queue.get(id)).toMatchObject({ state: 'completed', payload: 'the end' });
    await app.close();
  });

  it('is decided by that transaction also when the handler returned and left it open', async () => {
    const { opened, open } = gate();
    const app = await startWork(async (job) => {
      if (job.attempt > 1) return;
      const stored = gate();
      void app.dataSource.transaction(async (manager) => {
        await job.checkpoint({ payload: 'stored' }, { manager });
        stored.open();
        await opened;
      });
      await stored.opened;
      fail();
    });
    await app.jobs.spawn('work');
    await app.jobs.spawn('work', 'other', { delay: 1 });
    await until(() => app.runs.length === 2, { what: 'both have run' });
    await app.queue.pause('work');
    open();
    await until(() => has(app, 'retrying'), { what: 'the end of the run is written' });
    await app.queue.resume('work');
    await until(() => app.runs.length > 2 && has(app, 'completed'), { what: 'it runs again' });
    expect(app.runs.at(-1)).toMatchObject({ attempt: 2, payload: 'stored' });
    await app.close();
  });

  it('makes a checkpoint or a completion of its own wait for nothing: it is a conflict, and nothing changed', async () => {
    const codes: unknown[] = [];
    const app = await startWork(
      (job) =>
        app.dataSource.transaction(async (manager) => {
          await job.checkpoint({ payload: 'in the transaction' }, { manager });
          codes.push(await codeOf(job.checkpoint({ payload: 'beside it' })));
          codes.push(await codeOf(job.keepAlive('1m')));
          codes.push(await codeOf(job.complete()));
          await job.complete({ manager });
        }),
      { retention: '1h' },
    );
    const { id } = await app.jobs.spawn('work');
    await ended(app);
    expect(codes).toEqual(['transaction_conflict', 'transaction_conflict', 'transaction_conflict']);
    expect(await app.queue.get(id)).toMatchObject({ state: 'completed', payload: 'in the transaction' });
    await app.close();
  });
});

describe('job.checkpoint refuses, before any SQL and with nothing changed,', () => {
  const wrong: [string, unknown, string][] = [
    ['nothing at all', {}, 'invalid_options'],
    ['what is no object', 'page 2', 'invalid_options'],
    ['null', null, 'invalid_options'],
    ['an option that is not there', { payload: 'x', pages: 2 }, 'invalid_options'],
    ['bytes that are a string', { bytes: 'abc' }, 'invalid_options'],
    ['a negative number of runs', { extraRetries: -1 }, 'invalid_options'],
    ['half a run', { extraRetries: 1.5 }, 'invalid_options'],
    ['endless runs', { extraRetries: Infinity }, 'invalid_options'],
    ['a lease of 0', { keepAlive: 0 }, 'invalid_options'],
    ['a lease of more than a year', { keepAlive: '366d' }, 'invalid_options'],
    ['a lease of no duration', { keepAlive: 'soon' }, 'invalid_options'],
    ['a payload that is no JSON', { payload: 1n }, 'payload_invalid'],
    ['a payload that is a function', { payload: () => 1 }, 'payload_invalid'],
    ['a payload over the limit', { payload: 'x'.repeat(65_535) }, 'payload_too_large'],
    ['bytes over the limit', { bytes: Buffer.alloc(65_537) }, 'payload_too_large'],
    [
      'a payload over the limit together with the bytes that stay',
      { payload: 'x'.repeat(65_530) },
      'payload_too_large',
    ],
  ];

  it.each(wrong)('%s', async (_, changes, code) => {
    const refused: unknown[] = [];
    const app = await startWork(
      async (job) => {
        await tables.sql('ALTER TABLE nestmq.job RENAME TO out_of_reach');
        refused.push(await codeOf(job.checkpoint(changes as CheckpointChanges)));
        await tables.sql('ALTER TABLE nestmq.out_of_reach RENAME TO job');
      },
      { retention: '1h' },
    );
    const { id } = await app.jobs.spawn('work', 'before', { bytes: Buffer.alloc(10) });
    await ended(app);
    expect(refused).toEqual([code]);
    expect(await app.queue.get(id)).toMatchObject({ state: 'completed', payload: 'before', maxAttempts: 5 });
    await app.close();
  });

  it('a payload that the handler’s schema does not want', async () => {
    const refused: unknown[] = [];
    const app = await startWork(
      async (job) => {
        refused.push(await codeOf(job.checkpoint({ payload: { page: 'two' } })));
        await job.checkpoint({ payload: { page: 2 } });
      },
      { retention: '1h', schema: z.object({ page: z.number(), size: z.number().default(10) }) },
    );
    const { id } = await app.jobs.spawn('work', { page: 1 });
    await ended(app);
    expect(refused).toEqual(['payload_invalid']);
    // What is stored is what was given: the schema's output is the next run's.
    expect(await app.queue.get(id)).toMatchObject({ payload: { page: 2 } });
    await app.close();
  });

  it('a manager in the place of the options', async () => {
    const refused: unknown[] = [];
    const app = await startWork(async (job) => {
      await app.dataSource.transaction(async (manager) => {
        refused.push(await codeOf(job.checkpoint({ payload: 'x' }, manager as never)));
        refused.push(await codeOf(job.complete(manager as never)));
      });
      refused.push(await codeOf(job.checkpoint({ payload: 'x' }, { manager: app.dataSource.manager })));
    });
    await app.jobs.spawn('work');
    await ended(app);
    expect(refused).toEqual(['invalid_options', 'invalid_options', 'invalid_manager']);
    await app.close();
  });
});

describe('job.checkpoint is refused', () => {
  it('once the job is completed, in and after the transaction that did it, and once the run has ended', async () => {
    const refused: unknown[] = [];
    const app = await startWork(async (job) => {
      await app.dataSource.transaction(async (manager) => {
        await job.complete({ manager });
        refused.push(await codeOf(job.checkpoint({ payload: 'x' }, { manager })));
        refused.push(await codeOf(job.checkpoint({ payload: 'x' })));
      });
      refused.push(await codeOf(job.checkpoint({ payload: 'x' })));
    });
    await app.jobs.spawn('work');
    await ended(app);
    const [job] = app.runs;
    const late = [job!.checkpoint({ payload: 'x' }), job!.progress({ percent: 1 }), job!.keepAlive(5), job!.complete()];
    for (const call of late) refused.push(await codeOf(call));
    expect(refused).toEqual(Array.from({ length: 7 }, () => 'invalid_transition'));
    await app.close();
  });

  it('once the lease is lost, by itself and in a transaction, which cannot commit then', async () => {
    const lost = gate();
    const refused: unknown[] = [];
    const app = await startWork(async (job) => {
      await lost.opened;
      refused.push(await codeOf(job.checkpoint({ payload: 'x' })));
      refused.push(
        await codeOf(app.dataSource.transaction((manager) => job.checkpoint({ payload: 'x' }, { manager }))),
      );
      refused.push(await codeOf(job.keepAlive('1m')));
      refused.push(await codeOf(job.progress({ percent: 1 })));
      refused.push(await codeOf(job.complete()));
    });
    await app.jobs.spawn('work', 'before');
    await until(() => app.runs.length, { what: 'it runs' });
    // What a rescuer does: the stamp goes up.
    await tables.sql('UPDATE nestmq.job SET run = run + 1, due_at = now() + interval $$1 hour$$');
    lost.open();
    await until(() => has(app, 'lease-lost'), { what: 'its end is refused too' });
    expect(refused).toEqual(Array.from({ length: 5 }, () => 'lease_lost'));
    expect(await tables.sql('SELECT payload, run, lease_ends_at FROM nestmq.job')).toEqual([
      { payload: 'before', run: 1, lease_ends_at: null },
    ]);
    expect(await tables.number('SELECT count(*) FROM nestmq.job_progress')).toBe(0);
    await app.close();
  });
});
