import { describe, expect, it, jest } from '@jest/globals';
import { playRound } from './history/harness/round.js';
import { DEFAULTS, type Settings } from './history/harness/settings.js';
import { useDatabase } from './support/database.js';

jest.setTimeout(240_000);

// The same for an hour: `npm run history -- --seconds 60 --rounds 60`.
describe.each<Partial<Settings>>([
  { lanes: 'few', runs: 1 },
  { lanes: 'many', runs: 20 },
  { lanes: 'few', batch: 5 },
  { lanes: 'one', runs: 100, smooth: true, liveJobs: 1_500, seconds: 12 },
])('with kills, stops, errors and rollbacks: %j', (settings) => {
  const database = useDatabase();

  it('no job is lost, done twice, run beside another of its lane, out of order, too often or without its lease', async () => {
    const { violations, end, figures } = await playRound(database.url, { ...DEFAULTS, seconds: 5, ...settings });
    expect(violations).toEqual([]);
    expect(end).toBe('drained');
    expect(figures.completed).toBeGreaterThan(0);
    expect(figures.lanes).toBeGreaterThan(settings.lanes === 'one' ? 0 : 1);
    expect(figures.extended).toBeGreaterThanOrEqual(settings.smooth ? 1 : 0);
  });
});
