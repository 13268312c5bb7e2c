import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import pg from 'pg';
import { boot } from './support/boot.js';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { silencingProxy } from './support/silencing-proxy.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith } from './support/work.js';
import { TypeOrmModule } from '@nestjs/typeorm';
import { QueueModule } from 'nestmq';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());
afterEach(() => void jest.restoreAllMocks());

const told = (app: TestApp, type: string): boolean => app.events.some((event) => event.type === type);
const listens = (app: TestApp): Promise<boolean> => until(() => told(app, 'listening'), { what: 'it is listening' });
const completed = (app: TestApp, count = 1): Promise<boolean> =>
  until(() => app.events.filter(({ type }) => type === 'completed').length >= count, {
    what: `${count} are completed`,
  });

interface Sent {
  readonly text: string;
  readonly name: string | undefined;
}

/** What this process sends to Postgres from now on: text and name of each statement. */
function recordStatements(): Sent[] {
  const sent: Sent[] = [];
  const send: (...given: unknown[]) => unknown = Reflect.get(pg.Client.prototype, 'query');
  jest.spyOn(pg.Client.prototype, 'query').mockImplementation(function (this: pg.Client, ...given: unknown[]) {
    const [first] = given as [string | { text: string; name?: string }];
    sent.push(typeof first === 'string' ? { text: first, name: undefined } : { text: first.text, name: first.name });
    return send.apply(this, given) as never;
  });
  return sent;
}

/** Jobs that complete, fail, are kept and are spawned in a transaction: every statement of the ordinary day. */
async function ordinaryDay(preparedStatements: boolean): Promise<Sent[]> {
  const sent = recordStatements();
  const Work = workWith({ retries: 0, retention: '1h' }, (job) => {
    if (job.payload === 'fail') throw new Error('told to fail');
  });
  const app = await startApp({ ...database, queue: { ...POLLING_OFF, preparedStatements }, providers: [Work] });
  await listens(app);
  await app.jobs.spawn('work', 'fail');
  await app.dataSource.transaction((manager) => app.jobs.spawn('work', 'good', { manager }));
  await completed(app);
  await until(() => told(app, 'dead'), { what: 'the other one is dead' });
  await app.queue.stats();
  await app.close();
  return sent;
}

describe('statements', () => {
  it('are named ones, and none with preparedStatements: false', async () => {
    const names = (sent: Sent[]): string[] => sent.flatMap(({ name }) => name ?? []);
    expect(names(await ordinaryDay(true)).length).toBeGreaterThan(5);
    jest.restoreAllMocks();
    expect(names(await ordinaryDay(false))).toEqual([]);
  });

  it('open every transaction of the engine as READ COMMITTED, and set nothing that outlives it', async () => {
    const texts = (await ordinaryDay(true)).map(({ text }) => text.trim());
    const begins = texts.filter((text) => /^(begin|start transaction)\b/i.test(text));
    expect(begins.filter((text) => /read committed/i.test(text)).length).toBeGreaterThan(3);
    // The one that says nothing is the test's own, by dataSource.transaction().
    // Those that read one moment say so.
    const others = begins.filter((text) => !/read committed|repeatable read read only/i.test(text));
    expect(others).toEqual(['START TRANSACTION']);
    const lasting = texts.filter(
      (text) => /\bset (?!local\b|transaction\b)(session )?\w+ *(=|to\b)/i.test(text) && !/update/i.test(text),
    );
    expect(lasting).toEqual([]);
    expect(
      texts.filter((text) => /pg_advisory_lock\b|pg_try_advisory_lock\b|set_config\([^)]*false\)/i.test(text)),
    ).toEqual([]);
  });
});

describe('many jobs', () => {
  /** Puts them there before the runner is, so that it meets them all at once. */
  async function preload(count: number, Work: ReturnType<typeof workWith>): Promise<void> {
    const sender = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    await sender.jobs.spawnMany(Array.from({ length: count }, () => ({ name: 'work', payload: null })));
    await sender.close();
  }

  it('are claimed by one statement, as many as bring a runner to its maximum', async () => {
    const { opened, open } = gate();
    const Work = workWith({}, () => opened);
    await preload(40, Work);
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    await until(() => app.get(Work).runs.length === 32, { what: 'the maximum runs' });
    expect(await tables.sql('SELECT cardinality(job_ids) AS jobs FROM nestmq.lease')).toEqual([{ jobs: 32 }]);
    open();
    await completed(app, 40);
    await app.close();
  });

  it('are settled together: far fewer statements than jobs', async () => {
    const sent = recordStatements();
    const Work = workWith();
    await preload(1_000, Work);
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    await completed(app, 1_000);
    await app.close();
    const settlements = sent.filter(({ name }) => name?.includes('.complete_jobs_'));
    expect(settlements.length).toBeGreaterThan(0);
    expect(settlements.length).toBeLessThan(500);
  });
});

