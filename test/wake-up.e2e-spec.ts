import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { JobHandler, type Job } from 'nestmq';
import { POLLING_OFF, type TestApp } from './support/app.js';
import { startChild } from './support/child.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { listenToWakeUps, type WakeUps } from './support/wake-ups.js';
import { withApp } from './support/with-app.js';

@Injectable()
class Mailer {
  readonly ran: unknown[] = [];

  @JobHandler('mail')
  welcome({ payload }: Job): void {
    this.ran.push(payload);
  }
}

const database = useDatabase();
const tables = useTables(database);
beforeEach(() => tables.sql('DELETE FROM nestmq.job'));

const withSender = (work: (app: TestApp) => Promise<void>): Promise<void> =>
  withApp({ url: database.url, providers: [Mailer], queue: { runner: false } }, work);

const withRunner = (
  work: (app: TestApp, mailer: Mailer) => Promise<void>,
  queue: object = POLLING_OFF,
): Promise<void> =>
  withApp({ url: database.url, providers: [Mailer], queue }, async (app) => {
    // A job that was there when the first look was taken would need no notification.
    await until(() => app.events.some((event) => event.type === 'listening' && event.listening), {
      what: 'the runner listens',
    });
    await work(app, app.get(Mailer));
  });

/** What `until` is to wait for. */
const ran = (mailer: Mailer, payload: unknown): Parameters<typeof until> => [
  () => mailer.ran.includes(payload),
  { what: `the job ${String(payload)} has run` },
];

// acceptance: modkit-db outbox B, K; spec 10
describe('a commit', () => {
  it('wakes a runner of another process’s kind without any polling', () =>
    withRunner(async (_, mailer) => {
      await withSender(async ({ jobs, dataSource }) => {
        await dataSource.transaction((manager) => jobs.spawn(Mailer, 'welcome', 'joined', { manager }));
        await until(...ran(mailer, 'joined'));
        await jobs.spawn(Mailer, 'welcome', 'plain');
        await until(...ran(mailer, 'plain'));
        await jobs.spawnMany(Mailer, 'welcome', [{ payload: 'many' }]);
        await until(...ran(mailer, 'many'));
      });
      expect(mailer.ran).toEqual(['joined', 'plain', 'many']);
    }));

  it('starts a job that the same process has spawned in a transaction, once, and no sooner than it', () =>
    withRunner(async ({ jobs, dataSource }, mailer) => {
      await dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 'late', { manager });
        await jobs.spawn(Mailer, 'welcome', 'marker');
        await until(...ran(mailer, 'marker'));
        expect(mailer.ran).toEqual(['marker']);
      });
      await until(...ran(mailer, 'late'));
      await jobs.spawn(Mailer, 'welcome', 'behind');
      await until(...ran(mailer, 'behind'));
      expect(mailer.ran).toEqual(['marker', 'late', 'behind']);
    }));

  it('wakes after a transaction that overlapped later ones: a lower number that commits late is not passed over', () =>
    withRunner(async ({ jobs, dataSource }, mailer) => {
      await dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 'first', { manager });
        for (const n of [1, 2, 3]) await jobs.spawn(Mailer, 'welcome', n);
        await until(...ran(mailer, 3));
      });
      await until(...ran(mailer, 'first'));
      expect(mailer.ran).toEqual([1, 2, 3, 'first']);
    }));
});

describe('a runner', () => {
  it('finds jobs that plain SQL has inserted, without any notification, by polling', () =>
    withRunner(
      async ({ queue }, mailer) => {
        await tables.sql(
          `INSERT INTO nestmq.job (channel, name, payload) VALUES ('mail', 'Mailer.welcome', '"by hand"')`,
        );
        await until(...ran(mailer, 'by hand'));
        await until(async () => (await queue.stats()).length === 0, { what: 'the job is settled' });
      },
      { pollMs: 100 },
    ));

  it('runs jobs that were there before it started, without a notification and with polling off', async () => {
    await withSender(async ({ jobs }) => {
      await jobs.spawnMany(
        Mailer,
        'welcome',
        [1, 2, 3].map((payload) => ({ payload })),
      );
    });
    await withApp({ url: database.url, providers: [Mailer], queue: POLLING_OFF }, async (app) => {
      const mailer = app.get(Mailer);
      await until(() => mailer.ran.length === 3, { what: 'all three have run' });
      expect(new Set(mailer.ran)).toEqual(new Set([1, 2, 3]));
    });
  });

  it('takes no notice of what others send on its notification channel', () =>
    withRunner(async ({ jobs }, mailer) => {
      for (const message of [
        '',
        'hello',
        '[]',
        '{"a":1}',
        '[null]',
        '[1e400]',
        '[5, "x", "y", "mail"]',
        '["probe","z"]',
      ]) {
        await tables.sql(`SELECT pg_notify('nestmq_wake_up', $1)`, [message]);
      }
      await jobs.spawn(Mailer, 'welcome', 'still well');
      await until(...ran(mailer, 'still well'));
    }));
});

