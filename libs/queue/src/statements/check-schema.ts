import { defineStatement } from './statement.js';

/** The version that the migrations of this package leave as the comment of `job`. */
export const SCHEMA_VERSION = 'nestmq schema 2';

/** What stands where our tables should be, `null` when nothing does. */
export const findSchemaVersion = defineStatement<Record<string, never>, string | null>({
  name: 'find_schema_version_v1',
  text: (schema) => `SELECT obj_description(to_regclass('${schema}.job'), 'pg_class')`,
  values: () => [],
  row: ([comment]) => comment as string | null,
});
