import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import type { FileProgress, ImportProgress } from './progress.js';
import { summary } from './summary.js';

const PLACES: FileProgress = {
  file: 'places',
  jobId: '1',
  state: 'completed',
  total: 1_156,
  percent: 100,
  message: '1156 of 1156 places',
  checkpoint: 1_156,
  runsFrom: [0],
};
const REGIONS: FileProgress = { ...PLACES, file: 'regions', total: 45, checkpoint: 45 };

const FINISHED: ImportProgress = {
  importId: 1,
  state: 'finished',
  files: [PLACES, REGIONS],
  counted: { places: 1_155, districts: 0, regions: 45 },
  rejected: 1,
  jobs: { completed: 5, retried: 2, left: 0 },
  seconds: 2,
  starts: 1,
};
const COUNTRIES = Array.from({ length: 15 }, (_, index) => ({
  code: `A${index}`,
  name: `Land ${index}`,
  places: 150 - index * 10,
  districts: 0,
  regions: 3,
  seq: 1,
}));
const REJECTIONS = [{ jobId: '7', state: 'dead', reason: 'RejectJob: no such place' }] as const;

describe('summary', () => {
  const textOf = (progress: Partial<ImportProgress> = {}): string =>
    stripVTControlCharacters(summary({ ...FINISHED, ...progress }, COUNTRIES, REJECTIONS));

  it('shows the countries with most places, and the others together', () => {
    expect(textOf()).toMatch(/Land 0 .* 150 places in +3 regions/);
    expect(textOf()).toMatch(/3 other countries +60 places/);
  });

  it('shows what was rejected and why', () => {
    expect(textOf()).toContain('job 7 is dead: RejectJob: no such place');
  });

  it('counts rows, seconds and jobs', () => {
    expect(textOf()).toContain('1,200 rows in 2.0 s, 600 a second');
    expect(textOf()).toContain('6 jobs run, 2 of them retried, 1 dead');
  });

  it('tells where the runs of a file have begun', () => {
    expect(textOf()).toMatch(/places +1,155 rows\n/);
    const files = [{ ...PLACES, runsFrom: [0, 600, 1_000] }, REGIONS];
    expect(textOf({ files })).toMatch(/places +1,155 rows, 3 runs, from records 0, 600, 1,000\n/);
  });

  it('gives no rate for an import of several starts', () => {
    expect(textOf({ starts: 2 })).toContain('1,200 rows in 2.0 s, in 2 starts\n');
  });

  it('tells of records that nobody wrote', () => {
    expect(textOf({ counted: { places: 155, districts: 0, regions: 45 } })).toContain('1,000 records are missing');
    expect(textOf()).not.toContain('missing');
  });
});
