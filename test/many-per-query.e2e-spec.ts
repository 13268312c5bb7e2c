import { beforeEach, describe, expect, it, jest } from '@jest/globals';
import { POLLING_OFF } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { recordSql } from './support/sql-log.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { withApp } from './support/with-app.js';
import { workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);
beforeEach(() => tables.clear());

const JOBS = 2_000;

// acceptance: sqlxmq, many jobs per query
describe('many jobs', () => {
  it('are sent by one statement, and received and settled hundreds by one', async () => {
    const Worker = workWith();
    const providers = [Worker];
    const sent = recordSql();
    const statements = (text: string): number => sent.filter((statement) => statement.includes(text)).length;
    try {
      await withApp({ url: database.url, providers, queue: { runner: false } }, async ({ jobs }) => {
        await jobs.spawnMany(Array.from({ length: JOBS }, (_, payload) => ({ name: 'work', payload })));
      });
      expect(statements('INSERT INTO nestmq.job ')).toBe(1);
      await withApp({ url: database.url, providers, queue: { ...POLLING_OFF, concurrency: 500 } }, async (app) => {
        await until(() => app.get(Worker).runs.length === JOBS, { what: 'all jobs have run' });
        await untilDone(tables);
      });
      expect(statements('INSERT INTO nestmq.lease ')).toBeLessThan(JOBS / 50);
      expect(statements('DELETE FROM nestmq.job')).toBeLessThan(JOBS / 50);
      expect(statements('INSERT INTO nestmq.lease ')).toBeGreaterThan(0);
      expect(statements('DELETE FROM nestmq.job')).toBeGreaterThan(0);
    } finally {
      jest.restoreAllMocks();
    }
  });
});
