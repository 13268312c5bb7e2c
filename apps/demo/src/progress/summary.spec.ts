import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import type { ImportProgress } from './progress.js';
import { summary } from './summary.js';

const FINISHED: ImportProgress = {
  importId: 1,
  state: 'finished',
  total: 1_201,
  places: 1_200,
  rejected: 1,
  jobs: { completed: 5, retried: 2, left: 0 },
  seconds: 2,
  starts: 1,
};
const COUNTRIES = Array.from({ length: 15 }, (_, index) => ({
  code: `A${index}`,
  name: `Land ${index}`,
  places: 150 - index * 10,
  regions: 3,
}));
const REJECTIONS = [{ jobId: '7', state: 'dead', reason: 'RejectJob: no such place' }];

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

  it('counts places, seconds and jobs', () => {
    expect(textOf()).toContain('1,200 places in 2.0 s, 600 a second');
    expect(textOf()).toContain('6 jobs run, 2 of them retried, 1 dead');
  });

  it('gives no rate for an import of several starts', () => {
    expect(textOf({ starts: 2 })).toContain('1,200 places in 2.0 s, in 2 starts\n');
  });

  it('tells of records that nobody wrote', () => {
    expect(textOf({ places: 200 })).toContain('1,000 records are missing');
    expect(textOf()).not.toContain('missing');
  });
});
