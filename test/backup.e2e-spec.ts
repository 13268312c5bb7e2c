import { describe, expect, it } from '@jest/globals';
import { startApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { dump, restore } from './support/dump.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { workWith } from './support/work.js';
import { startWorker } from './support/workers.js';

const origin = useDatabase();
const copy = useDatabase();
const original = useTables(origin);
const restored = useTables(copy);

const byNumber = (a: bigint, b: bigint): number => (a < b ? -1 : 1);

const idsOf = (rows: { id: string }[]): string[] => rows.map(({ id }) => id);

describe('a dump taken under load and restored elsewhere', () => {
  it('runs on: every job of the snapshot ends there once, those too that foreign runners had', async () => {
    // So many that no job is on its last attempt when its process is lost to the copy: that would make it dead there.
    const Work = workWith({ retries: 1_000, backoff: { type: 'fixed', base: 20, jitter: 0 } });
    await original.sql('CREATE TABLE effect (job_id bigint PRIMARY KEY)');
    const sender = await startApp({ url: origin.url, queue: { runner: false }, providers: [Work] });
    const workers = await Promise.all([startWorker(origin.url), startWorker(origin.url)]);
    // Leases that are sure to be in the snapshot, jobs that wait for the time to come, and a paused channel.
    const hanging = await sender.jobs.spawnMany(
      [0, 1, 2, 3, 4].map((nth) => ({ name: 'work', payload: 'hang', key: `lane ${nth}`, ordered: nth < 2 })),
    );
    for (const { id } of hanging) {
      await until(() => workers.some((worker) => worker.of('started').some((run) => run.id === id)), {
        what: 'it hangs',
      });
    }
    await sender.jobs.spawn('work', 'fail', { retries: 0 });
    await until(() => original.number('SELECT count(*) FROM nestmq.finished_job'), { what: 'one is dead' });
    await sender.queue.pause('paused');
    await sender.jobs.spawnMany(
      ['1s', '2s', '3s'].map((delay) => ({ name: 'work', payload: 'end', delay: delay as '1s', key: 'later' })),
    );
    await sender.jobs.spawn('work', 'end', { channel: 'paused', bytes: Buffer.from([0, 255]), metadata: { a: '"\\' } });

    const load = { going: true };
    const spawning = (async () => {
      const items = Array.from({ length: 40 }, (_, nth) => ({
        ...{ name: 'work', payload: nth % 4 === 0 ? 'chaos' : 'end', key: nth % 2 ? `k${nth % 5}` : '' },
        ...(nth % 4 === 1 && { ordered: true, key: `lane ${nth % 3}` }),
      }));
      while (load.going) {
        await sender.jobs.spawnMany(items);
        const backlog = () => original.number('SELECT count(*) FROM nestmq.job');
        await until(async () => (await backlog()) < 400, { what: 'the workers keep up' });
      }
    })();
    await until(async () => (await original.number('SELECT count(*) FROM nestmq.job WHERE attempt > 0')) > 0, {
      what: 'some are retried',
    });
    const snapshot = await dump(origin.url);
    load.going = false;
    await spawning;

    await restore(copy.url, snapshot);
    const ids = idsOf(await restored.sql<{ id: string }>('SELECT id FROM nestmq.job ORDER BY id'));
    expect(ids.length).toBe(snapshot.tables.get('job')!.length);
    expect(await restored.number('SELECT count(*) FROM nestmq.lease')).toBeGreaterThan(0);
    expect(await restored.number('SELECT count(*) FROM nestmq.runner')).toBe(2);

    const there = await startApp({ url: copy.url, queue: { leaseMs: 1_000 }, providers: [Work] });
    const ran = () => there.get(Work).runs;
    await until(() => ran().length === ids.length - 1, { what: 'all but the paused one have run' });
    const stats = await there.queue.stats();
    expect(stats.find(({ channel }) => channel === 'paused')).toMatchObject({ paused: true, ready: 1 });
    expect(stats.find(({ channel }) => channel === 'work')).toMatchObject({ dead: 1 });
    await there.queue.resume('paused');
    await until(() => restored.drained(), { what: 'no job and no lease is left' });
    expect(ran().map(({ id }) => id)).toHaveLength(ids.length);
    expect(new Set(ran().map(({ id }) => id))).toEqual(new Set(ids));
    for (const lane of ['lane 0', 'lane 1', 'lane 2']) {
      const inLane = ran().filter(({ key, seq }) => key === lane && seq !== null);
      expect(inLane.length).toBeGreaterThan(0);
      expect(inLane.map(({ id }) => BigInt(id))).toEqual(inLane.map(({ id }) => BigInt(id)).toSorted(byNumber));
      expect(inLane.map(({ seq }) => seq)).toEqual(inLane.map((_, nth) => inLane[0]!.seq! + nth));
    }
    expect(ran().find(({ channel }) => channel === 'paused')).toMatchObject({
      ...{ payload: 'end', bytes: Buffer.from([0, 255]), metadata: { a: '"\\' } },
    });
    // The run that the foreign process had begun has counted.
    for (const { id } of hanging) expect(ran().find((run) => run.id === id)?.attempt).toBe(2);
    expect(await restored.number('SELECT count(*) FROM nestmq.finished_job')).toBe(1);

    // Ids go on behind those of the snapshot.
    const { id: next } = await there.jobs.spawn('work', 'end');
    expect(BigInt(next)).toBeGreaterThan(BigInt(ids.at(-1)!));
    await until(() => restored.drained(), { what: 'a new job has run' });
    await there.close();

    // The original has taken no notice.
    const left = `SELECT count(*) FROM nestmq.job
      WHERE payload::text <> '"hang"' AND channel <> 'paused' AND key NOT IN ('lane 0', 'lane 1')`;
    await until(async () => (await original.number(left)) === 0, { what: 'the original has run the others' });
    await sender.close();
  });
});
