import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { JobHandler, JobSpawner, QueueModule, type Job } from 'nestmq';
import { migrate, queueMigrations, queueMigrationsIn, type MigrationClass } from 'nestmq/migrations';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { boot, connect } from './support/boot.js';
import { startChild } from './support/child.js';
import { createDatabase, type TestDatabase } from './support/database.js';
import { until } from './support/until.js';

let database: TestDatabase;
let admin: DataSource;
beforeEach(async () => {
  database = await createDatabase();
  admin = await new DataSource({ type: 'postgres', url: database.url }).initialize();
});
afterEach(async () => {
  jest.restoreAllMocks();
  await admin.destroy();
  await database.drop();
});

const withMigrations = (migrations: readonly MigrationClass[]): Promise<DataSource> =>
  connect(database.url, { migrations: [...migrations] });

/** Everything that the catalog says of a schema, in one text. */
async function dump(schema: string): Promise<unknown> {
  const [{ dump: text }] = await admin.query<[{ dump: string }]>(
    `SELECT json_build_object(
      'columns', (SELECT json_agg(c ORDER BY c.table_name, c.ordinal_position) FROM (
        SELECT table_name, ordinal_position, column_name, data_type, collation_name, column_default, is_nullable, is_identity
        FROM information_schema.columns WHERE table_schema = $1) AS c),
      'indexes', (SELECT json_agg(indexdef ORDER BY indexdef) FROM pg_indexes WHERE schemaname = $1),
      'constraints', (SELECT json_agg(pg_get_constraintdef(oid) ORDER BY conrelid::regclass::text, conname) FROM pg_constraint
        WHERE connamespace = to_regnamespace($1)),
      'relations', (SELECT json_agg(json_build_object('name', relname, 'kind', relkind, 'options', reloptions,
        'comment', obj_description(oid, 'pg_class')) ORDER BY relname) FROM pg_class WHERE relnamespace = to_regnamespace($1)),
      'functions', (SELECT json_agg(proname) FROM pg_proc WHERE pronamespace = to_regnamespace($1)),
      'types', (SELECT json_agg(typname ORDER BY typname) FROM pg_type WHERE typnamespace = to_regnamespace($1))
    )::text AS dump`,
    [schema],
  );
  return JSON.parse(text);
}

const schemas = async (): Promise<string[]> => {
  const rows = await admin.query<{ nspname: string }[]>(
    `SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' ORDER BY nspname`,
  );
  return rows.map(({ nspname }) => nspname);
};

const tablesOf = async (schema: string): Promise<string[]> => {
  const rows = await admin.query<{ tablename: string }[]>(
    `SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY tablename`,
    [schema],
  );
  return rows.map(({ tablename }) => tablename);
};

describe('up and down', () => {
  it('give the same schema after up, down and up again', async () => {
    const dataSource = await withMigrations(queueMigrations);
    await dataSource.runMigrations();
    const first = await dump('nestmq');
    await dataSource.undoLastMigration();
    expect(await schemas()).toEqual(['public']);
    await dataSource.runMigrations();
    expect(await dump('nestmq')).toEqual(first);
    expect(first).toMatchObject({ functions: null, columns: expect.any(Array), indexes: expect.any(Array) });
  });

  it('do nothing when they are run again', async () => {
    const dataSource = await withMigrations(queueMigrations);
    expect(await dataSource.runMigrations()).toHaveLength(queueMigrations.length);
    expect(await dataSource.runMigrations()).toEqual([]);
  });

  it('put nothing into the application’s schemas but TypeORM’s own table', async () => {
    const before = await dump('public');
    const dataSource = await withMigrations(queueMigrations);
    await dataSource.runMigrations();
    expect(await schemas()).toEqual(['nestmq', 'public']);
    expect(await tablesOf('public')).toEqual(['migrations']);
    await dataSource.undoLastMigration();
    await admin.query('DROP TABLE public.migrations');
    expect(await dump('public')).toEqual(before);
  });

  it('do not care for the search path of whoever migrates', async () => {
    await admin.query('CREATE SCHEMA application');
    const dataSource = await connect(database.url, {
      migrations: [...queueMigrations],
      schema: 'application',
      extra: { options: '-c search_path=application' },
    });
    await dataSource.runMigrations();
    expect(await tablesOf('application')).toEqual(['migrations']);
    expect(await tablesOf('nestmq')).toContain('job');
  });

  it('leave a table of the application in the schema alone, and the schema with it', async () => {
    const dataSource = await withMigrations(queueMigrations);
    await dataSource.runMigrations();
    await admin.query('CREATE TABLE nestmq.mine AS SELECT 1 AS one');
    await dataSource.undoLastMigration();
    expect(await tablesOf('nestmq')).toEqual(['mine']);
    expect(
      await admin.query<
        {
          tablename: string;
        }[]
      >('SELECT one FROM nestmq.mine'),
    ).toEqual([{ one: 1 }]);
    await dataSource.runMigrations();
    expect(await tablesOf('nestmq')).toContain('job');
  });

  it('go up in a schema that was there before', async () => {
    await admin.query('CREATE SCHEMA nestmq');
    const dataSource = await withMigrations(queueMigrations);
    await dataSource.runMigrations();
    expect(await tablesOf('nestmq')).toContain('job');
  });

  it('go down with jobs in the tables', async () => {
    const dataSource = await withMigrations(queueMigrations);
    await dataSource.runMigrations();
    await admin.query(`INSERT INTO nestmq.job (channel, name) VALUES ('a', 'b')`);
    await dataSource.undoLastMigration();
    expect(await schemas()).toEqual(['public']);
  });

  it('leave nothing half done when they fail', async () => {
    await admin.query('CREATE SCHEMA nestmq');
    await admin.query('CREATE TABLE nestmq.runner (mine int)');
    const dataSource = await withMigrations(queueMigrations);
    jest.spyOn(console, 'log').mockImplementation(() => undefined); // TypeORM tells it there too
    await expect(dataSource.runMigrations()).rejects.toThrow('already exists');
    expect(await tablesOf('nestmq')).toEqual(['runner']);
  });
});

