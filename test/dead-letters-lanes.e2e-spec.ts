import { beforeEach, describe, expect, it } from '@jest/globals';
import { type HandlerOptions, InvalidTransitionError, RejectJob, RetryAfter, TransactionConflictError } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { laneWith, payloadsOf, seqsOf, upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import type { Behaviour } from './support/work.js';

const database = useDatabase();
const tables = useTables(database);

beforeEach(() => tables.clear());

const LANE = { channel: 'work', key: 'lane' };

const drained = (): Promise<boolean> => untilDone(tables);

/** Payloads that have to die: the test may heal them. */
const sick = new Set<unknown>();

const dying: Behaviour = ({ payload }) => {
  if (sick.has(payload)) throw new RejectJob('told to reject');
};

async function startLanes(options: HandlerOptions, queue = {}, behaviour = dying) {
  const Work = laneWith({ retries: 0, ...options }, behaviour);
  const app = await startApp({ ...database, queue: { ...POLLING_OFF, ...queue }, providers: [Work] });
  return { app, work: app.get(Work) };
}

const send = async (app: TestApp, ...payloads: unknown[]): Promise<string[]> =>
  (await app.jobs.spawnMany(payloads.map((payload) => ({ name: 'work', payload, key: 'lane' })))).map(({ id }) => id);

const deaths = (app: TestApp, count: number): Promise<boolean> =>
  until(() => app.events.filter(({ type }) => type === 'dead').length === count, { what: `${count} are dead` });

beforeEach(() => sick.clear());

describe('a dead head that blocks its lane', () => {
  it('is requeued in place: it runs under its number, before all that waits behind it', async () => {
    sick.add('ill');
    const { app, work } = await startLanes({ onDead: 'block' });
    const [, ill] = await send(app, 'first', 'ill', 'third', 'fourth');
    await deaths(app, 1);
    sick.clear();
    expect(await app.deadLetters.requeue(ill!)).toBe(1);
    await drained();
    expect(payloadsOf(work)).toEqual(['first', 'ill', 'ill', 'third', 'fourth']);
    expect(seqsOf(work)).toEqual([1, 2, 2, 3, 4]);
    expect(work.runs.map(({ attempt }) => attempt)).toEqual([1, 1, 1, 1, 1]);
    await app.close();
  });

  it('blocks it again when it dies again', async () => {
    sick.add('ill');
    const { app, work } = await startLanes({ onDead: 'block' });
    const [ill] = await send(app, 'ill', 'second');
    for (const round of [1, 2, 3]) {
      await deaths(app, round);
      expect(await app.queue.lanes('work')).toMatchObject([{ state: 'blocked', reason: 'dead', headId: ill }]);
      expect(await app.deadLetters.requeue(LANE)).toBe(1);
    }
    await deaths(app, 4);
    expect(new Set(payloadsOf(work))).toEqual(new Set(['ill']));
    await app.close();
  });

  it.each(['resolve', 'discard'] as const)('lets it go on when it is taken and %sd', async (end) => {
    sick.add('ill');
    const { app, work } = await startLanes({ onDead: 'block' });
    await send(app, 'ill', 'second');
    await deaths(app, 1);
    const [letter] = await app.deadLetters.take(LANE);
    expect(letter).toMatchObject({ seq: 1 });
    expect(await app.queue.lanes('work')).toMatchObject([{ state: 'blocked', reason: 'dead', headId: letter!.id }]);
    expect(payloadsOf(work)).toEqual(['ill']);
    expect(await app.deadLetters[end](letter!)).toBe(1);
    await drained();
    expect(seqsOf(work)).toEqual([1, 2]);
    await app.close();
  });

  it('goes on blocking it when it was taken and put back', async () => {
    sick.add('ill');
    const { app, work } = await startLanes({ onDead: 'block' });
    await send(app, 'ill', 'second');
    await deaths(app, 1);
    const [letter] = await app.deadLetters.take(LANE);
    await app.deadLetters.reject(letter!);
    expect(await app.queue.lanes('work')).toMatchObject([{ state: 'blocked', reason: 'dead' }]);
    expect(payloadsOf(work)).toEqual(['ill']);
    await app.deadLetters.discard(letter!.id);
    await drained();
    await app.close();
  });

  it('lets go of a lane in which nothing waits yet, and of what has been sent to it meanwhile', async () => {
    sick.add('ill');
    const { app, work } = await startLanes({ onDead: 'block' });
    await send(app, 'ill');
    await deaths(app, 1);
    await app.deadLetters.discard(LANE);
    await send(app, 'well');
    await drained();
    sick.add('worse');
    await send(app, 'worse');
    await deaths(app, 2);
    await send(app, 'later');
    await app.deadLetters.discard(LANE);
    await drained();
    expect(payloadsOf(work)).toEqual(['ill', 'well', 'worse', 'later']);
    await app.close();
  });

  it('is kept until somebody has decided, whatever its retention; one that is passed by is not', async () => {
    sick.add('ill');
    for (const [onDead, prunable] of [
      ['block', 0],
      ['skip', 1],
    ] as const) {
      const { app } = await startLanes({ onDead, deadRetention: '1h' });
      await send(app, 'ill');
      await deaths(app, 1);
      expect(await tables.number('SELECT count(delete_at) FROM nestmq.finished_job')).toBe(prunable);
      await app.close();
      await tables.clear();
    }
  });

  it('of many lanes are all requeued by one filter, each in its place', async () => {
    upTo(600).forEach((lane) => sick.add(`ill ${lane}`));
    const { app, work } = await startLanes({ onDead: 'block' });
    await app.jobs.spawnMany(
      upTo(600).flatMap((lane) =>
        ['ill', 'well'].map((what) => ({ name: 'work', payload: `${what} ${lane}`, key: `lane ${lane}` })),
      ),
    );
    await deaths(app, 600);
    sick.clear();
    expect(await app.deadLetters.requeue({ channel: 'work' })).toBe(600);
    await drained();
    for (const lane of upTo(600)) {
      expect(payloadsOf(work, `lane ${lane}`)).toEqual([`ill ${lane}`, `ill ${lane}`, `well ${lane}`]);
    }
    await app.close();
  });
});

describe('a dead job that its lane has passed by', () => {
  it('is requeued to the end of its lane, and gets a new number', async () => {
    sick.add('ill');
    const { app, work } = await startLanes({});
    const [first] = await send(app, 'ill', 'second', 'third');
    await drained();
    sick.clear();
    await app.queue.pause('work');
    await send(app, 'fourth');
    await app.deadLetters.requeue(first!);
    await send(app, 'sixth');
    await app.queue.resume('work');
    await drained();
    expect(payloadsOf(work)).toEqual(['ill', 'second', 'third', 'fourth', 'ill', 'sixth']);
    expect(seqsOf(work)).toEqual(upTo(6));
    await app.close();
  });

  it('keep their order among each other where several are requeued', async () => {
    upTo(20).forEach((n) => sick.add(n));
    const { app, work } = await startLanes({});
    await send(app, ...upTo(20));
    await deaths(app, 20);
    await drained();
    sick.clear();
    expect(await app.deadLetters.requeue({ channel: 'work' })).toBe(20);
    await drained();
    expect(payloadsOf(work)).toEqual([...upTo(20), ...upTo(20)]);
    expect(seqsOf(work)).toEqual(upTo(40));
    await app.close();
  });

  it('waits at the end of a lane that another one blocks', async () => {
    const { app, work } = await startLanes({ onDead: 'block' });
    sick.add('ill');
    const [id] = await send(app, 'ill', 'ill', 'last');
    await deaths(app, 1);
    // The lane is let go past the first: it is dead, and blocks nothing any more.
    await tables.sql('UPDATE nestmq.lane SET blocked_by = NULL, ready_at = now(), head_position = 0');
    await app.queue.resume('work');
    await deaths(app, 2);
    sick.clear();
    expect(await app.deadLetters.requeue(id!)).toBe(1);
    expect(await app.queue.lanes('work')).toMatchObject([{ state: 'blocked', reason: 'dead' }]);
    expect(payloadsOf(work)).toEqual(['ill', 'ill']);
    await app.deadLetters.requeue(LANE);
    await drained();
    expect(seqsOf(work)).toEqual([1, 2, 2, 3, 4]);
    expect(payloadsOf(work)).toEqual(['ill', 'ill', 'ill', 'last', 'ill']);
    await app.close();
  });
});

describe('a job that has just died', () => {
  it('is left until its lane is given back, since only then it is known whether it blocks it', async () => {
    const { app } = await startLanes({ onDead: 'block' }, { runner: false });
    // As it stands between the two: dead, and its lane still leased.
    await tables.sql(
      `INSERT INTO nestmq.finished_job (id, state, run, attempt, priority, due_at, created_at, position, seq, channel, key, name, reason)
       VALUES (7, 'dead', 3, 1, 0, now(), now(), 7, 1, 'work', 'lane', 'work', 'rejected')`,
    );
    await tables.sql(
      `INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, keys, seqs, started, hi_due_at, hi_id)
       VALUES (77, 1, 'work', 0, ARRAY[7], ARRAY[3], ARRAY['lane'], ARRAY[1], 1, 'epoch', 0)`,
    );
    await tables.sql(
      `INSERT INTO nestmq.lane (channel, key, last_seq, runner_id, lease, name) VALUES ('work', 'lane', 1, 77, 1, 'work')`,
    );
    const discarding = app.deadLetters.discard('7');
    let over = false;
    void discarding.finally(() => (over = true)).catch(() => undefined);
    await app.deadLetters.count();
    expect(over).toBe(false);
    expect(await app.queue.get('7')).toMatchObject({ state: 'dead' });
    await tables.sql('UPDATE nestmq.lane SET runner_id = NULL, lease = NULL, blocked_by = 7');
    expect(await discarding).toBe(1);
    expect(await tables.number('SELECT count(*) FROM nestmq.lane WHERE blocked_by IS NOT NULL')).toBe(0);
    await app.close();
  });

  it('never leaves a lane blocked that nobody can let go, whenever it is discarded', async () => {
    upTo(200).forEach((n) => sick.add(n));
    const { app, work } = await startLanes({ onDead: 'block' });
    const desk = await startLanes({ onDead: 'block' }, { runner: false });
    let ended = false;
    const discard = async (): Promise<void> => {
      while (!ended) await desk.app.deadLetters.discard({ channel: 'work' });
    };
    const discarding = [discard(), discard()];
    await app.jobs.spawnMany(upTo(200).map((n) => ({ name: 'work', payload: n, key: `lane ${n % 4}` })));
    await untilDone(tables);
    ended = true;
    await Promise.all(discarding);
    expect(work.runs).toHaveLength(200);
    expect(await tables.number('SELECT count(*) FROM nestmq.lane WHERE blocked_by IS NOT NULL')).toBe(0);
    await desk.app.close();
    await app.close();
  });
});

describe('letters of one lane', () => {
  it('are requeued, taken and discarded by many at once without a deadlock, and each ends once', async () => {
    upTo(60).forEach((n) => sick.add(n));
    const { app } = await startLanes({});
    await send(app, ...upTo(60));
    await deaths(app, 60);
    await drained();
    sick.clear();
    const ways = [
      () => app.deadLetters.requeue(LANE, { limit: 5 }),
      () => app.deadLetters.discard(LANE, { limit: 5 }),
      async () => app.deadLetters.resolve(await app.deadLetters.take(LANE, { limit: 5 })),
    ];
    const counts = await Promise.all(upTo(12).map((n) => ways[n % 3]!()));
    const total = counts.reduce((sum, count) => sum + count, 0);
    await drained();
    const left = await app.deadLetters.count();
    expect(total + left).toBe(60);
    expect(await app.deadLetters.count({ state: 'reprocessing' })).toBe(0);
    await app.close();
  });

  it('that were requeued by somebody else a moment ago are refused with what they are now', async () => {
    const { app } = await startLanes({}, {}, () => {
      throw new RetryAfter('1h');
    });
    await tables.sql(
      `INSERT INTO nestmq.finished_job (id, state, attempt, priority, due_at, created_at, channel, key, name, reason)
       VALUES (7, 'dead', 1, 0, now(), now(), 'work', 'lane', 'work', 'rejected')`,
    );
    const answers = await Promise.allSettled(upTo(5).map(() => app.deadLetters.requeue('7')));
    const refused = answers.flatMap((answer) => (answer.status === 'rejected' ? [answer.reason as unknown] : []));
    expect(refused).toHaveLength(4);
    for (const error of refused) {
      expect(error instanceof InvalidTransitionError || error instanceof TransactionConflictError).toBe(true);
    }
    await app.close();
  });
});
