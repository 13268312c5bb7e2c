import type { MigrationInterface, QueryRunner } from 'typeorm';

const TABLES = {
  import_run: `
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    starts integer NOT NULL DEFAULT 1,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()`,
  import_file: `
    file text PRIMARY KEY,
    job_id bigint NOT NULL,
    total integer NOT NULL`,
  import_batch: `
    file text NOT NULL,
    first_record integer NOT NULL,
    rows integer NOT NULL,
    attempt integer NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (file, first_record)`,
  place: `
    record integer PRIMARY KEY,
    name text NOT NULL,
    country char(2) NOT NULL,
    region text,
    latitude double precision NOT NULL,
    longitude double precision NOT NULL`,
  district: `
    record integer PRIMARY KEY,
    code text NOT NULL,
    name text NOT NULL,
    country char(2) NOT NULL`,
  region: `
    record integer PRIMARY KEY,
    code text NOT NULL,
    name text NOT NULL,
    country char(2) NOT NULL`,
  country: `
    code char(2) PRIMARY KEY,
    name text NOT NULL,
    places integer NOT NULL,
    districts integer NOT NULL,
    regions integer NOT NULL,
    seq integer NOT NULL`,
  country_step: `
    country char(2) NOT NULL,
    seq integer NOT NULL,
    file text NOT NULL,
    first_record integer NOT NULL,
    rows integer NOT NULL,
    attempt integer NOT NULL,
    added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (country, seq)`,
  rejected_record: `
    file text NOT NULL,
    record integer NOT NULL,
    job_id bigint NOT NULL,
    PRIMARY KEY (file, record)`,
  app_user: `
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text NOT NULL UNIQUE,
    welcomed_at timestamptz`,
};

/** The application's own tables, in its own schema. */
export class CreateDemoTables implements MigrationInterface {
  readonly name = 'CreateDemoTables1764100000000';

  /** TypeORM takes no lock: of two processes that start at once the second waits here, and finds the tables. */
  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`SELECT pg_advisory_xact_lock(hashtextextended('nestmq demo migration', 0))`);
    for (const [table, columns] of Object.entries(TABLES)) {
      await runner.query(`CREATE TABLE IF NOT EXISTS ${table} (${columns})`);
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const table of Object.keys(TABLES)) await runner.query(`DROP TABLE IF EXISTS ${table}`);
  }
}
