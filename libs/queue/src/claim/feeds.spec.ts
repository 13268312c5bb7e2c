import { describe, expect, it } from '@jest/globals';
import { comparePositions, type Position } from '../job/job.js';
import type { WakeUp } from '../statements/wake-up.js';
import type { Feed } from './feed.js';
import { Feeds, type HandlerGroup } from './feeds.js';

const PAST: Position = { micros: 1_000, id: '1' };
const SHARED: HandlerGroup = { names: ['a'], channel: null, capacity: () => Infinity };

interface Job {
  channel?: string;
  priority?: number;
  key?: string;
  position?: Position;
}

const news = (job: Job = {}): Extract<WakeUp, { kind: 'jobs' }> => ({
  kind: 'jobs',
  channel: job.channel ?? 'mail',
  priority: job.priority ?? 0,
  stream: 'jobs',
  keyed: job.key !== undefined,
  name: 'a',
  position: job.position ?? PAST,
});

const head = (job: Job = {}) => ({
  channel: job.channel ?? 'mail',
  priority: job.priority ?? 0,
  stream: 'jobs' as const,
  group: 0,
  name: 'a',
  head: job.position ?? PAST,
  keyed: job.key !== undefined,
});

const channelsOf = (feeds: readonly Feed[]): string[] => feeds.map(({ channel }) => channel);

/** A look that leaves more to do, as a full claim does. */
function look(feed: Feed): Feed {
  feed.begin();
  feed.end(feed.after.micros + 1);
  return feed;
}

/** A look that takes all there is. */
function exhaust(feed: Feed, nextDueMicros: number | null = null, nowMicros = 2_000): void {
  feed.begin();
  feed.learn({ exhausted: true, last: null, nextDueMicros, nowMicros, lastKey: null });
}

