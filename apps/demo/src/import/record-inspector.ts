import { Injectable } from '@nestjs/common';
import { JobHandler, RejectJob, type Job } from 'nestmq';
import { defectOf, readRows, type FileName } from './gazetteer.js';
import { importJob } from './import-options.js';

/** Looks at a record that could not be written. */
@Injectable()
export class RecordInspector {
  /** No retry would make the record better, so the job is dead at once and kept, with the reason, for a person. */
  @JobHandler('import', { preset: importJob })
  inspect(job: Job<{ file: FileName; record: number }>): void {
    const { file, record } = job.payload;
    for (const row of readRows(file, record, record + 1)) {
      const defect = defectOf(row);
      if (defect !== null) throw new RejectJob(`record ${record} of ${file}, "${row.name}": ${defect}`);
    }
  }
}
