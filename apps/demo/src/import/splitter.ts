import { Injectable } from '@nestjs/common';
import { JobHandler, JobSpawner, type Job } from 'nestmq';
import { DataSource } from 'typeorm';
import { importJob, PLACES_PER_PART } from './import-options.js';
import { ImportStep } from './import-step.entity.js';
import { PartWriter } from './part-writer.js';

/** Divides the file: no rows in payloads, only where a part begins and ends. */
@Injectable()
export class Splitter {
  constructor(
    private readonly dataSource: DataSource,
    private readonly jobs: JobSpawner,
  ) {}

  @JobHandler('import', { preset: importJob })
  async split(job: Job<{ importId: number; total: number }>): Promise<void> {
    const { importId, total } = job.payload;
    const parts = Array.from({ length: Math.ceil(total / PLACES_PER_PART) }, (_, part) => ({
      payload: { importId, from: part * PLACES_PER_PART, to: Math.min(total, (part + 1) * PLACES_PER_PART) },
    }));
    await this.dataSource.transaction(async (manager) => {
      await this.jobs.spawnMany(PartWriter, 'write', parts, { manager });
      await manager.insert(ImportStep, { importId, jobId: job.id, name: job.name, attempt: job.attempt, places: 0 });
      await job.complete({ manager });
    });
  }
}
