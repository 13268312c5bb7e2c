import { Column, Entity, PrimaryColumn } from 'typeorm';

/** Journal of the import: a job writes its row in the transaction that completes it, so there is one a job. */
@Entity('import_step')
export class ImportStep {
  @PrimaryColumn('bigint', { name: 'job_id' })
  jobId!: string;

  @Column('int', { name: 'import_id' })
  importId!: number;

  /** Name of the job. */
  @Column('text')
  name!: string;

  /** Number of the run that did it, from 1. */
  @Column('int')
  attempt!: number;

  /** Rows of `place` that it has written. */
  @Column('int')
  places!: number;

  @Column('timestamptz', { name: 'finished_at', default: () => 'clock_timestamp()' })
  finishedAt!: Date;
}
