import type { TypeOrmModuleOptions } from '@nestjs/typeorm';
import { queueMigrations } from 'nestmq/migrations';
import { Country } from '../import/country.entity.js';
import { CountryStep } from '../import/country-step.entity.js';
import { District } from '../import/district.entity.js';
import { ImportBatch } from '../import/import-batch.entity.js';
import { ImportFile } from '../import/import-file.entity.js';
import { ImportRun } from '../import/import-run.entity.js';
import { Place } from '../import/place.entity.js';
import { Region } from '../import/region.entity.js';
import { RejectedRecord } from '../import/rejected-record.entity.js';
import { User } from '../sign-up/user.entity.js';
import { CreateDemoTables } from './1764100000000-CreateDemoTables.js';
import { postgres } from './postgres.js';

const importTables = [
  ImportRun,
  ImportFile,
  ImportBatch,
  Place,
  District,
  Region,
  Country,
  CountryStep,
  RejectedRecord,
];

/** The application's own DataSource; the queue's tables come along as two lines of it. */
export const db: TypeOrmModuleOptions = {
  type: 'postgres',
  url: postgres.url,
  entities: [...importTables, User],
  migrations: [...queueMigrations, CreateDemoTables],
  migrationsRun: true,
};