describe('Feeds', () => {
  it('have no work until they are told of some', () => {
    const feeds = new Feeds([SHARED], null);
    expect(feeds.hasWork(1)).toBe(false);
    feeds.tell(news());
    expect(feeds.hasWork(1)).toBe(true);
  });

  it.each(['arrivals', 'lanes'] as const)('know whether there are ordered jobs: %s', (stream) => {
    const feeds = new Feeds([SHARED], null);
    feeds.tell(news());
    expect(feeds.ordered).toBe(false);
    feeds.tell({ ...news(), stream });
    expect(feeds.ordered).toBe(true);
  });

  it('take channels in turn: the one that was looked at goes to the end of the round', () => {
    const feeds = new Feeds([SHARED], null);
    for (const channel of ['a', 'b', 'c']) feeds.tell(news({ channel }));
    const turns = [1, 2, 3, 4, 5, 6].map(() => channelsOf(feeds.next(1, 1).map(look)));
    expect(turns.flat()).toEqual(['a', 'b', 'c', 'a', 'b', 'c']);
  });

  it('are asked for several channels at once, never for one twice', () => {
    const feeds = new Feeds([SHARED], null);
    for (const channel of ['a', 'b', 'c']) feeds.tell(news({ channel }));
    feeds.tell(news({ channel: 'a', priority: 5 }));
    expect(channelsOf(feeds.next(8, 1))).toEqual(['a', 'b', 'c']);
  });

  it('take the smaller priority first within a channel', () => {
    const feeds = new Feeds([SHARED], null);
    feeds.tell(news({ priority: 5 }));
    feeds.tell(news({ priority: -5 }));
    expect(feeds.next(1, 1)[0]?.priority).toBe(-5);
  });

  it('take what is due longest at every tenth claim of a channel, whatever its priority, so that nothing starves', () => {
    const feeds = new Feeds([SHARED], null);
    feeds.tell(news({ priority: 9, position: { micros: 10, id: '1' } }));
    feeds.tell(news({ priority: 0, position: { micros: 5_000, id: '2' } }));
    const priorities = Array.from({ length: 20 }, () => look(feeds.next(1, 1)[0]!).priority);
    expect(priorities.flatMap((priority, turn) => (priority === 9 ? [turn + 1] : []))).toEqual([10, 20]);
  });

  it('leave a group out that has no room', () => {
    let room = 0;
    const feeds = new Feeds([{ ...SHARED, capacity: () => room }], null);
    feeds.tell(news());
    expect(feeds.hasWork(1)).toBe(false);
    expect(feeds.next(8, 1)).toEqual([]);
    room = 1;
    expect(feeds.next(8, 1)).toHaveLength(1);
  });

  it('tell a notification to the groups of its channel, and what a survey finds to its group', () => {
    const limited: HandlerGroup = { names: ['b'], channel: 'images', capacity: () => 1 };
    const feeds = new Feeds([SHARED, limited], null);
    feeds.tell(news({ channel: 'mail' }));
    expect(feeds.next(1, 1).map(({ group }) => group)).toEqual([0]);
    for (const feed of feeds.next(8, 1)) exhaust(feed);
    expect(feeds.surveyed()).toEqual({
      names: ['a', 'b', 'a', 'b'],
      groups: [0, 1, -1, -1],
      groupChannels: [null, 'images', null, null],
      arrivals: [],
    });
    feeds.survey([{ ...head({ channel: 'sounds' }), group: -1, name: 'b' }]);
    const [sounds] = feeds.next(1, 1);
    expect(sounds).toMatchObject({ channel: 'sounds', group: 1 });
    exhaust(sounds!);
    feeds.survey([{ ...head({ channel: 'mail' }), group: 1 }]);
    expect(feeds.next(8, 1).map(({ group }) => group)).toEqual([1]);
  });

  it('tell a notification of another channel to the group whose job it names', () => {
    const limited: HandlerGroup = { names: ['a'], channel: 'images', capacity: () => 1 };
    const feeds = new Feeds([limited], null);
    feeds.tell({ ...news({ channel: 'mail' }), name: 'b' });
    expect(feeds.hasWork(1)).toBe(false);
    feeds.tell(news({ channel: 'mail' }));
    expect(feeds.hasWork(1)).toBe(true);
  });

  it('do not hear of channels that are not served', () => {
    const feeds = new Feeds([SHARED], new Set(['mail']));
    feeds.tell(news({ channel: 'images' }));
    expect(feeds.hasWork(1)).toBe(false);
  });

  it('know when the next job is due', () => {
    const feeds = new Feeds([SHARED], null);
    expect(feeds.msUntilDue()).toBeNull();
    feeds.clock.ask()(1_000_000_000);
    feeds.tell(news({ channel: 'a' }));
    const now = feeds.clock.nowMicros();
    exhaust(feeds.next(1, 1)[0]!, now + 60_000_000, now);
    feeds.tell(news({ channel: 'b' }));
    exhaust(feeds.next(1, 1)[0]!, now + 30_000_000, now);
    expect(feeds.msUntilDue()).toBeGreaterThan(29_000);
    expect(feeds.msUntilDue()).toBeLessThanOrEqual(30_000);
  });

  it('count every job as due before the clock of the database was heard: the process’s own may be wrong', () => {
    const feeds = new Feeds([SHARED], null);
    feeds.tell(news({ position: { micros: Date.now() * 1_000 + 86_400_000_000, id: '1' } }));
    expect(feeds.hasWork(1)).toBe(true);
  });

  it('go by the clock of the database', () => {
    const feeds = new Feeds([SHARED], null);
    feeds.clock.ask()(5_000_000_000);
    feeds.tell(news({ position: { micros: 5_060_000_000, id: '1' } }));
    exhaust(feeds.next(1, 1)[0]!, 5_060_000_000, 5_000_000_000);
    expect(feeds.hasWork(1)).toBe(false);
    feeds.clock.ask()(5_060_000_001);
    expect(feeds.hasWork(1)).toBe(true);
  });

  it('are forgotten by a survey when they have no job and nothing coming', () => {
    const feeds = new Feeds([SHARED], null);
    feeds.tell(news({ channel: 'gone' }));
    exhaust(feeds.next(1, 1)[0]!);
    feeds.survey([head({ channel: 'mail' })]);
    expect(channelsOf(feeds.next(8, 1))).toEqual(['mail']);
    feeds.tell(news({ channel: 'gone' }));
    expect(channelsOf(feeds.next(8, 1))).toContain('gone');
  });

  it('leave a job on its last attempt alone until there is a slot, and then put it first', () => {
    const feeds = new Feeds([SHARED], null);
    feeds.clock.ask()(1_000_000_000);
    feeds.tell(news({ channel: 'once' }));
    const [once] = feeds.next(1, 0);
    once?.begin();
    // Nothing was taken, though there is something: it may not be taken ahead.
    once?.learn({ exhausted: false, last: null, nextDueMicros: null, nowMicros: 1_000_000_000, lastKey: null });
    expect(feeds.needSlot()).toBe(true);
    expect(feeds.hasWork(0)).toBe(false);
    feeds.tell(news({ channel: 'fast' }));
    expect(channelsOf(feeds.next(8, 0))).toEqual(['fast']);
    expect(channelsOf(feeds.next(8, 1))).toEqual(['once', 'fast']);
  });

  it('look at arrivals from the beginning, whatever they are told of first: a survey looks behind their position only', () => {
    const feeds = new Feeds([SHARED], null);
    feeds.tell({ ...news({ position: { micros: 900, id: '9' } }), stream: 'arrivals' });
    const [feed] = feeds.next(8, 1);
    expect(comparePositions(feed!.after, { micros: 1, id: '1' })).toBeLessThan(0);
  });

  it('look again behind a pause from the first arrival that is there, though claims of one group have passed it before', () => {
    const full: HandlerGroup = { names: ['full'], channel: null, capacity: () => 0 };
    const feeds = new Feeds([SHARED, full], null);
    feeds.clock.ask()(1_000);
    const arrival = (name: string, position: Position) =>
      ({ ...news({ position }), stream: 'arrivals', name }) as const;
    const waits = arrival('full', { micros: 100, id: '1' });
    feeds.tell(waits);
    exhaust(feeds.next(8, 1)[0]!, null, 200);
    feeds.tell(arrival('a', { micros: 300, id: '2' }));
    const [feed] = feeds.next(8, 1);
    feed!.begin();
    feed!.learn({ exhausted: true, paused: true, last: null, nextDueMicros: null, nowMicros: 310, lastKey: null });
    expect(feeds.hasWork(1)).toBe(false);
    const { name, stream, position } = waits;
    const survey = (): void => feeds.survey([{ ...head({ position }), name, stream }]);
    survey();
    expect(feeds.hasWork(1)).toBe(true);
    exhaust(feeds.next(8, 1)[0]!, null, 320);
    survey();
    expect(feeds.hasWork(1)).toBe(false);
  });
});
