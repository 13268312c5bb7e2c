import { comparePositions, type Position } from '../job/job.js';
import type { ArrivalPosition, FeedHead, SurveyParams } from '../statements/survey-feeds.js';
import type { WakeUp } from '../statements/wake-up.js';
import { DatabaseClock } from './database-clock.js';
import { Feed } from './feed.js';

/** Handlers that are claimed for together: all without a limit of their own, or one with. */
export interface HandlerGroup {
  readonly names: readonly string[];
  /** Its jobs' usual channel, `null`: any. Notifications of others concern it only when they name one of its jobs. */
  readonly channel: string | null;
  /** How many more runs of its handlers this process may take now. */
  readonly capacity: () => number;
  /** How many jobs one of its runs takes. Default 1. */
  readonly batch?: () => number;
  /** Groups of one text share their capacity. */
  readonly sharedRoom?: string;
  /** How many of its jobs would start at once, where that is less than there are slots. */
  readonly startable?: () => number;
}

type News = Extract<WakeUp, { kind: 'jobs' }>;

/** Before every job. */
const BEGINNING: Position = { micros: 0, id: '0' };

/** Which feed. */
type Address = Pick<Feed, 'channel' | 'priority' | 'stream' | 'group'>;

/** Every so many claims of a channel take what is due longest, whatever its priority, so that nothing starves. */
const OLDEST_FIRST_EVERY = 10;

/** In a survey: whichever group the job belongs to. */
const ANY_GROUP = -1;

/** All feeds of this process, and whose turn it is. */
export class Feeds {
  /** channel → feeds; the order of the map is the order of turns. */
  private readonly channels = new Map<string, Feed[]>();
  private readonly turns = new Map<string, number>();
  readonly clock = new DatabaseClock();
  private readonly asked: Pick<SurveyParams, 'names' | 'groups' | 'groupChannels'>;

  constructor(
    private readonly groups: readonly HandlerGroup[],
    private readonly served: ReadonlySet<string> | null,
  ) {
    this.asked = this.ask();
  }

  /** A notification, or what this process itself has put somewhere. */
  tell({ channel, priority, stream, keyed, name, position }: News): void {
    if (this.served?.has(channel) === false) return;
    this.groups.forEach((group, index) => {
      const concerned = group.channel === null || group.channel === channel || group.names.includes(name);
      const address = { channel, priority, stream, group: index };
      if (!concerned && this.find(address) === undefined) return;
      const feed = this.findOrAdd(address, position);
      feed.keyed ||= keyed;
      feed.tell(position, this.clock.nowMicros());
    });
  }

  /** Whether this process could run what stands there. */
  hasHandler(news: News): boolean {
    return this.groupsFor(news).length > 0;
  }

  /** Whether it also has room for it. */
  canRun(news: News): boolean {
    return this.groupsFor(news).some(({ capacity }) => capacity() > 0);
  }

  private groupsFor({ channel, name }: News): HandlerGroup[] {
    if (this.served?.has(channel) === false) return [];
    return this.groups.filter(({ names }) => names.includes(name));
  }

  /** The handlers that are claimed for together with this one, by their names. */
  namesBeside(name: string): readonly string[] {
    return this.groups.find(({ names }) => names.includes(name))?.names ?? [];
  }

  /** What a survey has found: the first free job of every feed. Feeds that have none, and nothing coming, are forgotten. */
  survey(heads: readonly FeedHead[]): void {
    const now = this.clock.nowMicros();
    const found = new Set<Feed>();
    const arrivals = heads.filter(({ stream }) => stream === 'arrivals');
    for (const { channel, priority, stream, group, name, head, keyed } of heads) {
      if (head === null) continue;
      if (stream === 'arrivals') {
        this.arrived({ channel, priority, name, head });
        continue;
      }
      const owner = group === ANY_GROUP ? this.groups.findIndex(({ names }) => names.includes(name)) : group;
      const feed = this.findOrAdd({ channel, priority, stream, group: owner }, head);
      feed.keyed = keyed;
      feed.tell(head, now);
      found.add(feed);
    }
    for (const { channel, priority } of arrivals) for (const feed of this.arrivals(channel, priority)) found.add(feed);
    for (const [channel, feeds] of this.channels) {
      const kept = feeds.filter((feed) => found.has(feed) || feed.ready || feed.busy || feed.nextDueMicros !== null);
      if (kept.length > 0) this.channels.set(channel, kept);
      else {
        this.channels.delete(channel);
        this.turns.delete(channel);
      }
    }
  }

  /**
   * What a survey asks for: a group with a channel of its own there only, and the first job of all names everywhere, so
   * that one which was sent to another channel is found when it comes first.
   */
  surveyed(): Omit<SurveyParams, 'channels'> {
    return { ...this.asked, arrivals: this.arrivalPositions() };
  }

  /** Whether ordered jobs have arrived that no look has come to. */
  get arriving(): boolean {
    for (const feeds of this.channels.values())
      if (feeds.some((feed) => feed.stream === 'arrivals' && (feed.ready || feed.busy))) return true;
    return false;
  }

  /** Whether ordered jobs are known of. What came of them late, behind the place to which looks have gone, only wake-ups and sweeps tell. */
  get ordered(): boolean {
    for (const feeds of this.channels.values()) if (feeds.some(({ stream }) => stream !== 'jobs')) return true;
    return false;
  }

  private ask(): Pick<SurveyParams, 'names' | 'groups' | 'groupChannels'> {
    const asked = this.groups.flatMap(({ names, channel }, group) => names.map((name) => ({ name, group, channel })));
    if (this.groups.some(({ channel }) => channel !== null)) {
      asked.push(...asked.map(({ name }) => ({ name, group: ANY_GROUP, channel: null })));
    }
    return {
      names: asked.map(({ name }) => name),
      groups: asked.map(({ group }) => group),
      groupChannels: asked.map(({ channel }) => channel),
    };
  }

