import { Injectable } from '@nestjs/common';
import { JobHandler, RejectJob, type Job } from 'nestmq';
import { defectOf, readRecord } from './gazetteer.js';
import { importJob } from './import-options.js';

/** Looks at a record that could not be written. */
@Injectable()
export class RecordInspector {
  /** No retry would make the record better, so the job is dead at once and kept, with the reason, for a person. */
  @JobHandler('import', { preset: importJob })
  inspect(job: Job<{ record: number }>): void {
    const { record } = job.payload;
    const fields = readRecord(record);
    const defect = defectOf(fields);
    if (defect !== null) throw new RejectJob(`record ${record}, "${fields.name}": ${defect}`);
  }
}
