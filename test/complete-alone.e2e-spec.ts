import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { QueueEvent } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const queue = POLLING_OFF;

beforeEach(() => tables.clear());
afterEach(() => void jest.restoreAllMocks());

const has = (app: TestApp, type: QueueEvent['type']): boolean => app.events.some((event) => event.type === type);
const types = (app: TestApp): string[] => app.events.map(({ type }) => type).filter((type) => type !== 'listening');

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'done',
    (error: unknown) => (error as { code?: string }).code ?? error,
  );

describe('job.complete() without a manager', () => {
  it('is durable when it resolves, while the handler goes on, and what that returns changes nothing', async () => {
    const { opened, open } = gate();
    const Work = workWith({ retention: '1h' }, async (job) => {
      await job.complete({ result: 'of complete' });
      await opened;
      return 'of the handler';
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    const finished = await until(
      async () => {
        const job = await app.queue.get(id);
        return job?.state === 'completed' && job;
      },
      { what: 'it is completed, with its handler still running' },
    );
    expect(finished).toMatchObject({ result: 'of complete', attempts: 1 });
    open();
    await until(() => has(app, 'completed'), { what: 'its handler has ended' });
    expect((await app.queue.get(id))?.result).toBe('of complete');
    await untilDone(tables);
    expect(app.get(Work).runs).toHaveLength(1);
    await app.close();
  });

  it('stays completed when the handler throws afterwards, which is logged', async () => {
    const warn = jest.spyOn(Logger.prototype, 'warn').mockImplementation(() => undefined);
    const onError = jest.fn<() => void>();
    const Work = workWith({ backoff: 1, onError }, async (job) => {
      await job.complete();
      throw new Error('too late to matter');
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    await untilDone(tables);
    expect(types(app)).toEqual(['started', 'completed']);
    const lines = warn.mock.calls.map(([line]) => String(line));
    expect(lines.filter((line) => line.includes('too late to matter'))).toEqual([
      expect.stringContaining(`Job ${id} (work) is completed`),
    ]);
    expect(onError).not.toHaveBeenCalled();
    await app.close();
  });

  it('is the end, also when the handler does not wait for it', async () => {
    const Work = workWith({ backoff: 1 }, (job) => {
      void job.complete();
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    await untilDone(tables);
    expect(app.get(Work).runs).toHaveLength(1);
    await app.close();
  });

  it('is refused the second time, at once and later, and in a transaction too', async () => {
    const refused: unknown[] = [];
    const Work = workWith({}, async (job) => {
      const both = await Promise.all([codeOf(job.complete()), codeOf(job.complete())]);
      refused.push(...both, await codeOf(job.complete()));
      refused.push(await codeOf(app.dataSource.transaction((manager) => job.complete({ manager }))));
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(refused).toEqual(['done', 'invalid_transition', 'invalid_transition', 'invalid_transition']);
    await app.close();
  });

  it('is refused with a result that is no JSON, and the run may complete with another', async () => {
    const refused: unknown[] = [];
    const Work = workWith({ retention: '1h' }, async (job) => {
      refused.push(await codeOf(job.complete({ result: 1n })));
      refused.push(await codeOf(job.complete({ outcome: 1 } as never)));
      await job.complete({ result: 1 });
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(refused).toEqual(['payload_invalid', 'invalid_options']);
    expect((await app.queue.get(id))?.result).toBe(1);
    await app.close();
  });

  it.each([0, '1h'] as const)(
    'is refused while a transaction of the handler holds the job, which commits then (retention %s)',
    async (retention) => {
      const refused: unknown[] = [];
      const Work = workWith({ retention }, async (job) => {
        await app.dataSource.transaction(async (manager) => {
          await job.checkpoint({ payload: 'x' }, { manager });
          refused.push(await codeOf(job.complete()));
        });
        refused.push(await codeOf(job.complete()));
      });
      const app = await startApp({ ...database, queue, providers: [Work] });
      await app.jobs.spawn('work');
      await until(() => has(app, 'completed'), { what: 'it is completed' });
      expect(refused).toEqual(['transaction_conflict', 'done']);
      await app.close();
    },
  );
});

describe('job.complete({ manager })', () => {
  it('may be called again once the first transaction has rolled back, say by a conflict', async () => {
    const answers: unknown[] = [];
    const Work = workWith({ retention: '1h' }, async (job) => {
      for (const result of ['rolls back', 'commits', 'comes too late']) {
        const work = app.dataSource.transaction(async (manager) => {
          await job.complete({ manager, result });
          if (result === 'rolls back') throw new Error('a conflict');
        });
        answers.push(await codeOf(work));
      }
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(answers).toEqual([new Error('a conflict'), 'done', 'invalid_transition']);
    expect(await app.queue.get(id)).toMatchObject({ attempts: 1, result: 'commits' });
    await app.close();
  });

  it('is refused in a second transaction while the first is open, without waiting for it', async () => {
    const answers: unknown[] = [];
    const Work = workWith({}, (job) =>
      app.dataSource.transaction(async (manager) => {
        await job.complete({ manager });
        answers.push(await codeOf(app.dataSource.transaction((other) => job.complete({ manager: other }))));
        answers.push(await codeOf(job.complete()));
        answers.push(await codeOf(job.progress({ percent: 1 })));
      }),
    );
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(answers).toEqual(['invalid_transition', 'invalid_transition', 'invalid_transition']);
    await app.close();
  });
});

describe("completion: 'manual'", () => {
  it('makes a run that returns without job.complete() a failed one, and says so', async () => {
    const Work = workWith({ completion: 'manual', retries: 1, backoff: 1 }, () => 'done');
    const app = await startApp({ ...database, queue, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'dead'), { what: 'it is dead' });
    expect(types(app)).toEqual(['started', 'retrying', 'started', 'dead']);
    const job = await app.queue.get(id);
    expect(job).toMatchObject({ state: 'dead', reason: 'exhausted', attempts: 2 });
    expect(job!.lastError).toContain("returned without job.complete(), which `completion: 'manual'` asks for");
    await app.close();
  });

  it('is completed by job.complete(), with a manager or without', async () => {
    const Work = workWith({ completion: 'manual' }, async (job) => {
      if (job.payload === 'alone') await job.complete();
      else await app.dataSource.transaction((manager) => job.complete({ manager }));
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work', 'alone');
    await app.jobs.spawn('work', 'in a transaction');
    await until(() => app.events.filter(({ type }) => type === 'completed').length === 2, { what: 'both are' });
    expect(app.get(Work).runs).toHaveLength(2);
    await app.close();
  });

  it('throws as any other handler: retries and steering are the same', async () => {
    const Work = workWith({ completion: 'manual', backoff: 1 }, async (job) => {
      if (job.attempt === 1) throw new Error('told to fail');
      await job.complete();
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    expect(types(app)).toEqual(['started', 'retrying', 'started', 'completed']);
    await app.close();
  });
});
