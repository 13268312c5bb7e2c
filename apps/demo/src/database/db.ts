import type { TypeOrmModuleOptions } from '@nestjs/typeorm';
import { queueMigrations } from 'nestmq/migrations';
import { Country } from '../import/country.entity.js';
import { ImportRun } from '../import/import-run.entity.js';
import { ImportStep } from '../import/import-step.entity.js';
import { Place } from '../import/place.entity.js';
import { RejectedRecord } from '../import/rejected-record.entity.js';
import { User } from '../sign-up/user.entity.js';
import { CreateDemoTables } from './1764100000000-CreateDemoTables.js';
import { postgres } from './postgres.js';

/** The application's own DataSource; the queue's tables come along as two lines of it. */
export const db: TypeOrmModuleOptions = {
  type: 'postgres',
  url: postgres.url,
  entities: [ImportRun, ImportStep, Place, Country, RejectedRecord, User],
  migrations: [...queueMigrations, CreateDemoTables],
  migrationsRun: true,
};
