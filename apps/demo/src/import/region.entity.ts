import { Column, Entity, PrimaryColumn } from 'typeorm';

/** A state, province or the like. */
@Entity('region')
export class Region {
  @PrimaryColumn('int')
  record!: number;

  /** The country's code, a dot, and what the country calls it by. */
  @Column('text')
  code!: string;

  @Column('text')
  name!: string;

  @Column('char', { length: 2 })
  country!: string;
}
