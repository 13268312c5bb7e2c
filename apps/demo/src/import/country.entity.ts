import { Column, Entity, PrimaryColumn } from 'typeorm';

/** What has been counted of one country. */
@Entity('country')
export class Country {
  @PrimaryColumn('char', { length: 2 })
  code!: string;

  @Column('text')
  name!: string;

  @Column('int')
  places!: number;

  @Column('int')
  regions!: number;
}
