import type { ClaimedJob } from '../job/job.js';
import type { LeaseBook } from '../job/lease-book.js';
import type { Connection } from '../postgres/connection.js';
import { isUniqueViolation } from '../postgres/sqlstate.js';
import { claimJobs, claimJobsByKey, type ClaimRow, type FeedNews } from '../statements/claim-jobs.js';
import { claimSuspect } from '../statements/claim-suspect.js';
import { claimArrivals, claimLanes, type ClaimLanesRow } from '../statements/claim-lanes.js';
import { extendLane } from '../statements/extend-lane.js';
import { run } from '../statements/statement.js';
import { beginOwning, beginOwningSuspects } from '../statements/transaction.js';
import type { Feed } from './feed.js';
import type { Feeds } from './feeds.js';

/** One claim takes no more: its lease row has to stay within a page. */
export const MAX_CLAIM = 500;

/** How much this process wants: runs, and of a feed its jobs. */
export interface Demand {
  /** At most. */
  readonly limit: number;
  /** How many of them start at once. */
  readonly slots: number;
  /** Jobs of one lane at most: they run one after another. */
  readonly run: number;
}

/** A run of a lane, by the job that runs. */
export type ExtendedLane = Pick<ClaimedJob, 'runner' | 'lease' | 'channel' | 'key' | 'priority' | 'name'>;

export interface ClaimerSettings {
  readonly schema: string;
  readonly channels: readonly string[] | null;
}

/** Channels that one round trip asks at most. */
const CHANNELS_PER_CLAIM = 8;

const STATEMENTS = { jobs: claimJobs, arrivals: claimArrivals, lanes: claimLanes } as const;

/** Claims feed by feed: free slots → claimed jobs. */
export class Claimer {
  constructor(
    private readonly connection: Connection,
    private readonly feeds: Feeds,
    private readonly book: LeaseBook,
    private readonly settings: ClaimerSettings,
    private readonly runnerId: () => string,
    /** Lanes have been found whose head must wait, or is for others. */
    private readonly onLanesSeen: (messages: readonly string[]) => void,
  ) {}

  /** Asks the feeds whose turn it is, all in one round trip, each for its share of the demand. */
  async claim(demand: Demand): Promise<ClaimedJob[]> {
    const feeds = this.feeds.next(Math.min(CHANNELS_PER_CLAIM, demand.limit), demand.slots);
    const looks = this.share(feeds, demand).map(([feed, share]) => this.look(feed, share));
    const answers = await Promise.allSettled(looks);
    const failure = answers.find((answer) => answer.status === 'rejected');
    const jobs = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
    // What the others have leased is kept; the failed look comes again by itself when it is alone in failing.
    if (failure !== undefined && jobs.length === 0) throw failure.reason;
    return jobs;
  }

  /** Leases the next jobs behind those of a run of a lane, under its lease: none where the lane is not its any more. */
  async extend(lane: ExtendedLane, most: number): Promise<ClaimedJob[]> {
    const params = { ...lane, names: this.feeds.namesBeside(lane.name), run: Math.min(MAX_CLAIM, most) };
    return this.connection.transaction(
      (client) => run(client, extendLane, params),
      beginOwning(this.settings.schema, lane.channel),
    );
  }

  /** Leases one job whose last lease was lost, if there is one. */
  async claimSuspect(): Promise<ClaimedJob | undefined> {
    const { schema, channels } = this.settings;
    const names = this.feeds.namesWithRoom();
    const lease = this.book.open();
    try {
      const jobs = await this.connection.transaction(
        (client) => run(client, claimSuspect, { runner: this.runnerId(), lease, names, channels }),
        beginOwningSuspects(schema),
      );
      this.book.fill(lease, jobs.length, lanesOf(jobs));
      return jobs[0];
    } catch (error) {
      this.book.abandon(lease);
      throw error;
    }
  }