describe('the connections of a runner', () => {
  it('are five at most, and handlers that hold all of the application’s pool do not keep others from running', async () => {
    const { opened, open } = gate();
    const holding: string[] = [];
    const Work = workWith({}, async (job) => {
      if (job.payload !== 'hold') return;
      const holder = app.dataSource.createQueryRunner();
      await holder.connect();
      holding.push(job.id);
      await opened;
      await holder.release();
    });
    const app = await startApp({
      ...database,
      queue: POLLING_OFF,
      providers: [Work],
      typeorm: { poolSize: 2 },
    });
    await app.jobs.spawnMany(['hold', 'hold'].map((payload) => ({ name: 'work', payload })));
    await until(() => holding.length === 2, { what: 'the pool is used up' });
    await app.jobs.spawn('work', 'third');
    await completed(app);
    const own = await tables.sql<{ role: string }>(`SELECT application_name AS role FROM pg_stat_activity
      WHERE datname = current_database() AND application_name LIKE 'nestmq %'`);
    expect(own.length).toBeGreaterThan(2);
    expect(own.length).toBeLessThanOrEqual(5);
    open();
    await completed(app, 3);
    await app.close();
  });

  it('let claims go on while pruning waits for a lock', async () => {
    const Work = workWith();
    const app = await startApp({ ...database, queue: { ...POLLING_OFF, pruneEvery: 100 }, providers: [Work] });
    await listens(app);
    const locker = new pg.Client({ connectionString: database.url });
    await locker.connect();
    try {
      await locker.query('BEGIN; LOCK TABLE nestmq.finished_job');
      await until(
        () =>
          tables.number(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND application_name LIKE 'nestmq %' AND wait_event_type = 'Lock'`),
        { what: 'the pruning waits' },
      );
      await app.jobs.spawn('work');
      await completed(app);
    } finally {
      await locker.end();
    }
    await app.close();
  });
});

describe('listenUrl', () => {
  it('is where LISTEN goes, while everything else goes with the DataSource', async () => {
    const role = `listener_${process.pid}`;
    await tables.sql(`CREATE ROLE ${role} LOGIN`);
    await tables.sql(`GRANT USAGE ON SCHEMA nestmq TO ${role}`);
    await tables.sql(`GRANT ALL ON ALL TABLES IN SCHEMA nestmq TO ${role}`);
    const listenUrl = new URL(database.url);
    listenUrl.username = role;
    const Work = workWith();
    const app = await startApp({
      ...database,
      queue: { ...POLLING_OFF, listenUrl: listenUrl.href },
      providers: [Work],
    });
    await listens(app);
    await app.jobs.spawn('work');
    await completed(app);
    const roles = await tables.sql(
      `SELECT DISTINCT application_name AS name FROM pg_stat_activity WHERE usename = $1`,
      [role],
    );
    expect(roles).toEqual([{ name: 'nestmq listen' }]);
    await app.close();
    await tables.sql(`DROP OWNED BY ${role}`);
    await tables.sql(`DROP ROLE ${role}`);
  });

  it('that nobody answers leaves a runner that polls, and says so', async () => {
    const Work = workWith();
    const app = await startApp({
      ...database,
      queue: { pollMs: 100, listenUrl: 'postgres://127.0.0.1:1/nowhere' },
      providers: [Work],
    });
    await listens(app);
    expect(app.events.find(({ type }) => type === 'listening')).toMatchObject({ listening: false });
    await tables.sql(`INSERT INTO nestmq.job (channel, name) VALUES ('work', 'work')`);
    await completed(app);
    await app.close();
  });
});

describe('a pooler that swallows notifications', () => {
  it('is noticed and told of, and jobs are found by polling', async () => {
    const proxy = await silencingProxy(database.url);
    try {
      const Work = workWith();
      const queue = { pollMs: 100, listenUrl: proxy.url };
      const app = await startApp({ ...database, queue, providers: [Work] });
      await until(() => told(app, 'listening'), { what: 'it is noticed' });
      expect(app.events.filter(({ type }) => type === 'listening')).toEqual([{ type: 'listening', listening: false }]);
      expect(proxy.swallowed()).toBeGreaterThan(0);
      await tables.sql(`INSERT INTO nestmq.job (channel, name) VALUES ('work', 'work')`);
      await completed(app);
      await app.close();
    } finally {
      await proxy.close();
    }
  });
});

describe('a runner without shutdown hooks', () => {
  it('says so once', async () => {
    const listenerCount = process.listenerCount.bind(process);
    jest
      .spyOn(process, 'listenerCount')
      .mockImplementation(((name: string) => (/^SIG(TERM|INT)$/.test(name) ? 0 : listenerCount(name))) as never);
    const { logged, close } = await boot({
      imports: [TypeOrmModule.forRoot({ type: 'postgres', url: database.url }), QueueModule.forRoot()],
      providers: [workWith()],
    });
    const warnings = () => logged.filter((line) => /^warn.*enableShutdownHooks/.test(line));
    await until(() => warnings().length, { what: 'it is said' });
    await close();
    expect(warnings()).toHaveLength(1);
  });
});
