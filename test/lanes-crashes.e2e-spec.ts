import { describe, expect, it } from '@jest/globals';
import { startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { LANES, MANY, ONE_BY_ONE, useLaneProcesses } from './support/lane-steps.js';
import { laneWith, upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { gate } from './support/work.js';
import { startWorker } from './support/workers.js';

const database = useDatabase();
const tables = useTables(database);
const { startsOf, drained, startSender, startTwo } = useLaneProcesses(database, tables);

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
    const workers = await startTwo(MANY);
    const ids: string[] = [];
    for (const _ of upTo(10)) {
      const items = Array.from({ length: 50 }, () => ({ name: 'work', payload: 'step', key: 'lane' }));
      ids.push(...(await app.jobs.spawnMany(items)).map(({ id }) => id));
    }
    await until(async () => (await startsOf('lane')).length > 100, { what: 'it is in the middle' });
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

  it('leaves the jobs of a lane their numbers, also when one that was spawned before them commits meanwhile', async () => {
    const { app } = await startSender();
    const workers = await startTwo(MANY);
    const [commit, spawned] = [gate(), gate()];
    const late = app.dataSource.transaction(async (manager) => {
      await app.jobs.spawn('work', 'step', { key: 'lane', manager });
      spawned.open();
      await commit.opened;
    });
    await spawned.opened;
    await app.jobs.spawnMany(upTo(150).map(() => ({ name: 'work', payload: 'step', key: 'lane' })));
    await until(async () => (await startsOf('lane')).length > 40, { what: 'it is in the middle' });
    commit.open();
    await late;
    const { pid } = (await startsOf('lane')).at(-1)!;
    await workers.find((worker) => worker.pid === pid)!.kill();
    await drained();
    const starts = await startsOf('lane');
    const numbers = new Map(starts.map(({ id, seq }) => [id, seq]));
    expect(starts.filter(({ id, seq }) => numbers.get(id) !== seq)).toEqual([]);
    expect([...numbers.values()].toSorted((one, other) => one - other)).toEqual(upTo(151));
    await app.close();
  });

  /** A head that takes every process with it until it is dead, and a job behind it. */
  async function dieOfCrashes(onDead: 'skip' | 'block') {
    const Work = laneWith({ retries: 1, onDead });
    const app = await startApp({ ...database, queue: { runner: false }, providers: [Work] });
    const send = async (task: string): Promise<string> => (await app.jobs.spawn('work', task, { key: 'lane' })).id;
    const [head, follower] = [await send('hang'), await send('step')];
    for (const attempt of [1, 2]) {
      const worker = await startWorker(database.url, { ...LANES, ON_DEAD: onDead });
      expect(await worker.started({ id: head })).toMatchObject({ attempt });
      await worker.kill();
    }
    const last = await startWorker(database.url, { ...LANES, ON_DEAD: onDead });
    await until(async () => (await app.queue.get(head))?.state === 'dead', { what: 'it is dead' });
    expect(await app.queue.get(head)).toMatchObject({ reason: 'lease expired', attempts: 2, seq: 1 });
    return { app, last, head, follower };
  }

  it('again and again makes the head dead, and the others run', async () => {
    const { app, last, follower } = await dieOfCrashes('skip');
    expect(await last.started({ id: follower })).toMatchObject({ attempt: 1, seq: 2 });
    await drained();
    await app.close();
  });

  it('again and again blocks the lane where its handler says so, until somebody lets it go on', async () => {
    const { app, last, head, follower } = await dieOfCrashes('block');
    expect(await app.queue.lanes('work')).toMatchObject([
      { key: 'lane', state: 'blocked', reason: 'dead', headId: head },
    ]);
    await app.jobs.spawn('work', 'end', { key: 'another lane' });
    await until(() => last.of('started').length, { what: 'a job of another lane has run' });
    expect(await startsOf('lane')).toEqual([]);
    expect(await app.deadLetters.discard(head)).toBe(1);
    expect(await last.started({ id: follower })).toMatchObject({ attempt: 1, seq: 2 });
    await drained();
    await app.close();
  });

  it('of a process whose lane rests and others wait leaves no lane behind', async () => {
    const { app, send } = await startSender();
    const victim = await startWorker(database.url, ONE_BY_ONE);
    for (const n of upTo(5)) await send('end', `lane ${n}`);
    await drained();
    for (const n of upTo(5)) await send('hang-once', `lane ${n}`);
    // The first five have left no step.
    await until(async () => (await tables.number('SELECT count(*) FROM step')) === 5, { what: 'all lanes run' });
    for (const n of upTo(5)) await send('step', `lane ${n}`);
    await victim.kill();
    await startWorker(database.url, ONE_BY_ONE);
    await drained();
    for (const n of upTo(5)) {
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

describe('a job that ends its process', () => {
  it('at the head of its lane dies of its own attempts, then the lane goes on', async () => {
    const app = await startApp({ ...database, queue: { runner: false }, providers: [laneWith({ retries: 1 })] });
    const spawn = async (task: string): Promise<string> => (await app.jobs.spawn('work', task, { key: 'lane' })).id;
    const [killer, follower] = [await spawn('exit'), await spawn('step')];
    while (!(await tables.drained())) {
      const worker = await startWorker(database.url, LANES);
      await until(async () => worker.process.exitCode !== null || (await tables.drained()), {
        what: 'the process has ended, or the queue is empty',
      });
      await worker.kill();
    }
    expect(await app.queue.get(killer)).toMatchObject({ state: 'dead', reason: 'lease expired', attempts: 2, seq: 1 });
    expect((await startsOf('lane')).map(({ id, seq, attempt }) => [id, seq, attempt])).toEqual([[follower, 2, 1]]);
    await app.close();
  });
});