  /** Divides the demand evenly; two feeds do not take the same room twice. */
  private share(feeds: readonly Feed[], { limit, slots, run }: Demand): [Feed, Demand][] {
    const taken = new Map<number | string, number>();
    return feeds.flatMap((feed, index): [Feed, Demand][] => {
      const left = feeds.length - index;
      const { capacity, startable, batch, sharedRoom = feed.group } = this.feeds.group(feed);
      const before = taken.get(sharedRoom) ?? 0;
      const room = capacity() - before;
      const share = {
        limit: Math.min(room, Math.ceil(limit / left)),
        slots: Math.max(0, Math.min(startable === undefined ? room : startable() - before, Math.ceil(slots / left))),
        run,
      };
      if (share.limit <= 0) return [];
      limit -= share.limit;
      slots -= share.slots;
      taken.set(sharedRoom, before + share.limit);
      return [[feed, batch === undefined ? share : inJobs(feed, share, batch())]];
    });
  }

  private async look(feed: Feed, wanted: Demand): Promise<ClaimedJob[]> {
    const { names } = this.feeds.group(feed);
    const byKey = feed.stream === 'jobs' && feed.keyed && feed.looks % 2 === 1;
    feed.begin();
    const lease = this.book.open();
    const answered = this.feeds.clock.ask();
    try {
      const { channel, priority } = feed;
      const params = { runner: this.runnerId(), lease, channel, priority, names, ...wanted };
      const rows = await this.connection.transaction(
        (client) =>
          byKey
            ? run(client, claimJobsByKey, { ...params, afterKey: feed.afterKey, share: Math.ceil(wanted.limit / 4) })
            : run(client, STATEMENTS[feed.stream], { ...params, after: feed.after, arrivals: feed.arrivals }),
        beginOwning(this.settings.schema, channel),
      );
      const jobs = rows.flatMap(({ job }) => job ?? []);
      this.book.fill(lease, jobs.length, lanesOf(jobs));
      const news = newsOf(rows);
      answered(news.nowMicros);
      if (byKey) this.learnByKey(feed, news, rows, wanted.limit);
      else this.learn(feed, news, rows);
      return jobs;
    } catch (error) {
      this.book.abandon(lease);
      feed.end(this.feeds.clock.nowMicros());
      // Somebody has written down a lane meanwhile of which nobody knew: the next look sees it.
      if (isUniqueViolation(error, 'lane_pkey')) return [];
      throw error;
    }
  }

  private learn(feed: Feed, news: FeedNews, rows: readonly ClaimRow[]): void {
    feed.keyed ||= rows.some(({ job }) => job !== null && job.key !== '');
    feed.learn(news, (id) => rows.some(({ job }) => job?.id === id));
    const messages = (rows as readonly Partial<ClaimLanesRow>[]).flatMap((row) => row.messages ?? []);
    if (messages.length > 0) this.onLanesSeen(messages);
  }

  /**
   * A full claim stopped at its last job's key, any other has been through all the keys of its turn. What was told
   * meanwhile stays news also where the claim has leased the job at that place: not so the others of the same commit.
   */
  private learnByKey(feed: Feed, news: FeedNews, rows: readonly ClaimRow[], limit: number): void {
    const last = rows.at(-1)?.job;
    feed.afterKey = (rows.length === limit && last ? last.key : news.lastKey) ?? '';
    feed.end(news.nowMicros);
  }
}

/** A run of a lane is of its jobs only: there the lanes are counted, and each gives as many jobs as a batch takes. */
function inJobs({ stream }: Feed, { limit, slots, run }: Demand, batch: number): Demand {
  return stream === 'jobs'
    ? { limit: Math.min(MAX_CLAIM, limit * batch), slots: slots * batch, run }
    : { limit, slots, run: Math.min(MAX_CLAIM, Math.max(run, batch)) };
}

/** In how many lanes the jobs of one claim are. */
function lanesOf(jobs: readonly ClaimedJob[]): number {
  if (jobs[0] === undefined || jobs[0].seq === null) return 0;
  return new Set(jobs.map(({ key }) => key)).size;
}

function newsOf(rows: readonly ClaimRow[]): FeedNews {
  const news = rows[0]?.feed;
  if (!news) throw new Error('A claim answered no row; it always answers one.');
  return news;
}
