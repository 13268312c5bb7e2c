import { Column, Entity, PrimaryColumn } from 'typeorm';

/** A record that is no place, and the job in which it is kept for a person. */
@Entity('rejected_record')
export class RejectedRecord {
  @PrimaryColumn('int')
  record!: number;

  @Column('bigint', { name: 'job_id' })
  jobId!: string;
}
