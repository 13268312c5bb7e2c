import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { FileName } from './gazetteer.js';

/** Journal of a file: what lies between two checkpoints. */
@Entity('import_batch')
export class ImportBatch {
  @PrimaryColumn('text')
  file!: FileName;

  @PrimaryColumn('int', { name: 'first_record' })
  firstRecord!: number;

  /** Rows that were written. */
  @Column('int')
  rows!: number;

  /** Number of the job's run, from 1. */
  @Column('int')
  attempt!: number;

  @Column('timestamptz', { name: 'written_at', default: () => 'clock_timestamp()' })
  writtenAt!: Date;
}