describe('notifications', () => {
  let wakeUps: WakeUps;
  beforeEach(async () => {
    wakeUps = await listenToWakeUps(database.url);
  });
  afterEach(() => wakeUps.close());

  const messageOf = async (id: string, keyed = false): Promise<unknown[]> => {
    const [row] = await tables.sql<{ micros: string; priority: number; channel: string; name: string }>(
      'SELECT (extract(epoch FROM due_at) * 1000000)::bigint AS micros, priority, channel, name FROM nestmq.job WHERE id = $1',
      [id],
    );
    return [Number(row!.micros), id, row!.priority, row!.channel, Number(keyed), row!.name];
  };

  it('name the place, priority and channel of the new job, and nothing of its payload or key', () =>
    withSender(async ({ jobs, dataSource }) => {
      const { id } = await dataSource.transaction((manager) =>
        jobs.spawn(Mailer, 'welcome', { secret: 1 }, { manager, key: 'customer', priority: 7, channel: 'bulk' }),
      );
      expect(await wakeUps.heard()).toEqual([await messageOf(id, true)]);
    }));

  it('come with the commit, never before', () =>
    withSender(async ({ jobs, dataSource }) => {
      await dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 1, { manager });
        expect(await wakeUps.heard()).toEqual([]);
      });
      expect(await wakeUps.heard()).toHaveLength(1);
    }));

  it('do not come at all after a rollback', () =>
    withSender(async ({ jobs, dataSource }) => {
      const failed = dataSource.transaction(async (manager) => {
        await jobs.spawn(Mailer, 'welcome', 1, { manager });
        await jobs.spawnMany(Mailer, 'welcome', [{ payload: 2, channel: 'bulk' }], { manager });
        throw new Error('changed my mind');
      });
      await expect(failed).rejects.toThrow('changed my mind');
      expect(await wakeUps.heard()).toEqual([]);
    }));

  it('do not come for a savepoint that was rolled back', () =>
    withSender(async ({ jobs, dataSource }) => {
      await dataSource.transaction(async (manager) => {
        const inner = manager.transaction(async (nested) => {
          await jobs.spawn(Mailer, 'welcome', 1, { manager: nested });
          throw new Error('only the inner part');
        });
        await expect(inner).rejects.toThrow('only the inner part');
      });
      expect(await wakeUps.heard()).toEqual([]);
    }));

  it('come for a spawn behind a savepoint that was rolled back, although that one had told of its channel already', () =>
    withSender(async ({ jobs, dataSource }) => {
      const { id } = await dataSource.transaction(async (manager) => {
        const inner = manager.transaction(async (nested) => {
          await jobs.spawn(Mailer, 'welcome', 'inside', { manager: nested });
          throw new Error('only the inner part');
        });
        await expect(inner).rejects.toThrow('only the inner part');
        return jobs.spawn(Mailer, 'welcome', 'behind', { manager });
      });
      expect(await wakeUps.heard()).toEqual([await messageOf(id)]);
    }));

  it('come once for a transaction, channel and priority, with the first place', () =>
    withSender(async ({ jobs, dataSource }) => {
      const [first, bulk, urgent] = await dataSource.transaction(async (manager) => {
        const spawn = (options: object = {}) => jobs.spawn(Mailer, 'welcome', 1, { ...options, manager });
        const places = [await spawn(), await spawn({ channel: 'bulk' }), await spawn({ priority: -5 })];
        for (let n = 0; n < 5; n++) await spawn({ key: `k${n}` });
        await spawn({ channel: 'bulk' });
        await spawn({ priority: -5 });
        await jobs.spawnMany(
          Mailer,
          'welcome',
          Array.from({ length: 100 }, () => ({ payload: 1 })),
          { manager },
        );
        return places;
      });
      const expected = [await messageOf(first!.id), await messageOf(bulk!.id), await messageOf(urgent!.id)];
      expect(await wakeUps.heard()).toEqual(expected);
    }));

  it('come again within a transaction for a place that is lower than the one told of', () =>
    withSender(async ({ jobs, dataSource }) => {
      const [late, early] = await dataSource.transaction(async (manager) => [
        await jobs.spawn(Mailer, 'welcome', 1, { manager, delay: '1h' }),
        await jobs.spawn(Mailer, 'welcome', 2, { manager }),
      ]);
      expect(await wakeUps.heard()).toEqual([await messageOf(late.id), await messageOf(early.id)]);
    }));

  it('are remembered for their own transaction only', () =>
    withApp(
      { url: database.url, providers: [Mailer], queue: { runner: false }, typeorm: { poolSize: 1 } },
      async ({ jobs, dataSource }) => {
        for (const n of [1, 2]) {
          await dataSource.transaction((manager) => jobs.spawn(Mailer, 'welcome', n, { manager }));
        }
        expect(await wakeUps.heard()).toHaveLength(2);
      },
    ));

  it('come for plain spawns too, once for each channel and priority of a call', () =>
    withSender(async ({ jobs }) => {
      const items = Array.from({ length: 500 }, (_, n) => ({ payload: n, channel: `c${n % 3}`, priority: n % 2 }));
      await jobs.spawnMany(Mailer, 'welcome', items);
      await until(async () => (await wakeUps.heard()).length >= 6, { what: 'every channel and priority was told of' });
      const heard = await wakeUps.heard();
      expect(heard.map(([, , priority, channel]) => `${channel} ${priority}`).toSorted()).toEqual([
        'c0 0',
        'c0 1',
        'c1 0',
        'c1 1',
        'c2 0',
        'c2 1',
      ]);
    }));

  it('do not come for the end of a job', async () => {
    await withRunner(async ({ jobs, events }) => {
      await jobs.spawn(Mailer, 'welcome', 1);
      await until(() => events.some(({ type }) => type === 'completed'), { what: 'the job is completed' });
    });
    expect(await wakeUps.heard()).toHaveLength(1);
  });

  it('go over the schema’s own notification channel, whose name no job channel can lengthen', () =>
    withSender(async ({ jobs }) => {
      const channel = 'c'.repeat(255);
      await jobs.spawn(Mailer, 'welcome', 1, { channel });
      await until(async () => (await wakeUps.heard()).length === 1, { what: 'the wake-up has come' });
      expect((await wakeUps.heard())[0]?.[3]).toBe(channel);
    }));
});

