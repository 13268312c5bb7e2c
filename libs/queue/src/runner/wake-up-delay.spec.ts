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

/** How many runners of a fleet look at once at the job with this id. */
function lookAtOnce(fleet: number, id: number): number {
  const ids = Array.from({ length: fleet }, (_, i) => String(1_000 + i));
  let looking = 0;
  for (const own of ids) {
    const delay = new WakeUpDelay(() => (looking += 1));
    delay.setFleet(
      own,
      ids.filter((other) => other !== own),
    );
    delay.hear(jobs(id));
    delay.stop();
  }
  return looking;
}

describe('WakeUpDelay', () => {
  it.each([
    [1, 1],
    [2, 2],
    [3, 2],
    [100, 2],
  ])('lets %d runners look as %d at once, whatever the job', (fleet, first) => {
    for (const id of [1, 2, 17, 99, 100]) expect(lookAtOnce(fleet, id)).toBe(first);
  });

  it('lets the others look a little later, and loses nothing', async () => {
    const heard: WakeUp[] = [];
    const delay = new WakeUpDelay((wakeUp) => heard.push(wakeUp));
    delay.setFleet('9', ['1', '2', '3', '4', '5', '6', '7', '8']);
    const told = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(jobs);
    for (const wakeUp of told) delay.hear(wakeUp);
    expect(heard).toHaveLength(2);
    await jest.advanceTimersByTimeAsync(100);
    expect(new Set(heard)).toEqual(new Set(told));
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
