import { beforeEach, describe, expect, it } from '@jest/globals';
import { Global, Inject, Injectable, Module, type ModuleMetadata } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import {
  DuplicateInstanceError,
  getJobSpawnerToken,
  getQueueToken,
  InvalidOptionsError,
  JobHandler,
  JobSpawner,
  Queue,
  QueueModule,
  SchemaMissingError,
  UnsupportedDataSourceError,
  type Job,
  type QueueOptions,
  type QueueOptionsFactory,
} from 'nestmq';
import { queueMigrationsIn } from 'nestmq/migrations';
import type { DataSource } from 'typeorm';
import { boot, connect, failedBoot } from './support/boot.js';
import { createDatabase, useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';

const database = useDatabase();
const tables = useTables(database);
const connections = (url: string): Promise<number> =>
  tables.number(`SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name LIKE 'nestmq %'`, [
    new URL(url).pathname.slice(1),
  ]);

beforeEach(() => tables.sql('DELETE FROM nestmq.job'));

@Injectable()
class Mailer {
  readonly ran: unknown[] = [];

  @JobHandler('mail')
  welcome({ payload }: Job): void {
    this.ran.push(payload);
  }
}

/** What `until` is to wait for. */
const ran = (mailer: Mailer, payload: unknown): Parameters<typeof until> => [
  () => mailer.ran.includes(payload),
  { what: `the job ${String(payload)} has run` },
];

describe('forRoot', () => {
  it('takes @nestjs/typeorm’s DataSource by default, and needs no options', async () => {
    const { app, close } = await boot({
      imports: [TypeOrmModule.forRoot({ type: 'postgres', url: database.url }), QueueModule.forRoot()],
      providers: [Mailer],
    });
    await app.get(JobSpawner).spawn(Mailer, 'welcome', 1);
    await until(...ran(app.get(Mailer), 1));
    await close();
  });

  it('takes a DataSource by its name', async () => {
    const { app, close } = await boot({
      imports: [
        TypeOrmModule.forRoot({ type: 'postgres', url: database.url, name: 'second' }),
        QueueModule.forRoot({ dataSource: 'second' }),
      ],
      providers: [Mailer],
    });
    await app.get(JobSpawner).spawn(Mailer, 'welcome', 1);
    await until(...ran(app.get(Mailer), 1));
    await close();
  });

  it('takes a DataSource by an injection token', async () => {
    const TOKEN = Symbol('data source');
    @Global()
    @Module({
      providers: [{ provide: TOKEN, useFactory: () => connect(database.url) }],
      exports: [TOKEN],
    })
    class DatabaseModule {}
    const { app, close } = await boot({
      imports: [DatabaseModule, QueueModule.forRoot({ dataSource: TOKEN })],
      providers: [Mailer],
    });
    await app.get(JobSpawner).spawn(Mailer, 'welcome', 1);
    await until(...ran(app.get(Mailer), 1));
    await close();
  });

  it('takes a DataSource itself, without @nestjs/typeorm, and leaves it open', async () => {
    const dataSource = await connect(database.url);
    const { app, close } = await boot({ imports: [QueueModule.forRoot({ dataSource })], providers: [Mailer] });
    await app.get(JobSpawner).spawn(Mailer, 'welcome', 1);
    await until(...ran(app.get(Mailer), 1));
    await close();
    expect(await dataSource.query('SELECT 1 AS one')).toEqual([{ one: 1 }]);
  });

  it('can be injected in every module unless it is told not to be global', async () => {
    const dataSource = await connect(database.url);
    @Injectable()
    class Shop {
      constructor(@Inject(JobSpawner) readonly jobs: JobSpawner) {}
    }
    @Module({ providers: [Shop] })
    class ShopModule {}
    const global = await boot({ imports: [QueueModule.forRoot({ dataSource }), ShopModule] });
    expect(global.app.get(Shop, { strict: false }).jobs).toBe(global.app.get(JobSpawner));
    await global.close();
    const error = await failedBoot({ imports: [QueueModule.forRoot({ dataSource, isGlobal: false }), ShopModule] });
    expect(error.message).toContain('JobSpawner');
  });
});

describe('forRootAsync', () => {
  @Injectable()
  class Options implements QueueOptionsFactory {
    async createQueueOptions(): Promise<QueueOptions> {
      return { maxPayloadBytes: 100, runner: false };
    }
  }
  @Module({ providers: [Options], exports: [Options] })
  class OptionsModule {}

  it.each<[string, Omit<Parameters<typeof QueueModule.forRootAsync>[0], 'dataSource'>]>([
    ['useFactory', { useFactory: async () => ({ maxPayloadBytes: 100, runner: false }) }],
    [
      'useFactory with dependencies',
      {
        imports: [OptionsModule],
        inject: [Options],
        useFactory: (options: Options) => options.createQueueOptions(),
      },
    ],
    ['useClass', { useClass: Options }],
    ['useExisting', { imports: [OptionsModule], useExisting: Options }],
  ])('takes its options from %s', async (_, options) => {
    const dataSource = await connect(database.url);
    const { app, close } = await boot({
      imports: [QueueModule.forRootAsync({ dataSource, ...options })],
      providers: [Mailer],
    });
    await expect(app.get(JobSpawner).spawn(Mailer, 'welcome', 'x'.repeat(99))).rejects.toMatchObject({ maxBytes: 100 });
    await close();
  });

  it('checks the options that it is given', async () => {
    const dataSource = await connect(database.url);
    const imports = [QueueModule.forRootAsync({ dataSource, useFactory: () => ({ pollMs: 5 }) })];
    expect(await failedBoot({ imports })).toMatchObject({ code: 'invalid_options', option: 'pollMs' });
  });

  it('needs a source of options', () => {
    expect(() => QueueModule.forRootAsync({})).toThrow(InvalidOptionsError);
    expect(() => QueueModule.forRootAsync({})).toThrow('Give one of useFactory, useClass and useExisting');
    const both = { useFactory: () => ({}), useExisting: 'somewhere' };
    expect(() => QueueModule.forRootAsync(both)).toThrow('is "2 ways"');
  });
});

describe('wrong options', () => {
  it.each<[string, unknown, RegExp]>([
    ['pollMs', 5, /is 5\. Give a whole number from 100 to 60000/],
    ['leaseMs', '10s', /is "10s"\. Give a whole number from 1000 to 600000/],
    ['concurrency', { min: 5, max: 2 }, /"concurrency.min" is 5\. Give at most `concurrency.max`, 2/],
    ['schema', 'Robert"; DROP', /lower-case identifier of at most 40/],
    ['maxPayloadBytes', 0, /from 1 to 67108864/],
    ['name', 'with space', /1 to 64 letters, digits, dashes and underscores/],
    ['name', '', /1 to 64 letters/],
    ['channels', 'mail', /array of channel names/],
    ['pollInterval', 5, /There is no such option. Known: /],
  ])('fail at once: %s %p, with the value got and the cure', (option, value, cure) => {
    const declare = (): unknown => QueueModule.forRoot({ [option]: value });
    expect(declare).toThrow(InvalidOptionsError);
    expect(declare).toThrow(cure);
  });

  it('of a handler fail the boot, naming the method', async () => {
    class Wrong {
      @JobHandler('mail', { retries: -1 })
      work(_job: Job): void {}
    }
    const dataSource = await connect(database.url);
    const error = await failedBoot({ imports: [QueueModule.forRoot({ dataSource })], providers: [Wrong] });
    expect(error).toBeInstanceOf(InvalidOptionsError);
    expect(error.message).toBe(
      'Option "Wrong.work: retries" is -1. Give a whole number from 0 to 1000000, or Infinity.',
    );
  });
});

describe('a boot fails with one clear error', () => {
  it('when forRoot was imported twice under one name', async () => {
    const dataSource = await connect(database.url);
    const imports = [QueueModule.forRoot({ dataSource }), QueueModule.forRoot({ dataSource, pollMs: 500 })];
    const error = await failedBoot({ imports });
    expect(error).toBeInstanceOf(DuplicateInstanceError);
    expect(error.message).toContain('twice for the instance "default"');
  });

  it.each(['default', 'billing'])('when forRoot was imported twice with the same options, as %s', async (name) => {
    const dataSource = await connect(database.url);
    const options = { dataSource, name, pollMs: 500 };
    @Module({ imports: [QueueModule.forRoot(options)] })
    class ShopModule {}
    const error = await failedBoot({ imports: [QueueModule.forRoot(options), ShopModule] });
    expect(error).toBeInstanceOf(DuplicateInstanceError);
  });

  it.each<[string, unknown, RegExp]>([
    ['SQLite', { options: { type: 'better-sqlite3' }, createQueryRunner: () => null }, /is "better-sqlite3"/],
    ['MySQL', { options: { type: 'mysql' }, createQueryRunner: () => null }, /is "mysql"/],
    ['CockroachDB', { options: { type: 'cockroachdb' }, createQueryRunner: () => null }, /is "cockroachdb"/],
  ])('when the DataSource is one of %s', async (_, dataSource, message) => {
    const imports = [QueueModule.forRoot({ dataSource: dataSource as DataSource })];
    const error = await failedBoot({ imports });
    expect(error).toBeInstanceOf(UnsupportedDataSourceError);
    expect(error.message).toMatch(message);
    expect(error.message).toContain('needs a DataSource of type "postgres"');
  });

  it('when the DataSource by value is not initialized yet', async () => {
    const dataSource = await connect(database.url);
    await dataSource.destroy();
    const error = await failedBoot({ imports: [QueueModule.forRoot({ dataSource })] });
    expect(error.message).toMatch(/initialize/i);
  });

  it('when the migration is missing: it tells the command', async () => {
    const empty = await createDatabase();
    const dataSource = await connect(empty.url);
    const error = await failedBoot({ imports: [QueueModule.forRoot({ dataSource })], providers: [Mailer] });
    expect(error).toBeInstanceOf(SchemaMissingError);
    expect(error.message).toContain('The tables of nestmq are not in schema "nestmq"');
    expect(error.message).toContain('npx typeorm migration:run');
    await until(async () => (await connections(empty.url)) === 0, { what: 'the failed boot has left no connection' });
    await dataSource.destroy();
    await empty.drop();
  });

  it('when the tables are in another schema, or of another version', async () => {
    const dataSource = await connect(database.url);
    const elsewhere = await failedBoot({ imports: [QueueModule.forRoot({ dataSource, schema: 'billing' })] });
    expect(elsewhere.message).toContain('not in schema "billing"');
    await tables.sql(`COMMENT ON TABLE nestmq.job IS 'nestmq schema 0'`);
    const older = await failedBoot({ imports: [QueueModule.forRoot({ dataSource })] });
    await tables.sql(`COMMENT ON TABLE nestmq.job IS 'nestmq schema 2'`);
    expect(older).toBeInstanceOf(SchemaMissingError);
    expect(older.message).toContain('nestmq schema 0');
  });
});

describe('named instances', () => {
  @Injectable()
  class Billing {
    readonly ran: unknown[] = [];

    @JobHandler('shared', { instance: 'billing' })
    charge({ payload }: Job): void {
      this.ran.push(payload);
    }
  }

  @Injectable()
  class Main {
    readonly ran: unknown[] = [];

    @JobHandler('shared')
    work({ payload }: Job): void {
      this.ran.push(payload);
    }
  }

  @Injectable()
  class Shop {
    constructor(
      @Inject(JobSpawner) readonly jobs: JobSpawner,
      @Inject(getJobSpawnerToken('billing')) readonly billing: JobSpawner,
      @Inject(getQueueToken('billing')) readonly billingQueue: Queue,
    ) {}
  }

  it('on two DataSources, databases and schemas never run each other’s jobs', async () => {
    const second = await createDatabase();
    const billingSource = await connect(second.url, { migrations: queueMigrationsIn('billing_queue') });
    await billingSource.runMigrations();
    const { app, close } = await boot({
      imports: [
        QueueModule.forRoot({ dataSource: await connect(database.url) }),
        QueueModule.forRoot({ name: 'billing', dataSource: billingSource, schema: 'billing_queue' }),
      ],
      providers: [Billing, Main, Shop],
    });
    const shop = app.get(Shop);
    await shop.billing.spawn(Billing, 'charge', 'to billing');
    await shop.jobs.spawn(Main, 'work', 'to main');
    await until(() => app.get(Billing).ran.length + app.get(Main).ran.length === 2, { what: 'both have run' });
    expect(app.get(Billing).ran).toEqual(['to billing']);
    expect(app.get(Main).ran).toEqual(['to main']);
    await close();
    await billingSource.destroy();
    await second.drop();
  });

  it('in two schemas of one database never run each other’s jobs, nor hear each other’s wake-ups', async () => {
    const dataSource = await connect(database.url, { migrations: queueMigrationsIn('billing_queue') });
    await dataSource.runMigrations();
    const options = { dataSource, pollMs: 60_000 };
    const { app, close } = await boot({
      imports: [
        QueueModule.forRoot(options),
        QueueModule.forRoot({ ...options, name: 'billing', schema: 'billing_queue' }),
      ],
      providers: [Billing, Main, Shop],
    });
    const shop = app.get(Shop);
    await dataSource.transaction(async (manager) => {
      await shop.billing.spawn(Billing, 'charge', 'to billing', { manager });
      await shop.jobs.spawn(Main, 'work', 'to main', { manager });
    });
    await until(() => app.get(Billing).ran.length + app.get(Main).ran.length === 2, { what: 'both have run' });
    expect(app.get(Billing).ran).toEqual(['to billing']);
    expect(app.get(Main).ran).toEqual(['to main']);
    await until(async () => (await tables.number('SELECT count(*) FROM nestmq.job')) === 0, {
      what: 'the end is written',
    });
    await close();
    await tables.sql('DROP SCHEMA billing_queue CASCADE');
  });

  it('refuse to send to a handler of the other one', async () => {
    const dataSource = await connect(database.url);
    const imports = [QueueModule.forRoot({ dataSource, runner: false })];
    const { app, close } = await boot({ imports, providers: [Billing, Main] });
    await expect(app.get(JobSpawner).spawn('Billing.charge', 1)).rejects.toMatchObject({ code: 'unknown_job' });
    await expect(app.get(JobSpawner).spawn(Billing, 'charge', 1)).rejects.toMatchObject({ code: 'unknown_job' });
    await close();
  });

  it('have tokens of their own; the unnamed one is the class', () => {
    expect(getJobSpawnerToken()).toBe(JobSpawner);
    expect(getQueueToken('default')).toBe(Queue);
    expect(getJobSpawnerToken('billing')).not.toBe(getJobSpawnerToken('shop'));
  });
});

describe('a process that only sends', () => {
  it('needs the class of a handler, no instance of it, and opens one connection at most', async () => {
    const before = await connections(database.url);
    const dataSource = await connect(database.url);
    const { app, close } = await boot({ imports: [QueueModule.forRoot({ dataSource, runner: false })] });
    const { id } = await app.get(JobSpawner).spawn(Mailer, 'welcome', 'from afar');
    expect(await app.get(Queue).get(id)).toMatchObject({ name: 'Mailer.welcome', channel: 'mail', state: 'waiting' });
    expect(await connections(database.url)).toBe(before + 1);
    await close();
  });

  it('does so too by having no handlers', async () => {
    const before = await connections(database.url);
    const dataSource = await connect(database.url);
    const { app, logged, close } = await boot({ imports: [QueueModule.forRoot({ dataSource })] });
    await app.get(JobSpawner).spawn(Mailer, 'welcome', 1);
    expect(logged).toContain('log: No job handlers here: this process only sends jobs.');
    expect(await connections(database.url)).toBe(before + 1);
    await close();
  });
});

describe('close', () => {
  const resources = (): string[] =>
    process
      .getActiveResourcesInfo()
      .filter((kind) => kind !== 'Immediate')
      .toSorted();
  const application = async (): Promise<ModuleMetadata> => ({
    imports: [QueueModule.forRoot({ dataSource: await connect(database.url) })],
    providers: [Mailer],
  });

  it('leaves no timer, socket, thread, listener or connection', async () => {
    const metadata = await application();
    const before = resources();
    const connected = await connections(database.url);
    const listeners = process.eventNames().map((name) => [name, process.listenerCount(name)]);
    const { app, close } = await boot(metadata);
    await app.get(JobSpawner).spawn(Mailer, 'welcome', 1);
    await until(...ran(app.get(Mailer), 1));
    expect(resources().length).toBeGreaterThan(before.length);
    expect(await connections(database.url)).toBeGreaterThan(connected + 1);
    await close();
    await until(() => resources().join() === before.join(), { what: `only ${before.join()} is left` });
    expect(process.eventNames().map((name) => [name, process.listenerCount(name)])).toEqual(listeners);
    await until(async () => (await connections(database.url)) === connected, { what: 'no connection is left' });
    expect(await tables.number('SELECT count(*) FROM nestmq.runner')).toBe(0);
    expect(await tables.number('SELECT count(*) FROM nestmq.lease')).toBe(0);
  });

  it('works at once after the boot, without any work', async () => {
    const connected = await connections(database.url);
    for (const _ of [1, 2, 3]) await (await boot(await application())).close();
    await until(async () => (await connections(database.url)) === connected, { what: 'no connection is left' });
    expect(await tables.number('SELECT count(*) FROM nestmq.runner')).toBe(0);
  });

  it('completes the events', async () => {
    const { app, close } = await boot(await application());
    let completed = false;
    app.get(Queue).events.subscribe({ complete: () => (completed = true) });
    await close();
    expect(completed).toBe(true);
  });
});

describe('several applications in one process', () => {
  it('share the work, each job runs once, and one goes on when the other is closed', async () => {
    const start = async () =>
      boot({ imports: [QueueModule.forRoot({ dataSource: await connect(database.url) })], providers: [Mailer] });
    const [first, second] = [await start(), await start()];
    const mailers = [first.app.get(Mailer), second.app.get(Mailer)];
    const all = (): unknown[] => mailers.flatMap((mailer) => mailer.ran);
    const items = Array.from({ length: 500 }, (_, payload) => ({ payload }));
    await first.app.get(JobSpawner).spawnMany(Mailer, 'welcome', items);
    await until(() => all().length >= 500, { what: 'all have run' });
    await first.close();
    await second.app.get(JobSpawner).spawn(Mailer, 'welcome', 'afterwards');
    await until(...ran(mailers[1]!, 'afterwards'));
    expect(new Set(all()).size).toBe(501);
    expect(all()).toHaveLength(501);
    await second.close();
  });
});
