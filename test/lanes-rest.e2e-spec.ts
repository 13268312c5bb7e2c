import { describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { POLLING_OFF, startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { workWith } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

/** Makes every transaction that gives a lane back wait, behind its look for the next job, while somebody holds lock 7. */
const WAIT_AT_REST = `
  CREATE FUNCTION wait_at_rest() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM pg_advisory_xact_lock(7);
    RETURN NULL;
  END $$;
  CREATE TRIGGER wait_at_rest AFTER UPDATE ON nestmq.lane
    FOR EACH ROW WHEN (OLD.runner_id IS NOT NULL AND NEW.runner_id IS NULL) EXECUTE FUNCTION wait_at_rest();
  CREATE TRIGGER wait_at_rest AFTER DELETE ON nestmq.lease FOR EACH ROW EXECUTE FUNCTION wait_at_rest();
`;

describe('a job that commits while its lane comes to rest', () => {
  it('was passed by, since the lane had its owner, and is found behind that without a poll', async () => {
    await tables.sql(WAIT_AT_REST);
    const Work = workWith({ ordered: true });
    const app = await startApp({ ...database, queue: POLLING_OFF, providers: [Work] });
    const ran = (): unknown[] => app.get(Work).runs.map(({ payload }) => payload);
    const brake = new pg.Client({ connectionString: database.url });
    await brake.connect();
    await brake.query('SELECT pg_advisory_lock(7)');
    const late = app.dataSource.createQueryRunner();
    await late.startTransaction();
    await app.jobs.spawn('work', 'late', { key: 'lane', manager: late.manager });

    await app.jobs.spawn('work', 'early', { key: 'lane' });
    await until(() => tables.number('SELECT count(*) FROM pg_locks WHERE objid = 7 AND NOT granted'), {
      what: 'the lane has looked for its next job and comes to rest',
    });
    await late.commitTransaction();
    await app.jobs.spawn('work', 'marker', { key: 'another lane' });
    await until(() => ran().includes('marker'), { what: 'the claims have passed the late job' });
    expect(ran()).toEqual(['early', 'marker']);
    await brake.query('SELECT pg_advisory_unlock(7)');
    await until(() => ran().includes('late'), { what: 'the late job has run' });

    await late.release();
    await brake.end();
    await app.close();
  });
});
