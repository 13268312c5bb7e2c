import { beforeEach, describe, expect, it } from '@jest/globals';
import { POLLING_OFF } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { withApp } from './support/with-app.js';
import { workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
beforeEach(async () => {
  await tables.clear();
  await tables.sql('TRUNCATE nestmq.lane');
});

describe('a lane that is cleared', () => {
  it.each([{ delay: '1h' as const }, { hold: '1h' as const }])(
    'runs what is sent to it later, whatever its head waited for: %p',
    (options) => {
      const Worker = workWith({ ordered: true });
      return withApp({ url: database.url, providers: [Worker], queue: POLLING_OFF }, async (app) => {
        await app.jobs.spawn('work', 'head', { key: 'k', ...options });
        await app.jobs.spawn('work', 'follower', { key: 'k' });
        const seen = async (): Promise<boolean> =>
          (await tables.number('SELECT count(*) FROM nestmq.lane WHERE head_position IS NOT NULL')) === 1;
        await until(seen, { what: 'the lane is written down with its head' });
        expect(await app.queue.clear(['work'])).toBe(2);
        await app.jobs.spawn('work', 'later', { key: 'k' });
        await until(() => app.get(Worker).runs.length === 1, { what: 'the later job has run' });
        expect(app.get(Worker).runs[0]!.payload).toBe('later');
      });
    },
  );
});
