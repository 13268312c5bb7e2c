import { Injectable } from '@nestjs/common';
import { Queue, type JobState } from 'nestmq';
import { DataSource, MoreThan } from 'typeorm';
import { Country } from '../import/country.entity.js';
import { CountryStep } from '../import/country-step.entity.js';
import type { FileJob } from '../import/file-import.js';
import type { FileName } from '../import/gazetteer.js';
import { ImportBatch } from '../import/import-batch.entity.js';
import { ImportFile } from '../import/import-file.entity.js';
import { ImportRun } from '../import/import-run.entity.js';
import { Imports } from '../import/imports.js';
import { RejectedRecord } from '../import/rejected-record.entity.js';

export interface ImportProgress {
  readonly importId: number;
  readonly state: 'running' | 'finished';
  readonly files: readonly FileProgress[];
  /** Rows of all countries, by their summaries. */
  readonly counted: Readonly<Record<FileName, number>>;
  readonly rejected: number;
  readonly jobs: { readonly completed: number; readonly retried: number; readonly left: number };
  /** Since the import began; once it is finished, until its last job ended. */
  readonly seconds: number;
  /** Processes that have worked on it. */
  readonly starts: number;
}

/** How far a file is: what its job has told, and where it stands. */
export interface FileProgress {
  readonly file: FileName;
  readonly jobId: string;
  readonly state: JobState;
  /** Records to write. */
  readonly total: number;
  readonly percent: number;
  readonly message: string | null;
  /** The record with which a further run would begin. */
  readonly checkpoint: number;
  /** The record with which each run that counts has begun. */
  readonly runsFrom: readonly number[];
}

export interface Rejection {
  readonly jobId: string;
  readonly state: JobState;
  readonly reason: string;
}

const MAX_SHOWN = 10;

/** Reads how far an import is: from what its jobs tell and have committed, so it is the same in every process. */
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
    const files = await this.files();
    const steps = await this.countSteps();
    const { worked, passed } = await this.secondsOf(run);
    const filesDone = files.filter(({ state }) => state === 'completed').length;
    const filesRetried = files.filter(({ runsFrom }) => runsFrom.length > 1).length;
    return {
      importId,
      state: left === 0 ? 'finished' : 'running',
      files,
      counted: await this.countRows(),
      rejected: await this.dataSource.manager.count(RejectedRecord),
      jobs: { completed: steps.completed + filesDone, retried: steps.retried + filesRetried, left },
      seconds: left === 0 ? worked : passed,
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

  /** The largest one first. */
  async files(): Promise<FileProgress[]> {
    const files = await this.dataSource.manager.find(ImportFile, { order: { total: 'DESC', file: 'ASC' } });
    const runs = await this.runs();
    return Promise.all(files.map((file) => this.fileOf(file, runs)));
  }

  private async fileOf({ file, jobId, total }: ImportFile, runs: Run[]): Promise<FileProgress> {
    const job = await this.queue.get(jobId);
    const runsFrom = runs.filter((run) => run.file === file).map(({ from }) => from);
    const told = { file, jobId, total, runsFrom };
    // finished jobs are kept for a week
    if (job === null) return { ...told, state: 'completed', percent: 100, message: null, checkpoint: total };
    const { percent, message } = job.progress ?? { percent: null, message: null };
    const { next } = job.payload as FileJob;
    return { ...told, state: job.state, percent: percent ?? 0, message, checkpoint: next };
  }

  private runs(): Promise<Run[]> {
    return this.dataSource.manager
      .createQueryBuilder(ImportBatch, 'batch')
      .select('batch.file', 'file')
      .addSelect('min(batch.firstRecord)', 'from')
      .groupBy('batch.file')
      .addGroupBy('batch.attempt')
      .orderBy('min(batch.firstRecord)')
      .getRawMany<Run>();
  }

  private async countRows(): Promise<Record<FileName, number>> {
    const { manager } = this.dataSource;
    return {
      places: (await manager.sum(Country, 'places')) ?? 0,
      districts: (await manager.sum(Country, 'districts')) ?? 0,
      regions: (await manager.sum(Country, 'regions')) ?? 0,
    };
  }

  private async countSteps(): Promise<{ completed: number; retried: number }> {
    const { manager } = this.dataSource;
    const completed = await manager.count(CountryStep);
    return { completed, retried: await manager.countBy(CountryStep, { attempt: MoreThan(1) }) };
  }

  private async secondsOf({ id }: ImportRun): Promise<{ worked: number; passed: number }> {
    const seconds = await this.dataSource.manager
      .createQueryBuilder(ImportRun, 'run')
      .leftJoin(CountryStep, 'step', 'true')
      .select("coalesce(date_part('epoch', max(step.addedAt) - run.startedAt), 0)", 'worked')
      .addSelect("date_part('epoch', clock_timestamp() - run.startedAt)", 'passed')
      .where({ id })
      .groupBy('run.id')
      .getRawOne<{ worked: number; passed: number }>();
    return seconds ?? { worked: 0, passed: 0 };
  }
}

interface Run {
  readonly file: FileName;
  readonly from: number;
}

/** The stack stays in the database. */
function firstLine(error: string): string {
  return error.split('\n', 1)[0]!;
}
