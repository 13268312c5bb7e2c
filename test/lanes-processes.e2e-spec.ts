import { describe, expect, it } from '@jest/globals';
import { useDatabase } from './support/database.js';
import { BATCHES, LANES, MANY, ONE_BY_ONE, useLaneProcesses, type Step } from './support/lane-steps.js';
import { upTo } from './support/lanes.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { startWorker, type WorkerProcess } from './support/workers.js';

const database = useDatabase();
const tables = useTables(database);
const { stepsOf, drained, startSender, startTwo } = useLaneProcesses(database, tables);

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
    const workers = await startTwo(LANES);
    const [first, second] = [await send('wait-then-complete'), await send('end')];
    const runsFirst = (worker: WorkerProcess): boolean => worker.of('started').some(({ id }) => id === first);
    const holder = await until(() => workers.find(runsFirst), { what: 'the first one runs' });
    const markers = await Promise.all(upTo(10).map((n) => send('end', `marker ${n}`)));
    await until(async () => (await Promise.all(markers.map((id) => app.queue.exists(id)))).every((is) => !is), {
      what: 'jobs of ten other lanes have run',
    });
    const begun = (await Promise.all(workers.map((worker) => worker.starts()))).flat();
    expect(begun.filter(({ id }) => id === second)).toEqual([]);
    holder.send('go');
    await until(() => workers.flatMap((worker) => worker.of('started')).some(({ id }) => id === second), {
      what: 'the second one starts',
    });
    await drained();
    await app.close();
  });

  // acceptance: 7 row 3; modkit-db outbox K parallel_sequencers_*, C concurrent_enqueue_during_sequencer_preserves_order
  it.each([
    ['one job at a time', ONE_BY_ONE],
    ['runs of many', MANY],
    ['batches', BATCHES],
  ])(
    'never overlap in a lane nor leave its order, under random failures and many spawners, with %s',
    async (_, env) => {
      const { app } = await startSender();
      // One slot each, and polls, so that neither has all lanes.
      const workers = await startTwo({ ...env, CONCURRENCY: '1', POLL_MS: '300' });
      const sent = new Map<string, string[]>([
        ['a', []],
        ['b', []],
        ['c', []],
      ]);
      // One spawner a lane, so that the order of the calls is known, and three in another one.
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
    await until(() => paused.of('outcome').length, { what: 'its completion is answered' });
    expect(paused.of('outcome')).toEqual([{ type: 'outcome', id: head, outcome: 'lease_lost' }]);
    const next = await send('effect');
    await until(async () => !(await app.queue.exists(next)), { what: 'the lane runs on' });
    expect(await tables.sql('SELECT job_id::text AS id FROM effect')).toEqual([{ id: next }]);
    const [byPaused, byOther] = [await paused.starts(), await other.starts()];
    expect(byPaused.filter(({ id }) => id === follower)).toEqual([]);
    expect([...byPaused, ...byOther].filter(({ id }) => id === next)).toMatchObject([{ seq: 3 }]);
    await app.close();
  });
});

describe('a shutdown', () => {
  it('lets the running head end, releases its lane, and another process goes on at once, no attempt lost', async () => {
    const { app, send } = await startSender();
    const first = await startWorker(database.url, MANY);
    const ids = [await send('step'), await send('wait-then-complete'), await send('step'), await send('step')];
    await first.started({ id: ids[1]! });
    const second = await startWorker(database.url, LANES);
    first.send('close');
    await until(() => tables.number('SELECT count(*) FROM nestmq.runner WHERE stopping'), { what: 'it is stopping' });
    first.send('go');
    await first.exit();
    await drained();
    expect((await second.starts()).map(({ id, seq, attempt }) => [id, seq, attempt])).toEqual([
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
    expect((await second.starts()).map(({ id, seq, attempt }) => [id, seq, attempt])).toEqual([
      [head, 1, 1],
      [follower, 2, 1],
    ]);
    await app.close();
  });
});
