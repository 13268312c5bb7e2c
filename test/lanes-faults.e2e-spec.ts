import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { DatabaseUnavailableError } from 'nestmq';
import { Connection } from '../libs/queue/src/postgres/connection.js';
import { POLLING_OFF, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { withApp } from './support/with-app.js';
import { gate, workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const QUICK_POLL = { pollMs: 200 };

const send = (app: TestApp, payloads: readonly unknown[]): Promise<unknown> =>
  app.jobs.spawnMany(payloads.map((payload) => ({ name: 'work', payload, key: 'a' })));

/** Nothing is left: no job, no lease, and no lane that somebody has or that waits for something. */
async function atRest(): Promise<boolean> {
  const counts = await tables.sql<{ left: string }>(
    `SELECT count(*) AS left FROM nestmq.job
     UNION ALL SELECT count(*) FROM nestmq.lease
     UNION ALL SELECT count(*) FROM nestmq.lane WHERE head_position IS NOT NULL`,
  );
  return counts.every(({ left }) => left === '0');
}

const transaction = Reflect.get(Connection.prototype, 'transaction') as (...args: unknown[]) => Promise<unknown>;

/** Lets a test come between a connection and its transactions. */
function intercept(how: (connection: Connection, send: () => Promise<unknown>) => Promise<unknown>): void {
  Reflect.set(Connection.prototype, 'transaction', function (this: Connection, ...args: unknown[]) {
    return how(this, () => transaction.apply(this, args));
  });
}

const roleOf = (connection: Connection): string =>
  (connection as unknown as { settings: { role: string } }).settings.role;

beforeEach(() => tables.clear());
afterEach(() => void Reflect.set(Connection.prototype, 'transaction', transaction));

describe('a lane', () => {
  it('whose owner has died goes through its suspects one after another, without a poll', async () => {
    const Work = workWith({ ordered: true });
    const sender = { ...database, queue: { runner: false }, providers: [Work] };
    await withApp(sender, (app) => send(app, [0, 1, 2, 3, 4]));
    await tables.sql(`
      INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, keys, seqs, started, hi_due_at, hi_id)
      SELECT 999, 1, channel, 0, array_agg(id ORDER BY id), array_agg(run), array_agg(key), array_agg(seq ORDER BY id), 1, 'epoch', 0
      FROM (SELECT id, run, key, channel, row_number() OVER (ORDER BY id) AS seq FROM nestmq.job) AS job GROUP BY channel`);
    await tables.sql(
      `INSERT INTO nestmq.lane (channel, key, runner_id, lease, name) SELECT DISTINCT channel, key, 999, 1, name FROM nestmq.job`,
    );
    await withApp({ ...database, queue: { ...POLLING_OFF, leaseMs: 1_000 }, providers: [Work] }, async (app) => {
      await until(() => app.get(Work).runs.length === 5, { what: 'all five have run' });
      await until(atRest, { what: 'the lane is at rest' });
      expect(app.get(Work).runs.map(({ seq, payload }) => [seq, payload])).toEqual(
        [0, 1, 2, 3, 4].map((n) => [n + 1, n]),
      );
    });
  });

  it('whose running job was deleted by hand goes on', async () => {
    const { opened, open } = gate();
    const Work = workWith({ ordered: true }, ({ payload }) => (payload === 0 ? opened : undefined));
    await withApp({ ...database, queue: QUICK_POLL, providers: [Work] }, async (app) => {
      await send(app, [0, 1]);
      await until(() => app.get(Work).runs.length === 1, { what: 'the first runs' });
      await tables.sql('DELETE FROM nestmq.job WHERE id = (SELECT min(id) FROM nestmq.job)');
      open();
      await until(() => app.get(Work).runs.length === 2, { what: 'the next runs' });
      await until(atRest, { what: 'the lane is at rest' });
      expect(app.events.filter(({ type }) => type === 'lease-lost')).toHaveLength(1);
    });
  });

  it('whose job is locked by somebody at its end waits for that one, and goes on with the next', async () => {
    const locked = gate();
    const Work = workWith({ ordered: true, retention: '1h' }, ({ payload }) => (payload === 0 ? locked.opened : null));
    await withApp({ ...database, queue: QUICK_POLL, providers: [Work] }, async (app) => {
      await send(app, [0, 1]);
      await until(() => app.get(Work).runs.length === 1, { what: 'the first runs' });
      await app.dataSource.transaction(async (manager) => {
        await manager.query('SELECT id FROM nestmq.job WHERE id = (SELECT min(id) FROM nestmq.job) FOR UPDATE');
        locked.open();
        const waiting = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'nestmq settle' AND wait_event_type = 'Lock'`;
        await until(() => tables.number(waiting), { what: 'its end waits' });
        expect(app.events.some(({ type }) => type === 'completed' || type === 'lease-lost')).toBe(false);
      });
      await until(() => app.events.filter(({ type }) => type === 'completed').length === 2, {
        what: 'both are completed',
      });
      await until(atRest, { what: 'the lane is at rest' });
      expect(app.get(Work).runs.map(({ payload }) => payload)).toEqual([0, 1]);
    });
  });

  it('goes on whose rolled back completion was put back, when the answer to that was lost', async () => {
    let answersLost = 0;
    intercept(async (connection, send) => {
      const answer = await send();
      const requeued = roleOf(connection) === 'settle' && Array.isArray(answer) && (answer[2] as unknown[] | undefined);
      if (!requeued || requeued.length === 0 || answersLost > 0) return answer;
      answersLost += 1;
      throw new DatabaseUnavailableError({ cause: new Error('the answer was lost') });
    });
    let dataSource: TestApp['dataSource'];
    const Work = workWith({ ordered: true, backoff: '20ms' }, async (job) => {
      if (job.attempt > 1) return;
      await dataSource.transaction(async (manager) => {
        await job.complete({ manager });
        throw new Error('told to roll back');
      });
    });
    await withApp({ ...database, queue: QUICK_POLL, providers: [Work] }, async (app) => {
      ({ dataSource } = app);
      await send(app, [0, 1]);
      await until(() => app.get(Work).runs.length >= 3, { what: 'it runs again, and the next' });
      await until(atRest, { what: 'the lane is at rest' });
      expect(answersLost).toBe(1);
    });
  });

  it('starts nothing behind a job whose lease ends by itself before its end is written', async () => {
    let stall: Promise<void> | null = null;
    const { opened, open } = gate();
    intercept(async (connection, send) => {
      if (roleOf(connection) === 'settle' && stall !== null) await stall;
      return send();
    });
    const starts: string[] = [];
    const Work = workWith({ ordered: true }, async (job) => {
      if (job.key !== 'a') return;
      starts.push(`${String(job.payload)} ${job.attempt}`);
      if (job.payload !== 'k') return;
      if (job.attempt > 1) return open();
      await job.keepAlive('300ms');
      stall = opened;
    });
    const queue = { ...QUICK_POLL, leaseMs: 1_000, prefetchMs: 1_000 };
    await withApp({ ...database, queue, providers: [Work] }, async (app) => {
      // So that runs of several jobs are claimed.
      await app.jobs.spawnMany(Array.from({ length: 12 }, (_, n) => ({ name: 'work', payload: n, key: `k${n}` })));
      await untilDone(tables);
      await send(app, ['k', 'k+1']);
      await until(atRest, { what: 'the lane is at rest' });
      expect(starts).toEqual(['k 1', 'k 2', 'k+1 1']);
    });
  });
});
