import { beforeEach, describe, expect, it } from '@jest/globals';
import type { HandlerOptions, JobBatch, QueueEvent } from 'nestmq';
import { POLLING_OFF, type TestApp } from './support/app.js';
import { batchesOf, batchWith, type BatchBehaviour, type BatchWork } from './support/batches.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { withApp } from './support/with-app.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (nth int, xid text DEFAULT pg_current_xact_id()::text)');
  await tables.sql('TRUNCATE effect');
});

/** What an application of a release sends, and does not run: payloads of 1, 2, 3, … */
const sendFrom = (release: HandlerOptions, payloads: readonly unknown[], key = ''): Promise<string[]> =>
  withApp({ url: database.url, providers: [workWith(release)], queue: { runner: false } }, async ({ jobs }) => {
    const answers = await jobs.spawnMany(payloads.map((payload) => ({ name: 'work', payload, key })));
    return answers.map(({ id }) => id);
  });

const runIn = (
  release: HandlerOptions,
  behaviour: BatchBehaviour,
  work: (app: TestApp, worker: BatchWork) => Promise<void>,
): Promise<void> => {
  const Worker = batchWith({ batch: 5, ...release }, behaviour);
  const queue = { ...POLLING_OFF, concurrency: 1 };
  return withApp({ url: database.url, providers: [Worker], queue }, (app) => work(app, app.get(Worker)));
};

const drained = () => untilDone(tables);
const ok: BatchBehaviour = () => undefined;

const eventsOf = <Type extends QueueEvent['type']>({ events }: TestApp, type: Type) =>
  events.filter((event): event is Extract<QueueEvent, { type: Type }> => event.type === type);

/** Knows no payload of 3. */
const CURRENT: HandlerOptions = {
  version: 2,
  upgrade: (payload) => {
    if (payload === 3) throw new Error('I know no three');
    return (payload as number) * 10;
  },
};

const write = ({ jobs, manager }: JobBatch): Promise<unknown> =>
  manager.query('INSERT INTO effect SELECT unnest($1::int[])', [jobs.map(({ payload }) => payload)]);

describe('payloads of several releases in batches', () => {
  it('are upgraded each from its own, and come in batches of their own', async () => {
    await sendFrom({}, [1, 2]);
    await sendFrom({ version: 2 }, [3, 4]);
    await sendFrom({ version: 3 }, [5, 6]);
    const upgrade = (payload: unknown, from: number): unknown => [payload, `from ${from}`];
    await runIn({ version: 3, upgrade, batch: 6 }, ok, async (_, worker) => {
      await drained();
      expect(batchesOf(worker)).toEqual([
        [
          [1, 'from 1'],
          [2, 'from 1'],
        ],
        [
          [3, 'from 2'],
          [4, 'from 2'],
        ],
        [5, 6],
      ]);
    });
  });

  it('of a newer one are left to its processes, and spoil no batch here', async () => {
    const [first, second] = await sendFrom({ version: 2 }, [1, 2]);
    await sendFrom({}, [3, 4]);
    await runIn({ retries: 0 }, ok, async (app, worker) => {
      await until(() => eventsOf(app, 'completed').length === 2, { what: 'those of this release are done' });
      await until(() => eventsOf(app, 'snoozed').length === 2, { what: 'the newer ones are put off' });
      expect(batchesOf(worker)).toEqual([[3, 4]]);
      for (const id of [first!, second!]) {
        expect(await app.queue.get(id)).toMatchObject({ state: 'waiting', attempts: 0 });
      }
    });
  });
});

describe('an old payload that cannot be upgraded', () => {
  // One that was burnt would be dead.
  const OLD: HandlerOptions = { retries: 0 };

  it.each([false, true])('dies alone: the others are a batch without it, transactional: %s', async (transactional) => {
    const ids = await sendFrom(OLD, upTo(5));
    await runIn(
      { ...CURRENT, transactional },
      (batch) => transactional && write(batch),
      async (app, worker) => {
        await drained();
        expect(batchesOf(worker)).toEqual([[10, 20, 40, 50]]);
        expect(eventsOf(app, 'dead')).toMatchObject([{ id: ids[2], error: { message: 'I know no three' } }]);
        expect(await app.queue.get(ids[2]!)).toMatchObject({
          attempts: 1,
          lastError: expect.stringContaining('no three'),
        });
        expect(eventsOf(app, 'completed').map(({ attempt }) => attempt)).toEqual([1, 1, 1, 1]);
        expect(eventsOf(app, 'batch-failed')).toEqual([]);
      },
    );
    const effects = transactional ? [{ nths: [10, 20, 40, 50] }] : [];
    expect(await tables.sql('SELECT array_agg(nth ORDER BY nth) AS nths FROM effect GROUP BY xid')).toEqual(effects);
  });

  it('is retried by itself, and each run tries to upgrade it anew', async () => {
    await sendFrom({ retries: 1, backoff: 1 }, upTo(5));
    await runIn(CURRENT, ok, async (app, worker) => {
      await until(() => eventsOf(app, 'dead').length, { what: 'its runs are used up' });
      expect(eventsOf(app, 'retrying')).toMatchObject([{ error: { message: 'I know no three' } }]);
      expect(eventsOf(app, 'dead')).toMatchObject([{ attempt: 2 }]);
      expect(batchesOf(worker)).toEqual([[10, 20, 40, 50]]);
    });
  });

  it('ends a batch when it is alone in it, and the handler is not called', async () => {
    await sendFrom(OLD, [3]);
    await runIn({ ...CURRENT, transactional: true }, ok, async (app, worker) => {
      await until(() => eventsOf(app, 'dead').length, { what: 'it is dead' });
      expect(worker.batches).toEqual([]);
    });
  });

  it.each([false, true])(
    'lets its lane go on past it under skip, in order and without a lost attempt, transactional: %s',
    async (transactional) => {
      await sendFrom({ ...OLD, retries: 1, backoff: 1, ordered: true }, upTo(5), 'lane');
      await runIn({ ...CURRENT, ordered: true, transactional }, ok, async (app, worker) => {
        await drained();
        expect(worker.runs.map(({ payload, seq, attempt }) => [payload, seq, attempt])).toEqual([
          [10, 1, 1],
          [20, 2, 1],
          [40, 4, 1],
          [50, 5, 1],
        ]);
        expect(eventsOf(app, 'dead')).toMatchObject([{ attempt: 2 }]);
      });
    },
  );

  it('because upgrading it does not end fails by the timeout, alone', async () => {
    const ids = await sendFrom({ ...OLD, timeout: '1s' }, upTo(5));
    const never = gate();
    const upgrade = async (payload: unknown): Promise<unknown> => {
      if (payload === 3) await never.opened;
      return payload;
    };
    await runIn({ version: 2, upgrade }, ok, async (app, worker) => {
      await drained();
      expect(batchesOf(worker)).toEqual([[1, 2, 4, 5]]);
      expect(eventsOf(app, 'dead')).toMatchObject([{ id: ids[2], error: { code: 'job_timeout' } }]);
      expect(eventsOf(app, 'stuck')).toMatchObject([{ id: ids[2] }]);
    });
    never.open();
  });
});
