import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import type { ImportProgress } from './progress.js';
import { progressBar } from './progress-bar.js';
import { RateMeter } from './rate-meter.js';

const HALF: ImportProgress = {
  importId: 1,
  state: 'running',
  total: 2_000,
  places: 999,
  rejected: 1,
  jobs: { completed: 2, retried: 0, left: 7 },
  seconds: 1,
  starts: 1,
};

describe('progressBar', () => {
  const lineOf = (progress: ImportProgress, rate: number | null): string =>
    stripVTControlCharacters(progressBar(progress, rate));

  it('shows share, count, rate and time left; a rejected record is done, too', () => {
    expect(lineOf(HALF, 8)).toBe(
      `${'█'.repeat(15)}${'░'.repeat(15)}  50 %  1,000 of 2,000 records  8/s  2 min 5 s left`,
    );
  });

  it('says nothing of a rate that is not known', () => {
    expect(lineOf(HALF, null)).toMatch(/1,000 of 2,000 records$/);
  });

  it('says why nothing moves', () => {
    expect(lineOf(HALF, 0)).toContain('jobs of a killed process');
  });

  it('counts the jobs that follow when all records are done', () => {
    expect(lineOf({ ...HALF, places: 1_999 }, 8)).toMatch(/100 % {2}2,000 of 2,000 records {2}7 jobs left$/);
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
