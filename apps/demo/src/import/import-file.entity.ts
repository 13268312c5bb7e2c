import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { FileName } from './gazetteer.js';

/** A file of the import under way, and the job that writes it. */
@Entity('import_file')
export class ImportFile {
  @PrimaryColumn('text')
  file!: FileName;

  @Column('bigint', { name: 'job_id' })
  jobId!: string;

  /** Records to write. */
  @Column('int')
  total!: number;
}
