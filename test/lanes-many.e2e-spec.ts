import { beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { QueueModuleOptions } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { laneWith, payloadsOf, seqsOf, upTo, type LaneWork } from './support/lanes.js';
import { silencingProxy } from './support/silencing-proxy.js';
import { recordSql } from './support/sql-log.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const BLOCKED = 20_000;
const BEHIND = 100_000;

/** Lanes that wait for a person, each with two jobs that are long due. */
async function fillBlockedLanes(): Promise<void> {
  const from = await tables.number(`SELECT nextval('nestmq.job_id_seq')`);
  await tables.sql(`
    INSERT INTO nestmq.lane (channel, key, last_seq, blocked_by, name)
    SELECT 'work', 'blocked ' || n, 1, n, 'work' FROM generate_series(1, ${BLOCKED}) AS n`);
  await tables.sql(`
    INSERT INTO nestmq.job (id, position, channel, key, name, due_at)
    SELECT ${from} + n, ${from} + n, 'work', 'blocked ' || n % ${BLOCKED} + 1, 'work', now() - interval '1 hour'
    FROM generate_series(1, ${2 * BLOCKED}) AS n`);
  await tables.sql(`SELECT setval('nestmq.job_id_seq', ${from + 2 * BLOCKED + 1})`);
}

const claimsIn = (sent: readonly string[]): number =>
  sent.filter((text) => /INSERT INTO nestmq\.lease/.test(text)).length;

/** How often this process claims until something is so. */
async function claimsUntil(what: string, isSo: () => unknown, begin: () => unknown): Promise<number> {
  const sent = recordSql();
  await begin();
  await until(isSo, { what });
  jest.restoreAllMocks();
  return claimsIn(sent);
}

/** It has been through all that was there: many looks in a row find no further claim sent. */
async function hasSettledIn(): Promise<void> {
  const sent = recordSql();
  let [claims, looks] = [0, 0];
  await until(
    () => {
      looks = claimsIn(sent) === claims ? looks + 1 : 0;
      claims = claimsIn(sent);
      return looks > 60;
    },
    { what: 'nothing is claimed any more' },
  );
  jest.restoreAllMocks();
}

async function startLanes(url: string, queue: QueueModuleOptions = {}) {
  const Work = laneWith({ backoff: { type: 'fixed', base: '2s', jitter: 0 } }, ({ payload, attempt }) => {
    if (payload === 'retried' && attempt === 1) throw new Error('once more');
  });
  const app = await startApp({ url, queue: { ...POLLING_OFF, ...queue }, providers: [Work] });
  await until(() => app.events.some(({ type }) => type === 'listening'), { what: 'it has looked around' });
  await app.jobs.spawn('work', 'warm', { key: 'warm' });
  await until(() => app.events.some(({ type }) => type === 'completed'), { what: 'it works' });
  await hasSettledIn();
  return { app, work: app.get(Work) };
}

const send = (app: TestApp, payload: string): Promise<unknown> => app.jobs.spawn('work', payload, { key: payload });
const isCompleted = (app: TestApp, count: number) => (): boolean =>
  app.events.filter(({ type }) => type === 'completed').length >= count;
const runsTwice = (work: LaneWork) => (): boolean => payloadsOf(work, 'retried').length === 2;

/** Claims until a job in a lane of its own starts, by the way in which the runner comes to know of it. */
const ways: [string, () => Promise<number>][] = [
  [
    'that was told of',
    async () => {
      const { app } = await startLanes(database.url);
      const claims = await claimsUntil('it has run', isCompleted(app, 2), () => send(app, 'ready'));
      await app.close();
      return claims;
    },
  ],
  [
    'whose notification was lost',
    async () => {
      const proxy = await silencingProxy(database.url);
      const { app } = await startLanes(proxy.url, { pollMs: 300 });
      const sender = await startApp({ ...database, queue: { runner: false }, providers: [laneWith()] });
      const claims = await claimsUntil('it has run', isCompleted(app, 2), () => send(sender, 'ready'));
      await sender.close();
      await app.close();
      await proxy.close();
      return claims;
    },
  ],
  [
    'that became ready by the end of a backoff',
    async () => {
      const { app, work } = await startLanes(database.url);
      await send(app, 'retried');
      await until(() => app.events.some(({ type }) => type === 'retrying'), { what: 'it waits' });
      await hasSettledIn();
      const claims = await claimsUntil('it runs again', runsTwice(work), () => undefined);
      await app.close();
      return claims;
    },
  ],
];

// acceptance: 7 row 16; spec 6
describe('behind 20 000 blocked lanes', () => {
  it.each(ways)('a lane %s starts within two claims of the unblocked case', async (_, claimsOf) => {
    const alone = await claimsOf();
    await tables.clear();
    await fillBlockedLanes();
    expect(await claimsOf()).toBeLessThanOrEqual(alone + 2);
    expect(await tables.number(`SELECT count(*) FROM nestmq.job WHERE key LIKE 'blocked %'`)).toBe(2 * BLOCKED);
  });
});

describe('beside a delayed head with 100 000 due jobs behind it', () => {
  it.each(ways)('a lane %s starts within two claims of the empty case', async (_, claimsOf) => {
    const alone = await claimsOf();
    await tables.clear();
    const from = await tables.number(`SELECT nextval('nestmq.job_id_seq')`);
    await tables.sql(`
      INSERT INTO nestmq.job (id, position, channel, key, name, due_at)
      SELECT ${from} + n, ${from} + n, 'work', 'long', 'work', now() + CASE n WHEN 1 THEN interval '1 hour' ELSE interval '-1 hour' END
      FROM generate_series(1, ${BEHIND} + 1) AS n`);
    await tables.sql(`SELECT setval('nestmq.job_id_seq', ${from + BEHIND + 2})`);
    expect(await claimsOf()).toBeLessThanOrEqual(alone + 2);
    expect(await tables.number(`SELECT count(*) FROM nestmq.job WHERE key = 'long'`)).toBe(BEHIND + 1);
  });
});

describe('a backlog', () => {
  it('of one lane with thousands of jobs drains in order without a poll', async () => {
    const { app, work } = await startLanes(database.url);
    await app.jobs.spawnMany(upTo(5_000).map((payload) => ({ name: 'work', payload, key: 'long' })));
    await untilDone(tables);
    expect(payloadsOf(work, 'long')).toEqual(upTo(5_000));
    expect(seqsOf(work, 'long')).toEqual(upTo(5_000));
    await app.close();
  });

  it('of thousands of lanes drains without a poll, each in order', async () => {
    const { app, work } = await startLanes(database.url);
    await app.jobs.spawnMany(upTo(5_000).map((payload) => ({ name: 'work', payload, key: `k${payload % 2_500}` })));
    await untilDone(tables);
    expect(work.runs).toHaveLength(5_001);
    for (const n of [0, 1, 1_234, 2_499]) {
      expect(payloadsOf(work, `k${n}`)).toEqual(upTo(5_000).filter((payload) => payload % 2_500 === n));
      expect(seqsOf(work, `k${n}`)).toEqual([1, 2]);
    }
    await app.close();
  });
});
