import { Injectable } from '@nestjs/common';
import { JobHandler, JobSpawner, type Job } from 'nestmq';
import { DataSource, type EntityManager } from 'typeorm';
import { CountryCounter } from './country-counter.js';
import { defectOf, readRecords, toPlace } from './gazetteer.js';
import { importJob } from './import-options.js';
import { ImportStep } from './import-step.entity.js';
import { Place } from './place.entity.js';
import { RecordInspector } from './record-inspector.js';
import { RejectedRecord } from './rejected-record.entity.js';

/** Writes one part of the file. */
@Injectable()
export class PartWriter {
  constructor(
    private readonly dataSource: DataSource,
    private readonly jobs: JobSpawner,
  ) {}

  /**
   * The rows, the jobs that follow and the end of this job commit together or not at all. So a part whose process is
   * killed is written again from nothing, and no `ON CONFLICT` is needed: a row that came twice would be an error.
   */
  @JobHandler('import', { preset: importJob })
  async write(job: Job<{ importId: number; from: number; to: number }>): Promise<void> {
    const { importId, from, to } = job.payload;
    const records = readRecords(from, to);
    const good = records.filter(({ fields }) => defectOf(fields) === null);
    const places = good.map(({ record, fields }) => toPlace(record, fields));
    const bad = records.filter(({ fields }) => defectOf(fields) !== null);
    const countries = [...new Set(places.map(({ country }) => country))];

    await this.dataSource.transaction(async (manager) => {
      await manager.createQueryBuilder().insert().into(Place).values(places).updateEntity(false).execute();
      await this.jobs.spawnMany(
        CountryCounter,
        'count',
        countries.map((country) => ({ payload: { importId, country } })),
        { manager },
      );
      for (const { record } of bad) await this.setAside(record, manager);
      const step = { importId, jobId: job.id, name: job.name, attempt: job.attempt, places: places.length };
      await manager.insert(ImportStep, step);
      await job.complete({ manager });
    });
  }

  /** A bad record holds up nobody: it gets a job of its own, in which a person finds it. */
  private async setAside(record: number, manager: EntityManager): Promise<void> {
    const { id } = await this.jobs.spawn(RecordInspector, 'inspect', { record }, { manager });
    await manager.insert(RejectedRecord, { record, jobId: id });
  }
}
