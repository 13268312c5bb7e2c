import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import {
  RejectJob,
  RetryAfter,
  SnoozeJob,
  type ErrorContext,
  type HandlerOptions,
  type Job,
  type QueueEvent,
} from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith, type Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());
afterEach(() => void jest.restoreAllMocks());

const has = (app: TestApp, type: QueueEvent['type']): boolean => app.events.some((event) => event.type === type);
const fixed = { type: 'fixed', base: 5, jitter: 0 } as const;

interface Heard extends ErrorContext {
  readonly by: string;
  readonly error: unknown;
  readonly job: Job;
}

/** An application whose hooks, the handler's own and the module's, write down what they hear. */
async function startWork(
  behaviour: Behaviour,
  options: HandlerOptions = {},
): Promise<TestApp & { heard: Heard[]; runs: Job[] }> {
  const heard: Heard[] = [];
  const hear =
    (by: string) =>
    (error: unknown, job: Job, context: ErrorContext): void =>
      void heard.push({ by, error, job, ...context });
  const Work = workWith({ backoff: fixed, onError: hear('handler'), ...options }, behaviour);
  const queue = { ...POLLING_OFF, onError: hear('module') };
  const app = await startApp({ ...database, queue, providers: [Work] });
  return { ...app, heard, runs: app.get(Work).runs };
}

describe('onError', () => {
  it('hears of every failed run with the error, the job and what became of it, the handler’s own before the module’s', async () => {
    const errors = [new Error('first'), new Error('second')];
    const app = await startWork(
      (job) => {
        throw errors[job.attempt - 1]!;
      },
      { retries: 1 },
    );
    const { id } = await app.jobs.spawn('work', { n: 1 });
    await until(() => app.heard.length === 4, { what: 'both hooks have heard of both runs' });
    const facts = app.heard.map(({ by, error, job, willRetry, delayMs }) => [
      by,
      error,
      job.attempt,
      willRetry,
      delayMs,
    ]);
    expect(facts).toEqual([
      ['handler', errors[0], 1, true, 5],
      ['module', errors[0], 1, true, 5],
      ['handler', errors[1], 2, false, null],
      ['module', errors[1], 2, false, null],
    ]);
    expect(app.heard.every(({ job }) => job.id === id && (job.payload as { n: number }).n === 1)).toBe(true);
    await app.close();
  });

  it('finds written what it is told: a job that is said to be dead is', async () => {
    const found: unknown[] = [];
    const app = await startWork(
      () => {
        throw new RejectJob('no such user');
      },
      { onError: async (_, job) => void found.push((await app.queue.get(job.id))?.state) },
    );
    await app.jobs.spawn('work');
    await until(() => app.heard.length, { what: 'the module’s hook has heard too' });
    expect(found).toEqual(['dead']);
    expect(app.heard).toMatchObject([{ by: 'module', willRetry: false, delayMs: null }]);
    await app.close();
  });

  it('hears of RetryAfter, and of nothing that is no error: a snooze, a completion, a return after a completion', async () => {
    const app = await startWork(async (job) => {
      if (job.payload === 'snoozes' && job.attempt === 1 && app.runs.length === 1) throw new SnoozeJob(1);
      if (job.payload === 'waits') throw new RetryAfter('1h');
      if (job.payload === 'completes') await job.complete();
    });
    await app.jobs.spawn('work', 'snoozes');
    await until(() => has(app, 'completed'), { what: 'it is completed' });
    await app.jobs.spawn('work', 'completes');
    await app.jobs.spawn('work', 'waits');
    await until(() => app.heard.length === 2, { what: 'the hooks have heard of the last' });
    await app.close();
    expect(app.heard.map(({ job, delayMs }) => [job.payload, delayMs])).toEqual([
      ['waits', 3_600_000],
      ['waits', 3_600_000],
    ]);
  });

  it('that throws or rejects is logged, changes nothing, and keeps no other hook from hearing', async () => {
    const error = jest.spyOn(Logger.prototype, 'error').mockImplementation(() => undefined);
    const failures = [
      () => {
        throw new Error('thrown by the hook');
      },
      () => Promise.reject(new Error('rejected by the hook')),
    ];
    const app = await startWork(
      (job) => {
        if (job.attempt < 3) throw new Error('told to fail');
      },
      { onError: (_, job) => failures[job.attempt - 1]!() },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'its third run has completed it' });
    await until(() => app.heard.length === 2, { what: 'the module’s hook has heard of both' });
    await app.close();
    expect(error.mock.calls.map(([line]) => line)).toEqual([
      `onError has thrown for job ${id} (work): thrown by the hook`,
      `onError has thrown for job ${id} (work): rejected by the hook`,
    ]);
  });

  it('that takes its time holds up no other run, and a shutdown waits for it', async () => {
    const { opened, open } = gate();
    const ended: string[] = [];
    const app = await startWork(
      (job) => {
        if (job.payload === 'fails') throw new Error('told to fail');
      },
      { retries: 0, onError: () => opened.then(() => void ended.push('hook')) },
    );
    await app.jobs.spawn('work', 'fails');
    await until(() => has(app, 'dead'), { what: 'it is dead' });
    await app.jobs.spawn('work', 'ends');
    await until(() => has(app, 'completed'), { what: 'another job is run meanwhile' });
    const closing = app.close().then(() => void ended.push('shutdown'));
    open();
    await closing;
    expect(ended).toEqual(['hook', 'shutdown']);
  });

  it('has heard, and has ended, when queue.runOne() answers', async () => {
    const heard: unknown[] = [];
    const Work = workWith({ backoff: fixed }, () => {
      throw new Error('told to fail');
    });
    const onError = async (error: unknown, job: Job, { willRetry }: ErrorContext): Promise<void> => {
      await app.queue.get(job.id);
      heard.push([(error as Error).message, willRetry]);
    };
    const app = await startApp({ ...database, queue: { runner: false, onError }, providers: [Work] });
    await app.jobs.spawn('work');
    expect(await app.queue.runOne()).toMatchObject({ outcome: 'retrying' });
    expect(heard).toEqual([['told to fail', true]]);
    await app.close();
  });

  it('hears nothing of a run whose lease was lost: the job is somebody else’s', async () => {
    const lost = gate();
    const app = await startWork(async () => {
      await lost.opened;
      throw new Error('too late to matter');
    });
    await app.jobs.spawn('work');
    await until(() => app.runs.length, { what: 'it runs' });
    await tables.sql('UPDATE nestmq.job SET run = run + 1, due_at = now() + interval $$1 hour$$');
    lost.open();
    await until(() => has(app, 'lease-lost'), { what: 'its end is refused' });
    await app.close();
    expect(app.heard).toEqual([]);
  });
});

