import { describe, expect, it } from '@jest/globals';
import { DeathWatch } from './death-watch.js';

const SETTINGS = { leaseMs: 10_000, heartbeatMs: 2_500 };
const peer = (beat: number, ageMs: number, id = '1') => ({ id, beat, ageMs, alike: true });

/** Looks every heartbeat from `fromMs` to `toMs`, the peer's age growing with the time. */
function lookAlong(watch: DeathWatch, fromMs: number, toMs: number, beat: number): string[] {
  const found: string[] = [];
  for (let now = fromMs; now <= toMs; now += SETTINGS.heartbeatMs) {
    found.push(...watch.look([peer(beat, now)], now).map(({ id }) => `${id}@${now}`));
  }
  return found;
}

describe('DeathWatch', () => {
  it('declares a runner dead one lease after its last beat, when it was watched standing still', () => {
    expect(lookAlong(new DeathWatch(SETTINGS), 0, 10_000, 5)).toEqual(['1@10000']);
  });

  it('declares nobody dead at the first look, however old the counter: an outage makes every counter old', () => {
    const watch = new DeathWatch(SETTINGS);
    expect(watch.look([peer(5, 3_600_000), peer(9, 3_600_000, '2')], 0)).toEqual([]);
    expect(watch.look([peer(5, 3_602_500), peer(10, 0, '2')], 2_500)).toEqual([]);
    expect(watch.look([peer(5, 3_605_000), peer(11, 0, '2')], 5_000)).toEqual([peer(5, 3_605_000)]);
  });

  it('declares nobody dead whose counter goes on, whatever the database’s clock says of its age', () => {
    const watch = new DeathWatch(SETTINGS);
    const looks = [0, 1, 2, 3, 4, 5, 6].map((beat) => watch.look([peer(beat, 86_400_000)], beat * 2_500));
    expect(looks.flat()).toEqual([]);
  });

  it('declares nobody dead whose age is short, however long its counter stands: the clock may have been set back', () => {
    const watch = new DeathWatch(SETTINGS);
    const looks = [0, 1, 2, 3, 4, 5, 6, 7, 8].map((turn) => watch.look([peer(5, 100)], turn * 2_500));
    expect(looks.flat()).toEqual([]);
  });

  it('begins anew after a gap in its own heartbeats', () => {
    const watch = new DeathWatch(SETTINGS);
    expect(lookAlong(watch, 0, 7_500, 5)).toEqual([]);
    const afterThePause = 60_000;
    expect(watch.look([peer(5, afterThePause)], afterThePause)).toEqual([]);
    expect(watch.look([peer(5, afterThePause + 2_500)], afterThePause + 2_500)).toEqual([]);
    expect(watch.look([peer(5, afterThePause + 5_000)], afterThePause + 5_000)).toHaveLength(1);
  });

  it('forgets a runner that is no longer among the peers', () => {
    const watch = new DeathWatch(SETTINGS);
    expect(lookAlong(watch, 0, 7_500, 5)).toEqual([]);
    watch.look([], 10_000);
    expect(watch.look([peer(5, 20_000)], 12_500)).toEqual([]);
  });
});
