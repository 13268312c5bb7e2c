import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { WakeUp } from '../statements/wake-up.js';
import { WakeUpDelay } from './wake-up-delay.js';

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

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
    const delay = new WakeUpDelay(() => (looks += 1));
    delay.setFleet(
      own,
      runners.filter((other) => other !== own),
    );
    for (const id of jobIds) delay.hear(jobs(id));
    delay.stop();
    return looks;
  });
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, each) => total + each, 0);

/** One whose looks are never the first. */
function lateComer(): { delay: WakeUpDelay; looks: () => number } {
  const times = new Set<number>();
  const delay = new WakeUpDelay(() => times.add(Date.now()));
  const peers = Array.from({ length: 1_000 }, (_, i) => `peer ${i}`);
  delay.setFleet('runner', peers);
  return { delay, looks: () => times.size };
}

describe('WakeUpDelay', () => {
  it.each([
    [1, 1],
    [2, 2],
    [3, 2],
    [100, 2],
  ])('lets %d runners look as %d at once, whatever the job', (fleet, first) => {
    for (const id of [1, 2, 17, 99, 100]) expect(sum(looksAtOnce(fleet, [id]))).toBe(first);
  });

  it.each([1, 2, 8, 100, 1_000])('shares the first looks evenly when ids are %d apart', (step) => {
    const looks = looksAtOnce(
      8,
      Array.from({ length: 1_000 }, (_, i) => 1 + i * step),
    );
    for (const own of looks) expect(own / (sum(looks) / 8)).toBeCloseTo(1, 0.5);
  });

  it('lets the others look a little later, and loses nothing', async () => {
    const heard: WakeUp[] = [];
    const delay = new WakeUpDelay((wakeUp) => heard.push(wakeUp));
    delay.setFleet('9', ['1', '2', '3', '4', '5', '6', '7', '8']);
    const told = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(jobs);
    for (const wakeUp of told) delay.hear(wakeUp);
    expect(heard.length).toBeLessThan(told.length / 2);
    await jest.advanceTimersByTimeAsync(100);
    expect(new Set(heard)).toEqual(new Set(told));
  });

  it('lets those who look in vain look more seldom, and the others as often as before', async () => {
    const { delay, looks } = lateComer();
    const looksWithin = async (ms: number, found: boolean): Promise<number> => {
      const before = looks();
      for (let passed = 0; passed < ms; passed += 5) {
        const seen = looks();
        delay.hear(jobs(7));
        await jest.advanceTimersByTimeAsync(5);
        if (looks() > seen) delay.looked(found);
      }
      return looks() - before;
    };
    expect(await looksWithin(10_000, false)).toBeLessThan(60);
    expect(await looksWithin(1_000, true)).toBeGreaterThan(3);
    expect(await looksWithin(10_000, true)).toBeGreaterThan(95);
    delay.stop();
  });

  it('counts only the looks that came late', async () => {
    const { delay, looks } = lateComer();
    for (let look = 0; look < 10; look++) delay.looked(false);
    delay.hear(jobs(7));
    await jest.advanceTimersByTimeAsync(100);
    expect(looks()).toBe(1);
  });

  it('delays no survey', () => {
    const heard: WakeUp[] = [];
    const delay = new WakeUpDelay((wakeUp) => heard.push(wakeUp));
    delay.setFleet('9', ['1', '2', '3', '4', '5', '6', '7', '8']);
    delay.hear({ kind: 'survey' });
    expect(heard).toEqual([{ kind: 'survey' }]);
  });

  it('leaves no timer when it stops', () => {
    const delay = new WakeUpDelay(() => undefined);
    delay.setFleet('9', ['1', '2', '3', '4', '5', '6', '7', '8']);
    for (const wakeUp of [1, 2, 3, 4].map(jobs)) delay.hear(wakeUp);
    delay.stop();
    expect(jest.getTimerCount()).toBe(0);
  });
});
