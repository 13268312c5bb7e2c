import { Injectable } from '@nestjs/common';
import { JobSpawner, Queue } from 'nestmq';
import { DataSource, type EntityManager } from 'typeorm';
import { Country } from './country.entity.js';
import { countRecords } from './gazetteer.js';
import { ImportRun } from './import-run.entity.js';
import { ImportStep } from './import-step.entity.js';
import { Place } from './place.entity.js';
import { RejectedRecord } from './rejected-record.entity.js';
import { Splitter } from './splitter.js';

const CHANNELS = ['import', 'import.countries'];

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
   * Goes on with the import that is under way; without one, empties the tables and begins anew. The first job is spawned
   * in the transaction that does so: there is never an import without its jobs, nor the other way round.
   *
   * @param wanted records to import, from the first one on; default all
   */
  async begin(wanted = Infinity): Promise<Begun> {
    return this.dataSource.transaction(async (manager) => {
      await manager.query('SELECT pg_advisory_xact_lock($1)', [BEGIN_LOCK]);
      const total = Math.min(wanted, countRecords());
      const latest = await this.latest(manager);
      if (latest !== null && (await this.jobsLeft()) > 0) return { run: latest, isNew: false };
      for (const table of [Place, Country, RejectedRecord, ImportStep]) await manager.clear(table);
      const run = await manager.save(ImportRun, manager.create(ImportRun, { total }));
      await this.jobs.spawn(Splitter, 'split', { importId: run.id, total }, { manager });
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
   * Jobs of an import that are not finished. Zero means that it is over: a job completes itself and spawns what follows
   * in one transaction, so there is no moment between the two.
   */
  async jobsLeft(): Promise<number> {
    const channels = (await this.queue.stats()).filter(({ channel }) => CHANNELS.includes(channel));
    return channels
      .map(({ scheduled, ready, retrying, running }) => scheduled + ready + retrying + running)
      .reduce((sum, count) => sum + count, 0);
  }
}
