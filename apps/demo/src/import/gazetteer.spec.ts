import { describe, expect, it } from '@jest/globals';
import { countRecords, defectOf, FILES, readRows } from './gazetteer.js';

describe('the gazetteer', () => {
  it.each(FILES)('has no bad record in %s but the first place', (file) => {
    const rows = readRows(file, 0, countRecords(file));
    const bad = rows.filter((row) => defectOf(row) !== null);
    expect(bad.map(({ record }) => record)).toEqual(file === 'places' ? [0] : []);
    expect(rows.map(({ record }) => record)).toEqual(rows.map((_, index) => index));
  });

  it('has many places', () => {
    expect(countRecords('places')).toBeGreaterThan(150_000);
  });

  it('makes a place with numbers and the code of its region', () => {
    expect(readRows('places', 1, 2)).toEqual([
      { record: 1, name: 'Vila', country: 'AD', region: 'AD.03', latitude: 42.53176, longitude: 1.56654 },
    ]);
  });

  it('makes regions and districts with their country', () => {
    const [region] = readRows('regions', 0, 1);
    expect(region).toEqual({ record: 0, code: 'AD.06', name: 'Sant Julià de Loria', country: 'AD' });
    const [district] = readRows('districts', 0, 1);
    expect(district).toEqual({ record: 0, code: 'AE.01.101', name: 'Abu Dhabi Municipality', country: 'AE' });
  });

  it.each([
    ['name', { name: '' }, 'no name'],
    ['country', { country: 'ad' }, 'country is "ad"'],
    ['latitude', { latitude: 90.1 }, 'latitude is 90.1'],
    ['longitude', { longitude: NaN }, 'longitude is NaN'],
  ])('finds a defect of the %s', (_, change, defect) => {
    const place = { record: 1, name: 'Vila', country: 'AD', region: null, latitude: 42.5, longitude: 1.5 };
    expect(defectOf(place)).toBeNull();
    expect(defectOf({ ...place, ...change })).toContain(defect);
  });

  it('has no record after the last', () => {
    expect(readRows('places', countRecords('places'), Infinity)).toEqual([]);
  });
});
