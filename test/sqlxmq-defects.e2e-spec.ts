import { beforeEach, describe, expect, it } from '@jest/globals';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';
import { startWorker } from './support/workers.js';

// Defects that sqlxmq is known for, each shown to be absent, where no other file of ours does.

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

describe('an exhausted job', () => {
  it('is dead, counted and read with its history, and told from one that runs its last attempt', async () => {
    const { opened, open } = gate();
    const Work = workWith({ retries: 1, backoff: 0 }, ({ payload, attempt }) => {
      if (payload === 'fails' || attempt === 1) throw new Error(`run ${attempt} failed`);
      return opened;
    });
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const [fails, runs] = await app.jobs.spawnMany(['fails', 'runs'].map((payload) => ({ name: 'work', payload })));
    await until(() => app.events.some(({ type }) => type === 'dead'), { what: 'one is dead' });
    await until(() => app.get(Work).runs.length === 4, { what: 'the other is on its last attempt' });
    expect(await app.queue.stats()).toMatchObject([{ channel: 'work', running: 1, dead: 1 }]);
    const [dead, running] = await Promise.all([fails, runs].map((job) => app.queue.get(job!.id)));
    expect(dead).toMatchObject({ state: 'dead', reason: 'exhausted', attempts: 2, payload: 'fails', runner: null });
    expect(dead!.lastError).toContain('run 2 failed');
    expect(dead!.finishedAt).toBeInstanceOf(Date);
    expect(running).toMatchObject({ state: 'running', reason: null, attempts: 2, finishedAt: null });
    expect(running!.lastError).toContain('run 1 failed');
    open();
    await untilDone(tables);
    await app.close();
  });
});

describe('a job on its last attempt', () => {
  it('keeps its lease like any other, and when its process dies that is written down', async () => {
    const Work = workWith();
    // Watches the other process, and would rescue the job, but does not run it.
    const app = await startApp({ ...database, queue: { leaseMs: 2_000, channels: ['elsewhere'] }, providers: [Work] });
    const worker = await startWorker(database.url, { LEASE_MS: '2000' });
    const { id } = await app.jobs.spawn('work', 'hang', { retries: 0 });
    const runner = await until(() => app.queue.get(id).then((job) => job?.runner), { what: 'somebody has it' });
    // Eight beats are two leases.
    const beats = () => tables.number('SELECT beat FROM nestmq.runner WHERE id = $1', [runner]);
    const first = await beats();
    await until(async () => (await beats()) >= first + 8, { what: 'two leases have passed' });
    expect(await app.queue.get(id)).toMatchObject({ state: 'running', attempts: 1, maxAttempts: 1, runner });
    await worker.kill();
    await until(() => app.queue.get(id).then((job) => job?.state === 'dead'), {
      what: 'its end is known',
    });
    expect(await app.queue.get(id)).toMatchObject({ reason: 'lease expired', attempts: 1 });
    await app.close();
  });
});

describe('a job that fails quickly', () => {
  it('is retried after its backoff, however long a lease is', async () => {
    const Work = workWith({ backoff: 0 }, ({ attempt }) => {
      if (attempt < 3) throw new Error('once more');
    });
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, leaseMs: 600_000 }, providers: [Work] });
    await app.jobs.spawn('work');
    await untilDone(tables);
    expect(app.get(Work).runs.map(({ attempt }) => attempt)).toEqual([1, 2, 3]);
    await app.close();
  });

  it('for the thousand millionth time waits no longer than its backoff’s max', async () => {
    const Work = workWith({ retries: Infinity }, () => Promise.reject(new Error('again')));
    const app = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    const { id } = await app.jobs.spawn('work');
    await tables.sql('UPDATE nestmq.job SET attempt = 999999999');
    expect(await app.queue.runOne()).toMatchObject({
      id,
      attempt: 1_000_000_000,
      outcome: 'retrying',
      delayMs: 900_000,
    });
    expect(await app.queue.get(id)).toMatchObject({ state: 'waiting', attempts: 1_000_000_000 });
    await app.close();
  });
});

describe('the schema', () => {
  it('has no function, trigger, rule or type of its own: an upgrade is TypeORM migrations and nothing to copy', async () => {
    const found = await tables.sql(`
      SELECT 'function' AS kind, proname::text AS name FROM pg_proc WHERE pronamespace = 'nestmq'::regnamespace
      UNION ALL
      SELECT 'trigger', tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
      WHERE relnamespace = 'nestmq'::regnamespace
      UNION ALL
      SELECT 'rule', rulename FROM pg_rules WHERE schemaname = 'nestmq'
      UNION ALL
      SELECT 'type', typname FROM pg_type
      WHERE typnamespace = 'nestmq'::regnamespace AND typtype <> 'c' AND typelem = 0
      UNION ALL
      SELECT 'view', viewname FROM pg_views WHERE schemaname = 'nestmq'`);
    expect(found).toEqual([]);
    expect(await tables.number(`SELECT count(*) FROM pg_tables WHERE schemaname = 'nestmq'`)).toBeGreaterThan(5);
  });
});
