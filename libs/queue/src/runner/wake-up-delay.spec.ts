import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { Peer } from '../statements/runners.js';
import type { WakeUp } from '../statements/wake-up.js';
import { WakeUpDelay, type WakeUpDelayParts } from './wake-up-delay.js';

beforeEach(() => {
  jest.useFakeTimers({ now: 0 });
  jest.spyOn(Math, 'random').mockReturnValue(0.5);
});
afterEach(() => {
  jest.useRealTimers();
  jest.restoreAllMocks();
});

/** Of a runner whose handlers take long. */
const PARTS: WakeUpDelayParts = {
  pass: () => undefined,
  hasHandler: () => true,
  canRun: () => true,
  tiny: () => false,
  idle: () => true,
  listen: () => {
    throw new Error('It is to listen all the time.');
  },
  catchUp: () => undefined,
  nowMicros: () => Date.now() * 1_000,
};

/** What a runner of such a fleet does with what it hears, where every job is for it. */
function delayOf(own: string, fleet: readonly string[], pass: (wakeUp: WakeUp) => void): WakeUpDelay {
  const delay = new WakeUpDelay({ ...PARTS, pass });
  delay.order.setFleet(own, peersOf(own, fleet));
  return delay;
}

const peersOf = (own: string, fleet: readonly string[]): Peer[] =>
  fleet.filter((id) => id !== own).map((id) => ({ id, alike: true, beat: 1, ageMs: 0 }));

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
    const delay = delayOf(own, runners, () => (looks += 1));
    for (const id of jobIds) delay.hear(jobs(id));
    delay.stop();
    return looks;
  });
}

const FLEET = ['a', 'b', 'c', 'd'];
const NINE = ['1', '2', '3', '4', '5', '6', '7', '8', '9'];

/** Milliseconds until one runner of that fleet looks at each of these jobs, of which it is told at once. */
async function timesOfLooks(own: string, jobIds: readonly number[]): Promise<number[]> {
  const start = Date.now();
  const times: number[] = [];
  const delay = delayOf(own, FLEET, () => times.push(Date.now() - start));
  for (const id of jobIds) delay.hear(jobs(id));
  await jest.advanceTimersByTimeAsync(100);
  return times;
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, each) => total + each, 0);

/** A runner that is never the first, nor the second. */
class LateComer {
  readonly delay: WakeUpDelay;
  private readonly times = new Set<number>();

  constructor(canRun = true) {
    const pass = (): unknown => this.times.add(Date.now());
    this.delay = new WakeUpDelay({ ...PARTS, pass, canRun: () => canRun });
    const { order } = this.delay;
    const count = order.placeFor.bind(order);
    order.placeFor = (position) => count(position) + 2;
  }

  get looks(): number {
    return this.times.size;
  }

  /** How often it looks while a job is told of every five milliseconds. */
  async looksWithin(ms: number, waitedMs: number | null): Promise<number> {
    const before = this.looks;
    for (let passed = 0; passed < ms; passed += 5) {
      const seen = this.looks;
      this.delay.hear(jobs(7));
      await jest.advanceTimersByTimeAsync(5);
      if (this.looks > seen) this.delay.look()(waitedMs);
    }
    return this.looks - before;
  }

  /** Milliseconds from a job that is told of to the look, which says what it has found. */
  async msUntilLook(waitedMs: number | null = null): Promise<number> {
    const [before, start] = [this.looks, Date.now()];
    this.delay.hear(jobs(7));
    while (this.looks === before) await jest.advanceTimersByTimeAsync(1);
    this.delay.look()(waitedMs);
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

  it('lets the others look a little later, and loses nothing', async () => {
    const heard: WakeUp[] = [];
    const delay = delayOf('9', NINE, (wakeUp) => heard.push(wakeUp));
    const told = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(jobs);
    for (const wakeUp of told) delay.hear(wakeUp);
    expect(heard.length).toBeLessThan(told.length / 2);
    await jest.advanceTimersByTimeAsync(100);
    expect(new Set(heard)).toEqual(new Set(told));
  });

  it.each([
    ['that find nothing', null],
    ['that find what the first one would have come to', 12],
  ])('keeps a distance between late looks %s', async (_, waitedMs) => {
    const runner = new LateComer();
    expect(await runner.looksWithin(20_000, waitedMs)).toBeLessThan(80);
  });

  it('keeps none any more as soon as one finds what has waited', async () => {
    const runner = new LateComer();
    await runner.looksWithin(5_000, null);
    expect(await runner.looksWithin(300, null)).toBe(1);
    while ((await runner.looksWithin(5, 50)) === 0);
    expect(await runner.looksWithin(300, null)).toBe(3);
  });

  it('keeps a distance in a fleet with little to do only while it finds nothing', async () => {
    const runner = new LateComer();
    for (let look = 0; look < 5; look++) await runner.msUntilLook(null);
    expect(await runner.msUntilLook(null)).toBeGreaterThan(100);
    for (let look = 0; look < 7; look++) await runner.msUntilLook(1);
    expect(await runner.msUntilLook(null)).toBeLessThan(100);
  });

  it('is no later than ever behind a pause', async () => {
    const runner = new LateComer();
    await runner.looksWithin(5_000, null);
    expect(await runner.msUntilLook()).toBeGreaterThan(100);
    await jest.advanceTimersByTimeAsync(1_000);
    expect(await runner.msUntilLook()).toBeLessThan(100);
  });

  it('counts only looks that came late', async () => {
    const runner = new LateComer();
    for (let look = 0; look < 10; look++) runner.delay.look()(null);
    await runner.msUntilLook();
    expect(await runner.msUntilLook()).toBeLessThan(100);
  });

  it('counts of looks under way none that began before the late one', async () => {
    const runner = new LateComer();
    const underWay = Array.from({ length: 10 }, () => runner.delay.look());
    await runner.msUntilLook();
    for (const end of underWay) end(null);
    expect(await runner.msUntilLook()).toBeLessThan(100);
  });

  it('does not count looks for jobs that it could not run', async () => {
    const other = new LateComer(false);
    expect(await other.looksWithin(20_000, null)).toBeGreaterThan(200);
  });

  it('is never the first for jobs of other handlers, though some for its own may have come with them', async () => {
    const alone = new WakeUpDelay({
      ...PARTS,
      pass: () => times.push(Date.now()),
      hasHandler: () => false,
      canRun: () => false,
    });
    const times: number[] = [];
    alone.hear(jobs(1));
    expect(times).toEqual([]);
    await jest.advanceTimersByTimeAsync(100);
    expect(times).toEqual([62]);
  });

  it('delays no survey', () => {
    const heard: WakeUp[] = [];
    const delay = delayOf('9', NINE, (wakeUp) => heard.push(wakeUp));
    delay.hear({ kind: 'survey' });
    expect(heard).toEqual([{ kind: 'survey' }]);
  });

  it('leaves no timer when it stops', () => {
    const delay = delayOf('9', NINE, () => undefined);
    for (const wakeUp of [1, 2, 3, 4].map(jobs)) delay.hear(wakeUp);
    delay.stop();
    expect(jest.getTimerCount()).toBe(0);
  });
});

