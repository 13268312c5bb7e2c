import { describe, expect, it } from '@jest/globals';
import { countRecords, defectOf, readRecord, readRecords, toPlace } from './gazetteer.js';

describe('the gazetteer', () => {
  it('has one bad record, the first', () => {
    const records = readRecords(0, countRecords());
    const bad = records.filter(({ fields }) => defectOf(fields) !== null);
    expect(bad.map(({ record }) => record)).toEqual([0]);
    expect(records.length).toBeGreaterThan(150_000);
  });

  it('makes a place with numbers and the name of its region', () => {
    expect(toPlace(1, readRecord(1))).toEqual({
      record: 1,
      name: 'Vila',
      country: 'AD',
      region: 'Encamp',
      latitude: 42.53176,
      longitude: 1.56654,
    });
  });

  it.each([
    ['name', { name: '' }, 'no name'],
    ['country', { country: 'ad' }, 'country is "ad"'],
    ['latitude', { lat: '90.1' }, 'latitude is "90.1"'],
    ['longitude', { lng: 'east' }, 'longitude is "east"'],
  ])('finds a defect of the %s', (_, change, defect) => {
    expect(defectOf({ ...readRecord(1), ...change })).toContain(defect);
  });

  it('has no record after the last', () => {
    expect(() => readRecord(countRecords())).toThrow('has no record');
  });
});
