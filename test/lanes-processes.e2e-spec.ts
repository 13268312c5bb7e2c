import { beforeEach, describe, expect, it, jest } from '@jest/globals';
import { startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { laneWith, upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { startWorker } from './support/workers.js';

jest.setTimeout(120_000);

const database = useDatabase();
const tables = useTables(database);

/** Quick rescues, lanes in order; the poll is off, so that nothing runs by chance. */
const LANES = { LEASE_MS: '1000', ORDERED: 'true' };
/** A lane is leased for its head alone. */
const ONE_BY_ONE = { ...LANES, PREFETCH_MS: '0' };

beforeEach(async () => {
  await tables.clear();
  await tables.sql('CREATE TABLE IF NOT EXISTS effect (job_id bigint PRIMARY KEY)');
  // What handlers did, in the order of the database.
  await tables.sql(`CREATE TABLE IF NOT EXISTS step (
    n bigint GENERATED ALWAYS AS IDENTITY, what text, job_id bigint, key text, seq int, attempt int, pid int)`);
  await tables.sql('TRUNCATE effect, step');
});

interface Step {
  readonly what: 'starts' | 'ends' | 'fails';
  readonly id: string;
  readonly seq: number;
  readonly attempt: number;
  readonly pid: number;
}

const stepsOf = (key: string): Promise<Step[]> =>
  tables.sql<Step & object>('SELECT what, job_id::text AS id, seq, attempt, pid FROM step WHERE key = $1 ORDER BY n', [
    key,
  ]);

const startsOf = async (key: string): Promise<Step[]> => (await stepsOf(key)).filter(({ what }) => what === 'starts');

const drained = (): Promise<boolean> => until(() => tables.drained(), { what: 'all is done', timeoutMs: 60_000 });

async function startSender() {
  const Work = laneWith({ retries: 20, backoff: { type: 'fixed', base: 20, jitter: 0 } });
  const app = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
  const send = (task: string, key = 'lane'): Promise<string> =>
    app.jobs.spawn('work', task, { key }).then(({ id }) => id);
  return { app, send };
}

/** Runs of a lane in which nobody was killed: each ends before the next starts, and numbers never go back. */
function expectInOrder(steps: readonly Step[], ids: readonly string[]): void {
  expect(steps.map(({ what }) => what === 'starts')).toEqual(steps.map((_, index) => index % 2 === 0));
  const starts = steps.filter(({ what }) => what === 'starts');
  const first = starts.filter(({ seq }, index) => seq !== starts[index - 1]?.seq);
  expect(first.map(({ id }) => id)).toEqual(ids);
  expect(first.map(({ seq }) => seq)).toEqual(upTo(ids.length));
  for (const { seq } of first) {
    const attempts = starts.filter((start) => start.seq === seq).map(({ attempt }) => attempt);
    expect(attempts).toEqual(upTo(attempts.length));
  }
}

describe('two processes', () => {
  // acceptance: sqlxmq it_runs_jobs_in_order
  it('start the second job of a lane only when the first one has ended, in neither of them', async () => {
    const { app, send } = await startSender();
    const workers = await Promise.all([startWorker(database.url, LANES), startWorker(database.url, LANES)]);
    const [first, second] = [await send('wait-then-complete'), await send('end')];
    const holder = await Promise.any(workers.map((worker) => worker.started({ id: first }).then(() => worker)));
    const markers = await Promise.all(upTo(10).map((n) => send('end', `marker ${n}`)));
    await until(async () => (await Promise.all(markers.map((id) => app.queue.exists(id)))).every((is) => !is), {
      what: 'jobs of ten other lanes have run',
    });
    expect(workers.flatMap((worker) => worker.of('started')).filter(({ id }) => id === second)).toEqual([]);
    holder.send('go');
    await until(() => workers.flatMap((worker) => worker.of('started')).some(({ id }) => id === second), {
      what: 'the second one starts',
    });
    await drained();
    await app.close();
  });

  // acceptance: 7 row 3; modkit-db outbox K parallel_sequencers_*, C concurrent_enqueue_during_sequencer_preserves_order
  it.each([
    ['one job at a time', { PREFETCH_MS: '0' }],
    ['runs of many', { PREFETCH_MS: '1000' }],
  ])(
    'never overlap in a lane nor leave its order, under random failures and many spawners, with %s',
    async (_, env) => {
      const { app } = await startSender();
      const workers = await Promise.all(
        [1, 2].map(() => startWorker(database.url, { ...LANES, ...env, RETRIES: '50' })),
      );
      const sent = new Map<string, string[]>([
        ['a', []],
        ['b', []],
        ['c', []],
      ]);
      // One spawner a lane, so that the order of the calls is known, and two more in one lane, of which only the rest is.
      const produce = async (key: string): Promise<void> => {
        for (const _ of upTo(40)) sent.get(key)!.push((await app.jobs.spawn('work', 'flaky', { key })).id);
      };
      await Promise.all([...['a', 'b', 'c'].map(produce), ...upTo(3).map(() => produceMixed())]);
      async function produceMixed(): Promise<void> {
        for (const _ of upTo(15)) await app.jobs.spawn('work', 'flaky', { key: 'mixed' });
      }
      await drained();
      for (const [key, ids] of sent) expectInOrder(await stepsOf(key), ids);
      const mixed = await stepsOf('mixed');
      const ids = [...new Set(mixed.map(({ id }) => id))];
      expect(ids).toHaveLength(45);
      expectInOrder(mixed, ids);
      const pids = await tables.sql('SELECT DISTINCT pid FROM step');
      expect(pids).toHaveLength(2);
      await Promise.all(workers.map((worker) => worker.kill()));
      await app.close();
    },
  );
});

describe('kill -9 in a lane', () => {
  it('lets another process run the head again, and then the others, in order and without a gap', async () => {
    const { app, send } = await startSender();
    const first = await startWorker(database.url, ONE_BY_ONE);
    const ids = [await send('step'), await send('hang-once'), await send('step'), await send('step')];
    await first.started({ id: ids[1]! });
    const second = await startWorker(database.url, ONE_BY_ONE);
    await first.kill();
    await drained();
    const starts = (await startsOf('lane')).map(({ id, seq, attempt, pid }) => [id, seq, attempt, pid]);
    expect(starts).toEqual([
      [ids[0], 1, 1, first.pid],
      [ids[1], 2, 1, first.pid],
      [ids[1], 2, 2, second.pid],
      [ids[2], 3, 1, second.pid],
      [ids[3], 4, 1, second.pid],
    ]);
    await app.close();
  });

  it('in the middle of a run of many repeats a stretch at most, in order, each job under its own number', async () => {
    const { app } = await startSender();
    const env = { ...LANES, PREFETCH_MS: '1000' };
    const workers = await Promise.all([1, 2].map(() => startWorker(database.url, env)));
    const ids: string[] = [];
    for (const _ of upTo(10)) {
      const items = Array.from({ length: 50 }, () => ({ name: 'work', payload: 'step', key: 'lane' }));
      ids.push(...(await app.jobs.spawnMany(items)).map(({ id }) => id));
    }
    await until(async () => (await startsOf('lane')).length > 100, { what: 'it is in the middle', timeoutMs: 30_000 });
    const { pid } = (await startsOf('lane')).at(-1)!;
    await workers.find((worker) => worker.pid === pid)!.kill();
    await drained();
    const starts = await startsOf('lane');
    const back = starts.flatMap(({ seq }, index) => (seq === (starts[index - 1]?.seq ?? 0) + 1 ? [] : [index]));
    // It went on behind what was written, or went back once, to a job that the killed process had started.
    expect(back.length).toBeLessThanOrEqual(1);
    for (const index of back) {
      expect(starts[index]!.seq).toBeLessThanOrEqual(starts[index - 1]!.seq);
      expect(starts.slice(index).filter((start) => start.pid === pid)).toEqual([]);
    }
    expect(starts.at(-1)!.seq).toBe(500);
    const numbers = new Map(starts.map(({ id, seq }) => [id, seq]));
    expect(ids.map((id) => numbers.get(id))).toEqual(upTo(500));
    expect(starts.filter(({ id, seq }) => numbers.get(id) !== seq)).toEqual([]);
    await app.close();
  });

  it.each([
    ['skip', 'the others run'],
    ['block', 'the lane is blocked'],
  ])('again and again makes the head dead; with onDead: %s %s', async (onDead) => {
    const app = await startApp({
      ...database,
      queue: { runner: false },
      providers: [laneWith({ retries: 1, onDead: onDead as 'skip' | 'block' })],
    });
    const send = async (task: string): Promise<string> => (await app.jobs.spawn('work', task, { key: 'lane' })).id;
    const [head, follower] = [await send('hang'), await send('step')];
    for (const attempt of [1, 2]) {
      const worker = await startWorker(database.url, { ...LANES, ON_DEAD: onDead });
      expect(await worker.started({ id: head })).toMatchObject({ attempt });
      await worker.kill();
    }
    const last = await startWorker(database.url, { ...LANES, ON_DEAD: onDead });
    await until(async () => (await app.queue.get(head))?.state === 'dead', { what: 'it is dead', timeoutMs: 20_000 });
    expect(await app.queue.get(head)).toMatchObject({ reason: 'lease expired', attempts: 2, seq: 1 });
    if (onDead === 'block') {
      expect(await app.queue.lanes('work')).toMatchObject([
        { key: 'lane', state: 'blocked', reason: 'dead', headId: head },
      ]);
      await app.jobs.spawn('work', 'end', { key: 'another lane' });
      await until(() => last.of('started').length, { what: 'a job of another lane has run' });
      expect(await startsOf('lane')).toEqual([]);
      expect(await app.queue.unblock('work', 'lane')).toBe(true);
    }
    expect(await last.started({ id: follower })).toMatchObject({ attempt: 1 });
    await drained();
    expect((await startsOf('lane')).map(({ seq }) => seq)).toEqual([2]);
    await app.close();
  });

  it('of a process whose lane rests and others wait leaves no lane behind', async () => {
    const { app, send } = await startSender();
    const victim = await startWorker(database.url, ONE_BY_ONE);
    for (const n of upTo(20)) await send('end', `lane ${n}`);
    await drained();
    for (const n of upTo(20)) await send('hang-once', `lane ${n}`);
    await until(() => victim.of('started').length === 40, { what: 'all lanes run' });
    for (const n of upTo(20)) await send('step', `lane ${n}`);
    await victim.kill();
    await startWorker(database.url, ONE_BY_ONE);
    await drained();
    for (const n of upTo(20)) {
      const starts = (await startsOf(`lane ${n}`)).map(({ seq, attempt }) => [seq, attempt]);
      expect(starts).toEqual([
        [2, 1],
        [2, 2],
        [3, 1],
      ]);
    }
    await app.close();
  });
});

describe('a process that is paused past its lease', () => {
  it('has lost its lane: another one runs it on, and what the old run completes is refused', async () => {
    const { app, send } = await startSender();
    const paused = await startWorker(database.url, LANES);
    const head = await send('wait-then-complete');
    const follower = await send('effect');
    await paused.started({ id: head });
    paused.process.kill('SIGSTOP');
    const other = await startWorker(database.url, LANES);
    expect(await other.started({ id: head })).toMatchObject({ attempt: 2, seq: 1 });
    other.send('go');
    expect(await other.started({ id: follower })).toMatchObject({ attempt: 1, seq: 2 });
    await drained();
    await tables.sql('DELETE FROM effect');
    paused.send('go');
    paused.process.kill('SIGCONT');
    await until(() => paused.of('outcome').length, { what: 'its completion is answered', timeoutMs: 20_000 });
    expect(paused.of('outcome')).toEqual([{ type: 'outcome', id: head, outcome: 'lease_lost' }]);
    const next = await send('effect');
    await until(async () => !(await app.queue.exists(next)), { what: 'the lane runs on' });
    expect(await tables.sql('SELECT job_id::text AS id FROM effect')).toEqual([{ id: next }]);
    expect(paused.of('started').filter(({ id }) => id === follower)).toEqual([]);
    const seqs = [...other.of('started'), ...paused.of('started')].filter(({ id }) => id === next);
    expect(seqs).toMatchObject([{ seq: 3 }]);
    await app.close();
  });
});

describe('a shutdown', () => {
  it('lets the running head end, releases its lane, and another process goes on at once, no attempt lost', async () => {
    const { app, send } = await startSender();
    const first = await startWorker(database.url, { ...LANES, PREFETCH_MS: '1000' });
    const ids = [await send('step'), await send('wait-then-complete'), await send('step'), await send('step')];
    await first.started({ id: ids[1]! });
    const second = await startWorker(database.url, LANES);
    first.send('close');
    await until(() => tables.number('SELECT count(*) FROM nestmq.runner WHERE stopping'), { what: 'it is stopping' });
    first.send('go');
    await first.exit();
    await drained();
    expect(second.of('started').map(({ id, seq, attempt }) => [id, seq, attempt])).toEqual([
      [ids[2], 3, 1],
      [ids[3], 4, 1],
    ]);
    await app.close();
  });

  it('that aborts the head gives it back with its number and without an attempt, and it stays the first', async () => {
    const { app, send } = await startSender();
    const first = await startWorker(database.url, { ...LANES, GRACE_MS: '50' });
    const [head, follower] = [await send('obey'), await send('step')];
    await first.started({ id: head });
    first.send('close');
    await first.exit();
    expect(await app.queue.get(head)).toMatchObject({ state: 'waiting', attempts: 0 });
    await tables.sql(`UPDATE nestmq.job SET payload = '"step"' WHERE id = $1`, [head]);
    const second = await startWorker(database.url, LANES);
    await drained();
    expect(second.of('started').map(({ id, seq, attempt }) => [id, seq, attempt])).toEqual([
      [head, 1, 1],
      [follower, 2, 1],
    ]);
    await app.close();
  });
});

describe('a job that ends its process', () => {
  it('at the head of its lane dies of its own attempts, then the lane goes on', async () => {
    const app = await startApp({ ...database, queue: { runner: false }, providers: [laneWith({ retries: 1 })] });
    const spawn = async (task: string): Promise<string> => (await app.jobs.spawn('work', task, { key: 'lane' })).id;
    const [killer, follower] = [await spawn('exit'), await spawn('step')];
    while (!(await tables.drained())) {
      const worker = await startWorker(database.url, LANES);
      await until(async () => worker.process.exitCode !== null || (await tables.drained()), {
        what: 'the process has ended, or the queue is empty',
        timeoutMs: 25_000,
      });
      await worker.kill();
    }
    expect(await app.queue.get(killer)).toMatchObject({ state: 'dead', reason: 'lease expired', attempts: 2, seq: 1 });
    expect((await startsOf('lane')).map(({ id, seq, attempt }) => [id, seq, attempt])).toEqual([[follower, 2, 1]]);
    await app.close();
  });
});