describe('the name of the schema', () => {
  it('can be another one, beside the usual one, with the same tables', async () => {
    const dataSource = await withMigrations([...queueMigrations, ...queueMigrationsIn('billing_queue')]);
    await dataSource.runMigrations();
    expect(await schemas()).toEqual(['billing_queue', 'nestmq', 'public']);
    const named = JSON.stringify(await dump('billing_queue')).replaceAll('billing_queue', 'nestmq');
    expect(JSON.parse(named)).toEqual(await dump('nestmq'));
  });

  it('may have forty characters, and a queue works there', async () => {
    const schema = `q${'_'.repeat(38)}1`;
    const dataSource = await withMigrations(queueMigrationsIn(schema));
    await dataSource.runMigrations();

    @Injectable()
    class Mailer {
      ran = 0;

      @JobHandler('mail')
      welcome(_job: Job): void {
        this.ran += 1;
      }
    }
    const { app, close } = await boot({
      imports: [QueueModule.forRoot({ dataSource, schema, pollMs: 60_000 })],
      providers: [Mailer],
    });
    const jobs = app.get(JobSpawner);
    await jobs.spawn(Mailer, 'welcome', 1);
    await dataSource.transaction((manager) => jobs.spawn(Mailer, 'welcome', 2, { manager }));
    await until(() => app.get(Mailer).ran === 2, { what: 'both jobs have run' });
    await close();
  });

  it.each<[unknown]>([
    ['Nestmq'],
    ['my-queue'],
    ['1queue'],
    ['my queue'],
    ['a.b'],
    ['x; DROP SCHEMA public CASCADE'],
    ['"quoted"'],
    ['größe'],
    ['queue\n'],
    [''],
    ['x'.repeat(41)],
    [undefined],
    [null],
    [5],
    [['nestmq']],
  ])('is refused when it is %p', (schema) => {
    expect(() => queueMigrationsIn(schema as string)).toThrow(TypeError);
    expect(() => queueMigrationsIn(schema as string)).toThrow('is not a lower-case identifier of at most 40');
  });
});

describe('several processes that migrate at once', () => {
  it('all succeed by migrate(), ten of them on an empty database, and the migration is recorded once', async () => {
    const children = Array.from({ length: 10 }, () => startChild('migrate.ts', { DATABASE: database.url }));
    await Promise.all(children.map((child) => child.message<{ ready: true }>(({ ready }) => ready, 'it is connected')));
    for (const child of children) child.send('go');
    const isEnd = (message: object): boolean => 'migrated' in message || 'failed' in message;
    const ends = await Promise.all(children.map((child) => child.message<object>(isEnd, 'it has migrated')));
    expect(ends).toEqual(children.map(() => ({ migrated: true })));
    await Promise.all(children.map((child) => child.exit()));
    expect(await admin.query('SELECT count(*)::int AS count FROM migrations')).toEqual([
      { count: queueMigrations.length },
    ]);
    expect(await tablesOf('nestmq')).toContain('job');
  });

  it('all succeed where TypeORM’s own table exists, by runMigrations too', async () => {
    const dataSources = await Promise.all(Array.from({ length: 10 }, () => withMigrations(queueMigrations)));
    // What makes TypeORM create its table, without a migration of ours.
    const other = await connect(database.url, { migrations: [] });
    await other.runMigrations();
    await Promise.all(dataSources.map((dataSource) => dataSource.runMigrations()));
    const together = await dump('nestmq');
    await Promise.all(dataSources.slice(1).map((dataSource) => dataSource.destroy()));
    await dataSources[0]!.undoLastMigration();
    await migrate(dataSources[0]!);
    expect(await dump('nestmq')).toEqual(together);
  });

  it('change nothing by a second migrate(), which leaves no lock behind', async () => {
    const dataSource = await withMigrations(queueMigrations);
    await migrate(dataSource);
    const first = await dump('nestmq');
    await migrate(dataSource);
    expect(await dump('nestmq')).toEqual(first);
    const locks = await admin.query(
      `SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = database WHERE locktype = 'advisory' AND datname = current_database()`,
    );
    expect(locks).toEqual([]);
  });
});

describe('an application with migrationsRun', () => {
  it('boots on an empty database', async () => {
    @Injectable()
    class Mailer {
      ran = 0;

      @JobHandler('mail')
      welcome(_job: Job): void {
        this.ran += 1;
      }
    }
    const migrations = [...queueMigrations];
    const { app, close } = await boot({
      imports: [
        TypeOrmModule.forRoot({ type: 'postgres', url: database.url, migrations, migrationsRun: true }),
        QueueModule.forRoot(),
      ],
      providers: [Mailer],
    });
    await app.get(JobSpawner).spawn(Mailer, 'welcome', 1);
    await until(() => app.get(Mailer).ran === 1, { what: 'the job has run' });
    await close();
  });
});
