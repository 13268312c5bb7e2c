import { Column, Entity, PrimaryColumn } from 'typeorm';

/** Summary of one country: what has been written of it so far. */
@Entity('country')
export class Country {
  @PrimaryColumn('char', { length: 2 })
  code!: string;

  @Column('text')
  name!: string;

  @Column('int')
  places!: number;

  @Column('int')
  districts!: number;

  @Column('int')
  regions!: number;

  /** Number of the last job that was added, within the country's lane. */
  @Column('int')
  seq!: number;
}
