import { beforeEach, describe, expect, it } from '@jest/globals';
import { InvalidOptionsError, PayloadVersionError, type HandlerOptions, type Job } from 'nestmq';
import { z } from 'zod';
import { failedBoot } from './support/boot.js';
import type { TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { withApp } from './support/with-app.js';
import { workWith, type Behaviour, type Work } from './support/work.js';
import { QueueModule } from 'nestmq';
import { TypeOrmModule } from '@nestjs/typeorm';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

/** What an application of a release sends, and does not run. */
const spawnFrom = (release: HandlerOptions, payload: unknown, spawn: object = {}): Promise<string> =>
  withApp({ url: database.url, providers: [workWith(release)], queue: { runner: false } }, async ({ jobs }) => {
    const { id } = await jobs.spawn('work', payload, spawn);
    return id;
  });

const runIn = (
  release: HandlerOptions,
  behaviour: Behaviour,
  work: (app: TestApp, worker: Work) => Promise<void>,
): Promise<void> => {
  const Worker = workWith(release, behaviour);
  return withApp({ url: database.url, providers: [Worker] }, (app) => work(app, app.get(Worker)));
};

const drained = () => untilDone(tables);
const ok: Behaviour = () => undefined;

/** Version 1 had one name, version 2 two, version 3 says which of them is shown. */
const People = z.object({ first: z.string(), last: z.string(), shown: z.string() });
const upgrade = (payload: unknown, fromVersion: number): unknown => {
  const two = fromVersion === 1 ? { first: (payload as { name: string }).name, last: '?' } : (payload as object);
  return { ...two, shown: `from ${fromVersion}` };
};
const CURRENT: HandlerOptions = { version: 3, upgrade, schema: People, retries: 0 };

describe('a payload of an older release', () => {
  it('is upgraded from its version before the schema sees it; a current one is left as it is', async () => {
    await spawnFrom({}, { name: 'Ada' });
    await spawnFrom({ version: 2 }, { first: 'Grace', last: 'Hopper' });
    await spawnFrom(CURRENT, { first: 'Alan', last: 'Turing', shown: 'as sent' });
    await runIn(CURRENT, ok, async (_, { runs }) => {
      await drained();
      const seen = runs.map(({ payload }) => payload as z.infer<typeof People>);
      expect(seen.toSorted((a, b) => a.first.localeCompare(b.first))).toEqual([
        { first: 'Ada', last: '?', shown: 'from 1' },
        { first: 'Alan', last: 'Turing', shown: 'as sent' },
        { first: 'Grace', last: 'Hopper', shown: 'from 2' },
      ]);
    });
  });

  it('is upgraded by an asynchronous function too, for each run anew, and stays as it is in the table', async () => {
    const id = await spawnFrom({ retries: 1, backoff: 1 }, { n: 1 });
    const later: HandlerOptions = { version: 2, upgrade: async (payload) => ({ ...(payload as object), more: true }) };
    await runIn(
      later,
      ({ attempt }) => {
        if (attempt === 1) throw new Error('once more');
      },
      async ({ events, queue }, { runs }) => {
        await until(() => events.some(({ type }) => type === 'retrying'), { what: 'the first run has failed' });
        expect((await queue.get(id))?.payload ?? { n: 1 }).toEqual({ n: 1 });
        await drained();
        expect(runs.map(({ payload }) => payload)).toEqual([
          { n: 1, more: true },
          { n: 1, more: true },
        ]);
      },
    );
  });

  it('goes to the schema as it is where the handler has no upgrade', async () => {
    const id = await spawnFrom({ retries: 0 }, { name: 'Ada' });
    await runIn({ version: 3, schema: People }, ok, async ({ events, queue }, { runs }) => {
      await until(() => events.some(({ type }) => type === 'dead'), { what: 'the run has failed' });
      expect(runs).toEqual([]);
      expect((await queue.get(id))?.lastError).toMatch(/Payload of job "work" is not valid: first: /);
    });
  });

  it('that cannot be upgraded is an error of the run, retried like any other', async () => {
    const id = await spawnFrom({ retries: 1, backoff: 1 }, 'odd');
    const release: HandlerOptions = {
      version: 2,
      upgrade: () => {
        throw new Error('I know no odd ones');
      },
    };
    await runIn(release, ok, async ({ events, queue }, { runs }) => {
      await until(() => events.some(({ type }) => type === 'dead'), { what: 'the runs are used up' });
      expect(events.map(({ type }) => type).filter((type) => type === 'retrying')).toHaveLength(1);
      expect(runs).toEqual([]);
      expect(await queue.get(id)).toMatchObject({ attempts: 2, lastError: expect.stringContaining('no odd ones') });
    });
  });

  it.each(['by itself', 'in a transaction'])(
    'that a checkpoint %s has replaced is not upgraded again, and the job keeps its other options',
    async (way) => {
      const id = await spawnFrom({ retries: 3, backoff: 1, retention: '1h' }, { name: 'Ada' });
      const seen: unknown[] = [];
      let app!: TestApp;
      const behaviour = async (job: Job): Promise<void> => {
        seen.push(job.payload);
        if (job.attempt > 1) return;
        const payload = { ...(job.payload as object), last: 'Lovelace' };
        if (way === 'by itself') await job.checkpoint({ payload });
        else await app.dataSource.transaction((manager) => job.checkpoint({ payload }, { manager }));
        throw new Error('once more');
      };
      await runIn({ ...CURRENT, retries: 0 }, behaviour, async (started) => {
        app = started;
        await until(async () => (await app.queue.get(id))?.state === 'completed', { what: 'it is completed' });
        expect(seen).toEqual([
          { first: 'Ada', last: '?', shown: 'from 1' },
          { first: 'Ada', last: 'Lovelace', shown: 'from 1' },
        ]);
        expect(await app.queue.get(id)).toMatchObject({ maxAttempts: 4 });
      });
    },
  );
});

describe('a payload of a newer release', () => {
  it('is left to a process of that release: the runs here do not count, and the reason is kept', async () => {
    const id = await spawnFrom(CURRENT, { first: 'Ada', last: 'Lovelace', shown: 'Ada' });
    await runIn({ version: 2, retries: 0 }, ok, async ({ events, queue }, { runs }) => {
      await until(() => events.some(({ type }) => type === 'snoozed'), { what: 'the run was put off' });
      expect(runs).toEqual([]);
      expect(await queue.get(id)).toMatchObject({
        state: 'waiting',
        attempts: 0,
        lastError: expect.stringContaining(new PayloadVersionError('work', 3, 2).message),
      });
    });
    await tables.sql('UPDATE nestmq.job SET due_at = now()');
    await runIn(CURRENT, ok, async (_, { runs }) => {
      await drained();
      expect(runs.map(({ attempt, payload }) => ({ attempt, payload }))).toEqual([
        { attempt: 1, payload: { first: 'Ada', last: 'Lovelace', shown: 'Ada' } },
      ]);
    });
  });
});

describe('version and upgrade', () => {
  it.each<[string, HandlerOptions, RegExp]>([
    ['a version of 0', { version: 0 }, /version" is 0\. Give a whole number from 1 to 1000000/],
    ['half a version', { version: 1.5 }, /version" is 1\.5/],
    ['a version that is text', { version: '2' as never }, /version" is "2"/],
    ['an upgrade that is no function', { version: 2, upgrade: {} as never }, /upgrade" is \{\}\. Give a function/],
    ['an upgrade without a version', { upgrade }, /nothing older than `version` 1/],
  ])('fail the boot when they are wrong: %s', async (_, options, message) => {
    const error = await failedBoot({
      imports: [TypeOrmModule.forRoot({ type: 'postgres', url: database.url }), QueueModule.forRoot({ runner: false })],
      providers: [workWith(options)],
    });
    expect(error).toBeInstanceOf(InvalidOptionsError);
    expect(error.message).toMatch(message);
  });
});
