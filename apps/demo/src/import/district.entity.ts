import { Column, Entity, PrimaryColumn } from 'typeorm';

/** A part of a region. */
@Entity('district')
export class District {
  @PrimaryColumn('int')
  record!: number;

  /** The region's code, a dot, and a number or name. */
  @Column('text')
  code!: string;

  @Column('text')
  name!: string;

  @Column('char', { length: 2 })
  country!: string;
}