// acceptance: section 7, row 15
describe('a process whose clock is wrong', () => {
  const HOUR_MS = 3_600_000;
  const preload = fileURLToPath(new URL('./processes/shifted-clock.mjs', import.meta.url));

  it.each([
    ['two hours fast', 2 * HOUR_MS],
    ['two hours slow', -2 * HOUR_MS],
  ])('%s sends, runs and retries jobs by the clock of the database', async (_, shiftMs) => {
    const child = startChild('clock-app.ts', {
      DATABASE: database.url,
      CLOCK_SHIFT_MS: String(shiftMs),
      NODE_OPTIONS: `--import ${preload}`,
    });
    const { now } = await child.message<{ ready: true; now: number }>(({ ready }) => ready, 'the application is up');
    expect(Math.abs(now - Date.now() - shiftMs)).toBeLessThan(60_000);

    child.send({ payload: 'in an hour', delay: HOUR_MS });
    await child.message<{ spawned: string }>(({ spawned }) => spawned !== undefined, 'the delayed job is there');
    expect(
      await tables.number(`SELECT count(*) FROM nestmq.job
        WHERE abs(extract(epoch FROM clock_timestamp() - created_at)) < 60
          AND abs(extract(epoch FROM due_at - created_at) - 3600) < 1`),
    ).toBe(1);

    child.send({ payload: 'fail', delay: 0 });
    await child.message<{ ran: string }>(({ ran: payload }) => payload === 'fail', 'the failing job has run');
    await until(() => tables.number('SELECT count(*) FROM nestmq.job WHERE attempt = 1'), {
      what: 'the failure is written',
    });
    expect(
      await tables.number(`SELECT count(*) FROM nestmq.job
        WHERE attempt = 1 AND extract(epoch FROM due_at - clock_timestamp()) BETWEEN 3540 AND 3600`),
    ).toBe(1);

    child.send({ payload: 'marker', delay: 0 });
    await child.message<{ ran: string }>(({ ran: payload }) => payload === 'marker', 'the marker has run');
    const runs = child.messages.flatMap((message) => (message as { ran?: string }).ran ?? []);
    expect(runs).toEqual(['fail', 'marker']);
    child.send('stop');
    expect(await child.exit()).toBe(0);
  });
});