describe('isRetryable', () => {
  it('false makes the job dead at once, rejected; true retries; it is asked with the error', async () => {
    const app = await startWork(
      (job) => {
        throw new TypeError(job.attempt === 1 ? 'passes' : 'stays');
      },
      { isRetryable: (error) => (error as Error).message === 'passes', retries: 10 },
    );
    const { id } = await app.jobs.spawn('work');
    await until(() => has(app, 'dead'), { what: 'it is dead' });
    const job = await app.queue.get(id);
    expect(job).toMatchObject({ reason: 'rejected', attempts: 2 });
    expect(job!.lastError).toContain('TypeError: stays');
    await app.close();
    expect(app.heard.map(({ willRetry }) => willRetry)).toEqual([true, true, false, false]);
  });

  it.each<[string, () => unknown]>([
    [
      'throws',
      () => {
        throw new Error('worse');
      },
    ],
    ['answers a promise', () => Promise.reject(new Error('worse'))],
    ['answers nothing', () => undefined],
  ])('that %s is logged, and the run is retried', async (_, isRetryable) => {
    const error = jest.spyOn(Logger.prototype, 'error').mockImplementation(() => undefined);
    const app = await startWork(
      (job) => {
        if (job.attempt === 1) throw new Error('told to fail');
      },
      { isRetryable: isRetryable as () => boolean },
    );
    await app.jobs.spawn('work');
    await until(() => has(app, 'completed'), { what: 'its second run has completed it' });
    await app.close();
    expect(error.mock.calls.map(([line]) => String(line))).toEqual([
      expect.stringMatching(/^isRetryable of Worker\.run /),
    ]);
  });
});
