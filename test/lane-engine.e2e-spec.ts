import { beforeEach, describe, expect, it } from '@jest/globals';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
const queue = POLLING_OFF;

const empty = (): Promise<boolean> => tables.drained();

beforeEach(async () => {
  await tables.clear();
  await tables.sql('DELETE FROM nestmq.lane');
});

describe('ordered jobs', () => {
  it('run in the order in which they were sent, numbered without gaps', async () => {
    const Work = workWith({ ordered: true });
    const app = await startApp({ ...database, queue, providers: [Work] });
    const items = Array.from({ length: 1_000 }, (_, n) => ({ name: 'work', payload: n, key: `k${n % 10}` }));
    await app.jobs.spawnMany(items);
    await until(empty, { what: 'the jobs are gone' });
    const { runs } = app.get(Work);
    expect(runs).toHaveLength(1_000);
    for (let lane = 0; lane < 10; lane += 1) {
      const mine = runs.filter(({ key }) => key === `k${lane}`);
      expect(mine.map(({ payload }) => payload)).toEqual(mine.map((_, index) => index * 10 + lane));
      expect(mine.map(({ seq }) => seq)).toEqual(mine.map((_, index) => index + 1));
    }
    await app.close();
    expect(
      await tables.sql('SELECT * FROM nestmq.lane WHERE runner_id IS NOT NULL OR head_position IS NOT NULL'),
    ).toEqual([]);
  });

  it('wait for the retry of the one before', async () => {
    let failures = 2;
    const Work = workWith({ ordered: true, backoff: '20ms' }, ({ payload }) => {
      if (payload === 1 && failures-- > 0) throw new Error('not yet');
    });
    const app = await startApp({ ...database, queue, providers: [Work] });
    await app.jobs.spawnMany([0, 1, 2, 3].map((payload) => ({ name: 'work', payload })));
    await until(empty, { what: 'the jobs are gone' });
    expect(app.get(Work).runs.map(({ seq, attempt, payload }) => [seq, attempt, payload])).toEqual([
      [1, 1, 0],
      [2, 1, 1],
      [2, 2, 1],
      [2, 3, 1],
      [3, 1, 2],
      [4, 1, 3],
    ]);
    await app.close();
  });
});
