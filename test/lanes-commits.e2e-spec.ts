import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useCommitGate } from './support/commit-gate.js';
import { useDatabase } from './support/database.js';
import { eventsOf, untilEvents } from './support/events.js';
import { payloadsOf, seqsOf } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate, workWith, type Behaviour, type Work } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const LANE = { key: 'lane' } as const;
const HELD = { ...LANE, hold: '10m' } as const;

const GIVEN_BACK = `NEW.key = 'lane' AND OLD.runner_id IS NOT NULL AND NEW.runner_id IS NULL`;
const GIVEN_A_HEAD = `NEW.key = 'lane' AND NEW.runner_id IS NULL AND NEW.head_position IS NOT NULL`;

/**
 * A runner that listens. It starts above empty tables: of jobs it would find there it had to make sure by a sweep of the
 * lanes, which comes when it will.
 */
async function startRunner(queue: object, behaviour?: Behaviour): Promise<{ app: TestApp; work: Work }> {
  const Worker = workWith({ ordered: true }, behaviour);
  const app = await startApp({ ...database, queue, providers: [Worker] });
  await until(() => eventsOf(app, 'listening').some(({ listening }) => listening), { what: 'the runner listens' });
  return { app, work: app.get(Worker) };
}

/**
 * Looks have passed all that was committed so far. In a transaction, as that was: what runners are told of by commits they
 * hear in the order of these.
 */
async function passedBy({ dataSource, jobs }: TestApp, work: Work): Promise<void> {
  await dataSource.transaction((manager) => jobs.spawn('work', 'marker', { key: 'another lane', manager }));
  await until(() => payloadsOf(work, 'another lane').includes('marker'), { what: 'a job of another lane has run' });
}

async function untilRan(work: Work, ...payloads: string[]): Promise<void> {
  await until(() => payloadsOf(work, 'lane').length >= payloads.length, { what: `${payloads.join(', ')} have run` });
  expect(payloadsOf(work, 'lane')).toEqual(payloads);
}

describe('without a poll', () => {
  const holdCommits = useCommitGate(database);

  it('a held job runs that is committed while its lane is given back', async () => {
    const { app, work } = await startRunner(POLLING_OFF);
    const givingBack = await holdCommits(GIVEN_BACK);
    const held = await app.dataSource.transaction(async (manager) => {
      await app.jobs.spawn('work', 'first', { ...LANE, manager });
      return app.jobs.spawn('work', 'held', { ...HELD, manager });
    });
    await givingBack.reached();
    await app.dataSource.transaction((manager) => held.commit({ manager }));
    await passedBy(app, work);
    await untilRan(work, 'first');
    await givingBack.open();
    await untilRan(work, 'first', 'held');
    expect(seqsOf(work, 'lane')).toEqual([1, 2]);
    await app.close();
  });

  it('a late job runs that is committed while its lane is given back with a head that is delayed', async () => {
    const { app, work } = await startRunner(POLLING_OFF);
    const givingBack = await holdCommits(GIVEN_BACK);
    const late = app.dataSource.createQueryRunner();
    await late.startTransaction();
    await app.jobs.spawn('work', 'late', { ...LANE, manager: late.manager });
    await app.dataSource.transaction(async (manager) => {
      await app.jobs.spawn('work', 'first', { ...LANE, manager });
      await app.jobs.spawn('work', 'delayed', { ...LANE, delay: '1h', manager });
    });
    await givingBack.reached();
    await late.commitTransaction();
    await late.release();
    await passedBy(app, work);
    await untilRan(work, 'first');
    await givingBack.open();
    await untilRan(work, 'first', 'late');
    expect(seqsOf(work, 'lane')).toEqual([1, 2]);
    await app.close();
  });

  it('a held job runs that is committed while a look behind the end of its lane writes it down as the head', async () => {
    const { opened, open } = gate();
    const { app, work } = await startRunner(POLLING_OFF, ({ payload }) => (payload === 'first' ? opened : undefined));
    const writingDown = await holdCommits(GIVEN_A_HEAD);
    await app.jobs.spawn('work', 'first', LANE);
    // Nothing stands behind it, so the lane ends with its lease, and is looked at once more.
    await untilRan(work, 'first');
    const held = await app.jobs.spawn('work', 'held', HELD);
    open();
    await writingDown.reached();
    await app.dataSource.transaction((manager) => held.commit({ manager }));
    // The claim, which has seen the lane as it was.
    await writingDown.holdsUp();
    await writingDown.open();
    await untilRan(work, 'first', 'held');
    expect(seqsOf(work, 'lane')).toEqual([1, 2]);
    await app.close();
  });
});

describe('without a poll, beside somebody who has locked the lane', () => {
  let locker: pg.Client;

  beforeEach(async () => {
    locker = new pg.Client({ connectionString: database.url });
    await locker.connect();
  });
  afterEach(() => locker.end());

  it('a job runs that came while the lane had an owner', async () => {
    const { opened, open } = gate();
    const { app, work } = await startRunner(POLLING_OFF, ({ payload }) => (payload === 'first' ? opened : undefined));
    await app.jobs.spawn('work', 'first', LANE);
    await untilRan(work, 'first');
    await app.jobs.spawn('work', 'second', LANE);
    await passedBy(app, work);
    // As who discards or resolves letters of the lane does.
    await locker.query(`BEGIN; SELECT FROM nestmq.lane WHERE key = 'lane' FOR UPDATE`);
    open();
    await until(async () => (await tables.number('SELECT count(*) FROM nestmq.lease')) === 0, {
      what: 'the lane is at rest',
    });
    // Its end is written behind the look at that lane.
    await app.jobs.spawn('work', 'marker', { key: 'a third lane' });
    await untilEvents(app, 'completed', 3);
    await untilRan(work, 'first');
    await locker.query('COMMIT');
    await untilRan(work, 'first', 'second');
    await app.close();
  });
});

describe('polls', () => {
  it('find a lane that waits for a held job, as it says, although that one is held no more', async () => {
    const { app, work } = await startRunner({ pollMs: 100 });
    // As long as there is an ordered job to come, the runner keeps in mind how far it has looked.
    await app.jobs.spawn('work', 'to come', { key: 'a third lane', delay: '1h' });
    const { id } = await app.dataSource.transaction(async (manager) => {
      await app.jobs.spawn('work', 'first', { ...LANE, manager });
      return app.jobs.spawn('work', 'held', { ...HELD, manager });
    });
    const waits = `SELECT count(*) FROM nestmq.lane JOIN nestmq.job ON job.position = head_position
      WHERE job.id = $1 AND lane.runner_id IS NULL AND ready_at IS NULL`;
    await until(() => tables.number(waits, [id]), { what: 'the lane waits for the held job' });
    await passedBy(app, work);
    await untilRan(work, 'first');
    // Its place is one that looks have passed, and nobody is told.
    await tables.sql('UPDATE nestmq.job SET held_until = NULL WHERE id = $1', [id]);
    await untilRan(work, 'first', 'held');
    await app.close();
  });
});
