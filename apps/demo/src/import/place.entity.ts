import { Column, Entity, PrimaryColumn } from 'typeorm';

/** A populated place. Its key is its number in the file: a record that were written twice would be refused. */
@Entity('place')
export class Place {
  @PrimaryColumn('int')
  record!: number;

  @Column('text')
  name!: string;

  @Column('char', { length: 2 })
  country!: string;

  /** Code of its region. */
  @Column('text', { nullable: true })
  region!: string | null;

  @Column('double precision')
  latitude!: number;

  @Column('double precision')
  longitude!: number;
}
