import { Column, Entity, PrimaryGeneratedColumn } from 'typeorm';

/** One import of all files, however many processes it takes. */
@Entity('import_run')
export class ImportRun {
  @PrimaryGeneratedColumn('identity', { generatedIdentity: 'ALWAYS' })
  id!: number;

  /** Processes that have worked on it: more than one after a Ctrl-C or a kill. */
  @Column('int', { default: 1 })
  starts!: number;

  @Column('timestamptz', { name: 'started_at', default: () => 'clock_timestamp()' })
  startedAt!: Date;
}
