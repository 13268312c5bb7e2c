import type { MigrationInterface, QueryRunner } from 'typeorm';

const TABLES = {
  import_run: `
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    total integer NOT NULL,
    starts integer NOT NULL DEFAULT 1,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()`,
  import_step: `
    job_id bigint PRIMARY KEY,
    import_id integer NOT NULL,
    name text NOT NULL,
    attempt integer NOT NULL,
    places integer NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT clock_timestamp()`,
  place: `
    record integer PRIMARY KEY,
    name text NOT NULL,
    country char(2) NOT NULL,
    region text,
    latitude double precision NOT NULL,
    longitude double precision NOT NULL`,
  country: `
    code char(2) PRIMARY KEY,
    name text NOT NULL,
    places integer NOT NULL,
    regions integer NOT NULL`,
  rejected_record: `
    record integer PRIMARY KEY,
    job_id bigint NOT NULL`,
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
    await runner.query(`CREATE INDEX IF NOT EXISTS place_country ON place (country, region)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const table of Object.keys(TABLES)) await runner.query(`DROP TABLE IF EXISTS ${table}`);
  }
}