  /** Whether a look could find something that a group has room for. @param slots how many jobs would start at once */
  hasWork(slots: number): boolean {
    const now = this.clock.nowMicros();
    for (const feeds of this.channels.values()) {
      if (feeds.some((feed) => this.isReady(feed, now, slots))) return true;
    }
    return false;
  }

  /** Whether a job waits that may be taken only when it starts at once, since it is on its last attempt. */
  needSlot(): boolean {
    const now = this.clock.nowMicros();
    for (const feeds of this.channels.values()) {
      for (const feed of feeds) feed.tick(now);
      const ready = feeds.filter((feed) => feed.ready && this.group(feed).capacity() > 0);
      if (ready.length > 0 && first(ready, byPriority).needsSlot) return true;
    }
    return false;
  }

  /** Whether no handler is at its limit. */
  haveRoom(): boolean {
    return this.groups.every(({ capacity }) => capacity() > 0);
  }

  /** Names of the jobs for which there is room, for suspects, which are claimed whatever the feed. */
  namesWithRoom(): string[] {
    return this.groups.filter(({ capacity }) => capacity() > 0).flatMap(({ names }) => names);
  }

  /** The feeds that are next to be looked at, of different channels, at most `limit`; first those that need a slot. */
  next(limit: number, slots: number): Feed[] {
    const now = this.clock.nowMicros();
    const picked: Feed[] = [];
    for (const [channel, feeds] of [...this.channels]) {
      if (picked.length === limit) break;
      const ready = feeds.filter((feed) => this.isReady(feed, now, slots));
      if (ready.length === 0) continue;
      picked.push(this.choose(channel, ready));
      // To the end of the round.
      this.channels.delete(channel);
      this.channels.set(channel, feeds);
    }
    return picked.sort((a, b) => Number(b.needsSlot) - Number(a.needsSlot));
  }

  group(feed: Feed): HandlerGroup {
    return this.groups[feed.group]!;
  }

  /** Milliseconds until the next job that is known of becomes due, `null` when there is none. */
  msUntilDue(): number | null {
    let next = Infinity;
    for (const feeds of this.channels.values()) {
      for (const { nextDueMicros } of feeds) if (nextDueMicros !== null && nextDueMicros < next) next = nextDueMicros;
    }
    return next === Infinity ? null : Math.max(1, Math.ceil((next - this.clock.nowMicros()) / 1_000));
  }

  private choose(channel: string, ready: readonly Feed[]): Feed {
    const turn = (this.turns.get(channel) ?? 0) + 1;
    this.turns.set(channel, turn);
    return first(ready, turn % OLDEST_FIRST_EVERY === 0 ? byAge : byPriority);
  }

  private isReady(feed: Feed, now: number, slots: number): boolean {
    feed.tick(now);
    const { capacity, startable } = this.group(feed);
    if (!feed.ready || capacity() <= 0) return false;
    return !feed.needsSlot || Math.min(slots, startable?.() ?? Infinity) > 0;
  }

  /** A survey has found something behind the place to which arrivals have been looked at. */
  private arrived({
    channel,
    priority,
    name,
    head,
  }: Pick<News, 'channel' | 'priority' | 'name'> & { head: Position }): void {
    this.groups.forEach((group, index) => {
      const address = { channel, priority, stream: 'arrivals', group: index } as const;
      const concerned = group.channel === null || group.channel === channel || group.names.includes(name);
      if (concerned || this.find(address)) this.findOrAdd(address, head).see(head, this.clock.nowMicros());
    });
  }

  /** How far each feed of arrivals has come, the slowest group's: a survey looks behind it. */
  private arrivalPositions(): ArrivalPosition[] {
    const positions = new Map<string, ArrivalPosition>();
    for (const feeds of this.channels.values()) {
      for (const { channel, priority, stream, after } of feeds) {
        if (stream !== 'arrivals') continue;
        const known = positions.get(`${priority}|${channel}`);
        if (known !== undefined && comparePositions(known.after, after) <= 0) continue;
        positions.set(`${priority}|${channel}`, { channel, priority, after });
      }
    }
    return [...positions.values()];
  }

  private arrivals(channel: string, priority: number): Feed[] {
    const feeds = this.channels.get(channel) ?? [];
    return feeds.filter((feed) => feed.stream === 'arrivals' && feed.priority === priority);
  }

  private find({ channel, priority, stream, group }: Address): Feed | undefined {
    const feeds = this.channels.get(channel);
    return feeds?.find((feed) => feed.priority === priority && feed.group === group && feed.stream === stream);
  }

  private findOrAdd(address: Address, first: Position): Feed {
    const known = this.find(address);
    if (known !== undefined) return known;
    const { channel, priority, stream, group } = address;
    // Surveys look behind the position only, so nothing may stand before that of a new one.
    const feed = new Feed(channel, priority, group, stream, stream === 'arrivals' ? BEGINNING : first);
    const feeds = this.channels.get(channel);
    if (feeds === undefined) this.channels.set(channel, [feed]);
    else {
      // As if it had had its turns: a new one shall not have all of them until it has caught up.
      feed.looks = Math.max(...feeds.map(({ looks }) => looks));
      feeds.push(feed);
    }
    return feed;
  }
}

const byPriority = (feed: Feed): number => feed.priority;

const byAge = (feed: Feed): number => feed.after.micros;

/** The lowest by rank; of equal ones the one that has had the fewest looks. */
function first(feeds: readonly Feed[], rank: (feed: Feed) => number): Feed {
  return feeds.reduce((best, feed) => ((rank(feed) - rank(best) || feed.looks - best.looks) < 0 ? feed : best));
}
