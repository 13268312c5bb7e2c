import { Injectable } from '@nestjs/common';
import { Queue } from 'nestmq';
import { DataSource } from 'typeorm';
import { Country } from '../import/country.entity.js';
import { ImportRun } from '../import/import-run.entity.js';
import { ImportStep } from '../import/import-step.entity.js';
import { Imports } from '../import/imports.js';
import { RejectedRecord } from '../import/rejected-record.entity.js';

export interface ImportProgress {
  readonly importId: number;
  readonly state: 'running' | 'finished';
  /** Records to import, and what has become of them. */
  readonly total: number;
  readonly places: number;
  readonly rejected: number;
  readonly jobs: { readonly completed: number; readonly retried: number; readonly left: number };
  /** Since the import began; once it is finished, until its last job ended. */
  readonly seconds: number;
  /** Processes that have worked on it. */
  readonly starts: number;
}

export interface Rejection {
  readonly jobId: string;
  readonly state: string;
  readonly reason: string;
}

const MAX_SHOWN = 10;

/** Reads how far an import is: from what its jobs have committed, so it is the same in every process. */
@Injectable()
export class Progress {
  constructor(
    private readonly dataSource: DataSource,
    private readonly imports: Imports,
    private readonly queue: Queue,
  ) {}

  /** @returns `null` when there is no such import, or a later one has begun: its rows are gone */
  async of(importId: number): Promise<ImportProgress | null> {
    const left = await this.imports.jobsLeft(); // first: nothing is written any more once it is zero
    const run = await this.imports.latest();
    if (run?.id !== importId) return null;
    const counts = await this.countSteps(importId);
    const rejected = await this.dataSource.manager.count(RejectedRecord);
    return {
      importId,
      state: left === 0 ? 'finished' : 'running',
      total: run.total,
      places: counts.places,
      rejected,
      jobs: { completed: counts.completed, retried: counts.retried, left },
      seconds: left === 0 ? counts.workedSeconds : counts.seconds,
      starts: run.starts,
    };
  }

  /** The dead jobs of records that were rejected. */
  async rejections(): Promise<Rejection[]> {
    const records = await this.dataSource.manager.find(RejectedRecord, { order: { record: 'ASC' }, take: MAX_SHOWN });
    const jobs = await Promise.all(records.map(({ jobId }) => this.queue.get(jobId)));
    return jobs
      .filter((job) => job !== null)
      .map(({ id, state, lastError }) => ({ jobId: id, state, reason: firstLine(lastError ?? '') }));
  }

  /** All countries, those with most places first. */
  countries(): Promise<Country[]> {
    return this.dataSource.manager.find(Country, { order: { places: 'DESC', code: 'ASC' } });
  }

  private async countSteps(importId: number): Promise<StepCounts> {
    const counts = await this.dataSource.manager
      .createQueryBuilder(ImportRun, 'run')
      .leftJoin(ImportStep, 'step', 'step.importId = run.id')
      .select('coalesce(sum(step.places), 0)::int', 'places')
      .addSelect('count(step.jobId)::int', 'completed')
      .addSelect('count(*) FILTER (WHERE step.attempt > 1)::int', 'retried')
      .addSelect("date_part('epoch', clock_timestamp() - run.startedAt)", 'seconds')
      .addSelect("coalesce(date_part('epoch', max(step.finishedAt) - run.startedAt), 0)", 'workedSeconds')
      .where({ id: importId })
      .groupBy('run.id')
      .getRawOne<StepCounts>();
    return counts ?? { places: 0, completed: 0, retried: 0, seconds: 0, workedSeconds: 0 };
  }
}

/** The stack stays in the database. */
function firstLine(error: string): string {
  return error.split('\n', 1)[0]!;
}

interface StepCounts {
  readonly places: number;
  readonly completed: number;
  readonly retried: number;
  readonly seconds: number;
  readonly workedSeconds: number;
}
