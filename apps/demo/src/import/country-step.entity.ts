import { Column, Entity, PrimaryColumn } from 'typeorm';
import type { FileName } from './gazetteer.js';

/** Journal of the summaries: what was added to which country, in which order. */
@Entity('country_step')
export class CountryStep {
  @PrimaryColumn('char', { length: 2 })
  country!: string;

  /** Number of the job in the country's lane. */
  @PrimaryColumn('int')
  seq!: number;

  @Column('text')
  file!: FileName;

  /** First record of the batch that it tells of. */
  @Column('int', { name: 'first_record' })
  firstRecord!: number;

  /** Rows of the country in that batch. */
  @Column('int')
  rows!: number;

  /** Number of the run that did it, from 1. */
  @Column('int')
  attempt!: number;

  @Column('timestamptz', { name: 'added_at', default: () => 'clock_timestamp()' })
  addedAt!: Date;
}
