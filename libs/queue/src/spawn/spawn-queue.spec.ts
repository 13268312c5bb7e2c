import { describe, expect, it } from '@jest/globals';
import type { NewJob } from '../statements/new-job.js';
import { SpawnQueue } from './spawn-queue.js';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A queue whose INSERTs end when the test says so. */
function useQueue(overlaps: (jobs: readonly unknown[]) => boolean = () => true) {
  const inserts: { size: number; end: (error?: Error) => Promise<void> }[] = [];
  const queue = new SpawnQueue<number>({
    overlaps,
    isShared: (error) => (error as Error).message === 'shared',
    write: (jobs) =>
      new Promise((resolve, reject) => {
        const answer = jobs as unknown as number[];
        const end = async (error?: Error): Promise<void> => {
          if (error === undefined) resolve(answer);
          else reject(error);
          await turn();
        };
        inserts.push({ size: jobs.length, end });
      }),
  });
  let last = 0;
  const spawn = (count: number): Promise<number[]> =>
    queue.insert(Array.from({ length: count }, () => ++last) as unknown as NewJob[]);
  return { queue, inserts, spawn, sizes: () => inserts.map(({ size }) => size) };
}

describe('plain spawns of a process', () => {
  it('go out together when they are called in one turn, and while an INSERT is under way', async () => {
    const { inserts, spawn, sizes } = useQueue();
    const first = [spawn(1), spawn(2)];
    await turn();
    const second = [spawn(3), spawn(4)];
    await turn();
    expect(sizes()).toEqual([3]);
    await inserts[0]!.end();
    expect(sizes()).toEqual([3, 7]);
    await inserts[1]!.end();
    expect(await Promise.all([...first, ...second])).toEqual([[1], [2, 3], [4, 5, 6], [7, 8, 9, 10]]);
  });

  it('have a second INSERT under way when a hundred jobs wait, and no third one', async () => {
    const { inserts, spawn, sizes } = useQueue();
    const calls = [spawn(1)];
    await turn();
    calls.push(spawn(99));
    await turn();
    expect(sizes()).toEqual([1]);
    calls.push(spawn(1));
    await turn();
    expect(sizes()).toEqual([1, 100]);
    calls.push(spawn(500));
    await turn();
    expect(sizes()).toEqual([1, 100]);
    await inserts[0]!.end();
    expect(sizes()).toEqual([1, 100, 500]);
    await inserts[1]!.end();
    await inserts[2]!.end();
    expect((await Promise.all(calls)).flat()).toHaveLength(601);
  });

  it('wait for the last answer where INSERTs may not overlap', async () => {
    const { inserts, spawn, sizes } = useQueue(() => false);
    const calls = [spawn(1)];
    await turn();
    calls.push(spawn(1_000));
    await turn();
    expect(sizes()).toEqual([1]);
    await inserts[0]!.end();
    await inserts[1]!.end();
    expect((await Promise.all(calls)).flat()).toHaveLength(1_001);
  });

  it('keep what may not overlap apart from what came before and comes behind', async () => {
    const { inserts, spawn, sizes } = useQueue((jobs) => jobs.length !== 101);
    const calls = [spawn(1)];
    await turn();
    calls.push(spawn(101));
    await turn();
    expect(sizes()).toEqual([1]);
    await inserts[0]!.end();
    calls.push(spawn(200));
    await turn();
    expect(sizes()).toEqual([1, 101]);
    await inserts[1]!.end();
    calls.push(spawn(300));
    await turn();
    expect(sizes()).toEqual([1, 101, 200, 300]);
    await inserts[2]!.end();
    await inserts[3]!.end();
    expect((await Promise.all(calls)).flat()).toHaveLength(602);
  });

  it('wait for a call that is larger than a merged INSERT', async () => {
    const { inserts, spawn, sizes } = useQueue();
    const calls = [spawn(1_001)];
    await turn();
    calls.push(spawn(100));
    await turn();
    expect(sizes()).toEqual([1_001]);
    await inserts[0]!.end();
    await inserts[1]!.end();
    expect((await Promise.all(calls)).flat()).toHaveLength(1_101);
  });

  it('leave few jobs that wait to the sender that is left', async () => {
    const { inserts, spawn, sizes } = useQueue();
    const calls = [spawn(1)];
    await turn();
    calls.push(spawn(100));
    await turn();
    calls.push(spawn(5));
    await inserts[0]!.end();
    expect(sizes()).toEqual([1, 100]);
    await inserts[1]!.end();
    expect(sizes()).toEqual([1, 100, 5]);
    await inserts[2]!.end();
    expect((await Promise.all(calls)).flat()).toHaveLength(106);
  });

  it('are sent whenever they are called, also from the answer to another', async () => {
    const { inserts, spawn } = useQueue();
    const chained = spawn(1).then(() => spawn(1));
    await turn();
    await inserts[0]!.end();
    await inserts[1]!.end();
    expect(await chained).toEqual([2]);
  });

  it('are idle when both INSERTs have been answered', async () => {
    const { queue, inserts, spawn } = useQueue();
    const calls = [spawn(1)];
    await turn();
    calls.push(spawn(100));
    await turn();
    let idle = false;
    const ended = queue.idle().then(() => (idle = true));
    await inserts[1]!.end();
    expect(idle).toBe(false);
    await inserts[0]!.end();
    await ended;
    await Promise.all(calls);
  });

  it('are tried one by one when one of them is refused, and refused together when the error is shared', async () => {
    const { inserts, spawn, sizes } = useQueue();
    const calls = [spawn(1), spawn(2)];
    await turn();
    await inserts[0]!.end(new Error('refused'));
    await inserts[1]!.end();
    await inserts[2]!.end(new Error('refused'));
    expect(sizes()).toEqual([3, 1, 2]);
    await expect(calls[0]).resolves.toEqual([1]);
    await expect(calls[1]).rejects.toThrow('refused');
    const lost = [spawn(1), spawn(1)];
    await turn();
    const settled = Promise.allSettled(lost);
    await inserts[3]!.end(new Error('shared'));
    expect((await settled).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  });
});
