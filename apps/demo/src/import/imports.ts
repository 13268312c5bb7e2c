import { Injectable } from '@nestjs/common';
import { JobSpawner, Queue } from 'nestmq';
import { DataSource, type EntityManager } from 'typeorm';
import { Country } from './country.entity.js';
import { CountryStep } from './country-step.entity.js';
import { District } from './district.entity.js';
import { FileImport } from './file-import.js';
import { countRecords, FILES } from './gazetteer.js';
import { ImportBatch } from './import-batch.entity.js';
import { ImportFile } from './import-file.entity.js';
import { ImportRun } from './import-run.entity.js';
import { Place } from './place.entity.js';
import { Region } from './region.entity.js';
import { RejectedRecord } from './rejected-record.entity.js';

const CHANNELS = ['import', 'import.countries'];

/** What an import writes. */
const TABLES = [Place, District, Region, Country, CountryStep, RejectedRecord, ImportFile, ImportBatch];

/** Any number will do; it only has to be the same in every process of the demo. */
const BEGIN_LOCK = 20_261;

export interface Begun {
  readonly run: ImportRun;
  readonly isNew: boolean;
}

/** Begins imports, and knows whether one is under way. */
@Injectable()
export class Imports {
  constructor(
    private readonly dataSource: DataSource,
    private readonly jobs: JobSpawner,
    private readonly queue: Queue,
  ) {}

  /**
   * Goes on with the import that is under way; without one, empties the tables and begins anew, with one job for each
   * file. They are spawned in the transaction that does so: there is never an import without its jobs, nor the other way
   * round.
   *
   * @param wanted records to import of each file, from the first one on; default all
   */
  async begin(wanted = Infinity): Promise<Begun> {
    return this.dataSource.transaction(async (manager) => {
      await manager.query('SELECT pg_advisory_xact_lock($1)', [BEGIN_LOCK]);
      const latest = await this.latest(manager);
      if (latest !== null && (await this.jobsLeft()) > 0) return { run: latest, isNew: false };
      for (const table of TABLES) await manager.clear(table);
      const run = await manager.save(ImportRun, manager.create(ImportRun));
      for (const file of FILES) {
        const total = Math.min(wanted, countRecords(file));
        const { id } = await this.jobs.spawn(FileImport, 'run', { file, next: 0, total }, { manager });
        await manager.insert(ImportFile, { file, jobId: id, total });
      }
      return { run, isNew: true };
    });
  }

  /** A further process works on the import. */
  async countStart({ id }: ImportRun): Promise<void> {
    await this.dataSource.manager.increment(ImportRun, { id }, 'starts', 1);
  }

  latest(manager: EntityManager = this.dataSource.manager): Promise<ImportRun | null> {
    return manager.createQueryBuilder(ImportRun, 'run').orderBy('run.id', 'DESC').limit(1).getOne();
  }

  /**
   * Jobs of an import that are not finished. Zero means that it is over: what follows a batch is spawned in the
   * batch's transaction, so there is no moment between the end of a job and the jobs that follow.
   */
  async jobsLeft(): Promise<number> {
    const channels = (await this.queue.stats()).filter(({ channel }) => CHANNELS.includes(channel));
    return channels
      .map(({ scheduled, ready, retrying, running }) => scheduled + ready + retrying + running)
      .reduce((sum, count) => sum + count, 0);
  }
}
