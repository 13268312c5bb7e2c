import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { FileName } from './gazetteer.js';

/** A record that cannot be stored, and the job in which it is kept for a person. */
@Entity('rejected_record')
export class RejectedRecord {
  @PrimaryColumn('text')
  file!: FileName;

  @PrimaryColumn('int')
  record!: number;

  @Column('bigint', { name: 'job_id' })
  jobId!: string;
}