/** A runner of tiny jobs in a busy fleet of eight, and whether it listens. */
class Napper {
  readonly delay: WakeUpDelay;
  listens = true;
  passed = 0;
  caughtUp = 0;

  constructor(parts: Partial<WakeUpDelayParts> = {}) {
    this.delay = new WakeUpDelay({
      ...PARTS,
      pass: () => (this.passed += 1),
      tiny: () => true,
      listen: (listening) => (this.listens = listening),
      catchUp: () => (this.caughtUp += 1),
      ...parts,
    });
    this.delay.order.setFleet('3', peersOf('3', NINE.slice(1)));
  }

  /** Time passes, with a job every few milliseconds, of which it is told while it listens. */
  async listen(ms: number, everyMs = 5): Promise<{ listened: number; told: number }> {
    let [listened, told] = [0, 0];
    for (let passed = 0; passed < ms; passed += everyMs) {
      if (this.listens) {
        listened += 1;
        this.delay.hear(jobsNow());
      }
      told += 1;
      await jest.advanceTimersByTimeAsync(everyMs);
    }
    return { listened, told };
  }
}

const jobsNow = (): WakeUp => ({ ...jobs(1), position: { micros: Date.now() * 1_000, id: '1' } }) as WakeUp;

describe('a runner of tiny jobs in a busy fleet', () => {
  it('listens for a part of the time only, its turns among it', async () => {
    const napper = new Napper();
    const firsts: boolean[] = [];
    const place = napper.delay.order.placeFor.bind(napper.delay.order);
    await napper.listen(500);
    for (let round = 0; round < 20; round++) {
      const { listened, told } = await napper.listen(1_600);
      expect(listened / told).toBeLessThan(0.5);
    }
    for (let n = 0; n < 320; n++) {
      await napper.listen(5);
      const first = place({ micros: Date.now() * 1_000, id: '1' }, true) === 0;
      if (first) firsts.push(napper.listens);
    }
    expect(firsts.length).toBeGreaterThan(0);
    expect(firsts).not.toContain(false);
  });

  it.each<[string, Partial<WakeUpDelayParts>]>([
    ['its jobs are not tiny', { tiny: () => false }],
    ['something runs here', { idle: () => false }],
    ['the jobs are not for it', { hasHandler: () => false }],
  ])('listens all the time while %s', async (_, parts) => {
    const napper = new Napper(parts);
    const { listened, told } = await napper.listen(5_000);
    expect(listened).toBe(told);
  });

  it('listens all the time while there is little to do', async () => {
    const napper = new Napper();
    const { listened, told } = await napper.listen(10_000, 25);
    expect(listened).toBe(told);
  });

  async function nappingOne(): Promise<Napper> {
    const napper = new Napper();
    for (let tries = 0; napper.listens && tries < 1_000; tries++) await napper.listen(5);
    expect(napper.listens).toBe(false);
    return napper;
  }

  it('listens again as soon as there is something to run', async () => {
    const napper = await nappingOne();
    napper.delay.look()(null);
    napper.delay.look()(12);
    expect(napper.listens).toBe(false);
    napper.delay.accepted();
    expect([napper.listens, napper.caughtUp]).toEqual([true, 0]);
  });

  it('is awake for a second when what it has found had waited, and looks for what it was not told of, once', async () => {
    const napper = await nappingOne();
    napper.delay.look()(50);
    napper.delay.look()(50);
    expect([napper.listens, napper.caughtUp]).toEqual([true, 1]);
    const { listened, told } = await napper.listen(1_000);
    expect(listened).toBe(told);
    expect((await napper.listen(1_600)).listened).toBeLessThan(300);
  });

  it('listens again when the load has gone', async () => {
    const napper = await nappingOne();
    await jest.advanceTimersByTimeAsync(1_000);
    expect(napper.listens).toBe(true);
  });

  it('looks at what it has heard of before its nap', async () => {
    const napper = await nappingOne();
    const { passed } = napper;
    await jest.advanceTimersByTimeAsync(600);
    expect(napper.passed).toBeGreaterThan(passed);
  });

  it('leaves no timer when it stops', async () => {
    const napper = await nappingOne();
    napper.delay.stop();
    expect(jest.getTimerCount()).toBe(0);
  });
});
