import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { WakeUp } from '../statements/wake-up.js';
import { WakeUpDelay } from './wake-up-delay.js';

beforeEach(() => {
  jest.useFakeTimers();
  jest.spyOn(Math, 'random').mockReturnValue(0.5);
});
afterEach(() => {
  jest.useRealTimers();
  jest.restoreAllMocks();
});

/** Every job is for this process. */
const RUNNABLE = (): boolean => true;

const jobs = (id: number): WakeUp => ({
  kind: 'jobs',
  position: { micros: 1, id: String(id) },
  priority: 0,
  channel: 'mail',
  stream: 'jobs',
  keyed: false,
  name: 'a',
});

/** How often each runner of a fleet looks at once at the jobs with these ids. */
function looksAtOnce(fleet: number, jobIds: readonly number[]): number[] {
  const runners = Array.from({ length: fleet }, (_, i) => String(1_000 + i));
  return runners.map((own) => {
    let looks = 0;
    const delay = new WakeUpDelay(() => (looks += 1), RUNNABLE);
    delay.setFleet(
      own,
      runners.filter((other) => other !== own),
    );
    for (const id of jobIds) delay.hear(jobs(id));
    delay.stop();
    return looks;
  });
}

const FLEET = ['a', 'b', 'c', 'd'];

/** Milliseconds until one runner of that fleet looks at each of these jobs, of which it is told at once. */
async function timesOfLooks(own: string, jobIds: readonly number[]): Promise<number[]> {
  const start = Date.now();
  const times: number[] = [];
  const delay = new WakeUpDelay(() => times.push(Date.now() - start), RUNNABLE);
  delay.setFleet(
    own,
    FLEET.filter((peer) => peer !== own),
  );
  for (const id of jobIds) delay.hear(jobs(id));
  await jest.advanceTimersByTimeAsync(100);
  return times;
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, each) => total + each, 0);

/** Looks that are never the first. */
class LateComer {
  readonly delay: WakeUpDelay;
  private readonly times = new Set<number>();

  constructor(canRun = RUNNABLE) {
    this.delay = new WakeUpDelay(() => this.times.add(Date.now()), canRun);
    this.delay.setFleet(
      'runner',
      Array.from({ length: 1_000 }, (_, i) => `peer ${i}`),
    );
  }

  get looks(): number {
    return this.times.size;
  }

  /** How often it looks while a job is told of every five milliseconds. */
  async looksWithin(ms: number, found: boolean): Promise<number> {
    const before = this.looks;
    for (let passed = 0; passed < ms; passed += 5) {
      const seen = this.looks;
      this.delay.hear(jobs(7));
      await jest.advanceTimersByTimeAsync(5);
      if (this.looks > seen) this.delay.look()(found);
    }
    return this.looks - before;
  }

  /** Milliseconds from a job that is told of to the look. */
  async msUntilLook(): Promise<number> {
    const [before, start] = [this.looks, Date.now()];
    this.delay.hear(jobs(7));
    while (this.looks === before) await jest.advanceTimersByTimeAsync(1);
    return Date.now() - start;
  }
}

describe('WakeUpDelay', () => {
  it.each([1, 2, 3, 100])('lets one of %d runners look at once, whatever the job', (fleet) => {
    for (const id of [1, 2, 17, 99, 100]) expect(sum(looksAtOnce(fleet, [id]))).toBe(1);
  });

  it('lets a second one look before the others', async () => {
    for (let id = 0; id < 20; id++) {
      const times = await Promise.all(FLEET.map((own) => timesOfLooks(own, [id])));
      expect(times.flat().toSorted((a, b) => a - b)).toEqual([0, 10, 62, 62]);
    }
  });

  it('does so too where that one had a later look ahead', async () => {
    const placed = await Promise.all(
      Array.from({ length: 20 }, async (_, id) => ({ id, at: await timesOfLooks('a', [id]) })),
    );
    const idAt = (ms: number): number => placed.find(({ at }) => at[0] === ms)!.id;
    expect(await timesOfLooks('a', [idAt(62), idAt(10)])).toEqual([10, 10]);
    expect(await timesOfLooks('a', [idAt(10), idAt(62)])).toEqual([10, 10]);
  });

  it.each([1, 2, 8, 100, 1_000])('shares the first looks evenly when ids are %d apart', (step) => {
    const looks = looksAtOnce(
      8,
      Array.from({ length: 1_000 }, (_, i) => 1 + i * step),
    );
    for (const own of looks) {
      expect(own).toBeGreaterThan(0.85 * (sum(looks) / 8));
      expect(own).toBeLessThan(1.15 * (sum(looks) / 8));
    }
  });

  it('lets the others look a little later, and loses nothing', async () => {
    const heard: WakeUp[] = [];
    const delay = new WakeUpDelay((wakeUp) => heard.push(wakeUp), RUNNABLE);
    delay.setFleet('9', ['1', '2', '3', '4', '5', '6', '7', '8']);
    const told = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(jobs);
    for (const wakeUp of told) delay.hear(wakeUp);
    expect(heard.length).toBeLessThan(told.length / 2);
    await jest.advanceTimersByTimeAsync(100);
    expect(new Set(heard)).toEqual(new Set(told));
  });

  it('keeps a distance between late looks that are in vain, and none while they find something', async () => {
    const runner = new LateComer();
    expect(await runner.looksWithin(20_000, false)).toBeLessThan(120);
    await runner.looksWithin(1_000, true);
    expect(await runner.looksWithin(20_000, true)).toBeGreaterThan(200);
  });

  it('is no later than ever behind a pause', async () => {
    const runner = new LateComer();
    await runner.looksWithin(5_000, false);
    expect(await runner.msUntilLook()).toBeGreaterThan(100);
    await jest.advanceTimersByTimeAsync(1_000);
    expect(await runner.msUntilLook()).toBeLessThan(100);
  });

  it('counts only looks that came late', async () => {
    const runner = new LateComer();
    for (let look = 0; look < 10; look++) runner.delay.look()(false);
    await runner.msUntilLook();
    expect(await runner.msUntilLook()).toBeLessThan(100);
  });

  it('counts of looks under way none that began before the late one', async () => {
    const runner = new LateComer();
    const underWay = Array.from({ length: 10 }, () => runner.delay.look());
    await runner.msUntilLook();
    for (const end of underWay) end(false);
    expect(await runner.msUntilLook()).toBeLessThan(100);
  });

  it('does not count looks for jobs that it could not run', async () => {
    const other = new LateComer(() => false);
    expect(await other.looksWithin(20_000, false)).toBeGreaterThan(200);
  });

  it('delays no survey', () => {
    const heard: WakeUp[] = [];
    const delay = new WakeUpDelay((wakeUp) => heard.push(wakeUp), RUNNABLE);
    delay.setFleet('9', ['1', '2', '3', '4', '5', '6', '7', '8']);
    delay.hear({ kind: 'survey' });
    expect(heard).toEqual([{ kind: 'survey' }]);
  });

  it('leaves no timer when it stops', () => {
    const delay = new WakeUpDelay(() => undefined, RUNNABLE);
    delay.setFleet('9', ['1', '2', '3', '4', '5', '6', '7', '8']);
    for (const wakeUp of [1, 2, 3, 4].map(jobs)) delay.hear(wakeUp);
    delay.stop();
    expect(jest.getTimerCount()).toBe(0);
  });
});
