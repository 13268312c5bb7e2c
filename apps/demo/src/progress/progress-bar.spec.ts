import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import type { FileProgress, ImportProgress } from './progress.js';
import { positions, progressBar } from './progress-bar.js';
import { RateMeter } from './rate-meter.js';

const PLACES: FileProgress = {
  file: 'places',
  jobId: '1',
  state: 'running',
  total: 1_500,
  percent: (100 * 500) / 1_500,
  message: '500 of 1500 places',
  checkpoint: 500,
  runsFrom: [0],
};
const REGIONS: FileProgress = { ...PLACES, file: 'regions', total: 500, percent: 100, checkpoint: 500 };

const HALF: ImportProgress = {
  importId: 1,
  state: 'running',
  files: [PLACES, REGIONS],
  counted: { places: 499, districts: 0, regions: 500 },
  rejected: 1,
  jobs: { completed: 2, retried: 0, left: 7 },
  seconds: 1,
  starts: 1,
};

describe('progressBar', () => {
  const lineOf = (progress: ImportProgress, rate: number | null): string =>
    stripVTControlCharacters(progressBar(progress, rate));

  it('shows share, count, rate, time left and each file', () => {
    expect(lineOf(HALF, 8)).toBe(
      `${'█'.repeat(10)}${'░'.repeat(10)}  50 %  1,000 of 2,000 records  8/s  2 min 5 s left  places 33 %, regions 100 %`,
    );
  });

  it('says nothing of a rate that is not known', () => {
    expect(lineOf(HALF, null)).toMatch(/1,000 of 2,000 records {2}places 33 %, regions 100 %$/);
  });

  it('says why nothing moves', () => {
    expect(lineOf(HALF, 0)).toContain('jobs of a killed process');
  });

  it('counts the jobs that follow when all records are done', () => {
    const files = [{ ...PLACES, percent: 100, checkpoint: 1_500 }, REGIONS];
    expect(lineOf({ ...HALF, files }, 8)).toMatch(/100 % {2}2,000 of 2,000 records {2}7 jobs left {2}places 100 %/);
  });
});

describe('positions', () => {
  it('tells where the files go on that are not written', () => {
    expect(positions([PLACES, REGIONS])).toBe('places from record 500');
    expect(positions([REGIONS])).toBe('all files are written');
  });
});

describe('RateMeter', () => {
  it('knows no rate from one sample', () => {
    const meter = new RateMeter();
    meter.add({ atMs: 0, done: 90_000 });
    expect(meter.perSecond).toBeNull();
  });

  it('looks at the last seconds only', () => {
    const meter = new RateMeter(5_000);
    meter.add({ atMs: 0, done: 0 });
    meter.add({ atMs: 1_000, done: 50_000 });
    meter.add({ atMs: 3_500, done: 50_100 });
    meter.add({ atMs: 6_000, done: 50_500 });
    expect(meter.perSecond).toBe(100);
  });
});
