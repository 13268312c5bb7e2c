import { Injectable } from '@nestjs/common';
import { JobHandler, JobSpawner, type Job } from 'nestmq';
import { DataSource, type EntityManager } from 'typeorm';
import { CountrySummaries } from './country-summaries.js';
import { defectOf, entityOf, readRows, type FileName, type Row } from './gazetteer.js';
import { ImportBatch } from './import-batch.entity.js';
import { importJob } from './import-options.js';
import { RecordInspector } from './record-inspector.js';
import { RejectedRecord } from './rejected-record.entity.js';

/** Records from one checkpoint to the next. */
const BATCH = 1_000;

export interface FileJob {
  readonly file: FileName;
  /** The record to go on with: 0 at first, and what the checkpoints say. */
  readonly next: number;
  /** Records to write. */
  readonly total: number;
}

/** Writes one file, however many runs it takes. */
@Injectable()
export class FileImport {
  constructor(
    private readonly dataSource: DataSource,
    private readonly jobs: JobSpawner,
  ) {}

  /**
   * The rows of a batch, the jobs that follow and the checkpoint commit together or not at all. So a run begins exactly
   * where the committed rows of the one before end, and no `ON CONFLICT` is needed: a row that came twice would be an error.
   */
  @JobHandler('import', { preset: importJob, retention: '7d' }) // its progress can be read afterwards, too
  async run(job: Job<FileJob>): Promise<void> {
    const { file, total } = job.payload;
    let { next } = job.payload;
    while (next < total) {
      job.signal.throwIfAborted(); // Ctrl-C: the checkpoint is behind us, the next start goes on from there
      const from = next;
      next = Math.min(total, from + BATCH);
      const rows = readRows(file, from, next);
      await this.dataSource.transaction(async (manager) => {
        const written = await this.write(file, rows, manager);
        await manager.insert(ImportBatch, { file, firstRecord: from, rows: written, attempt: job.attempt });
        await job.checkpoint({ payload: { ...job.payload, next } }, { manager });
      });
      await job.progress({ percent: (100 * next) / total, message: `${next} of ${total} ${file}` });
    }
  }

  /** @returns how many rows were good */
  private async write(file: FileName, rows: Row[], manager: EntityManager): Promise<number> {
    const good = rows.filter((row) => defectOf(row) === null);
    if (good.length > 0) {
      await manager.createQueryBuilder().insert().into(entityOf(file)).values(good).updateEntity(false).execute();
    }
    const firstRecord = rows[0]!.record;
    const deltas = Object.entries(countByCountry(good)).map(([country, count]) => ({
      key: country,
      payload: { country, file, firstRecord, rows: count },
    }));
    await this.jobs.spawnMany(CountrySummaries, 'add', deltas, { manager });
    const bad = rows.filter((row) => defectOf(row) !== null);
    for (const { record } of bad) await this.setAside(file, record, manager);
    return good.length;
  }

  /** A bad record holds up nobody: it gets a job of its own, in which a person finds it. */
  private async setAside(file: FileName, record: number, manager: EntityManager): Promise<void> {
    const { id } = await this.jobs.spawn(RecordInspector, 'inspect', { file, record }, { manager });
    await manager.insert(RejectedRecord, { file, record, jobId: id });
  }
}

function countByCountry(rows: readonly Row[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { country } of rows) counts[country] = (counts[country] ?? 0) + 1;
  return counts;
}
