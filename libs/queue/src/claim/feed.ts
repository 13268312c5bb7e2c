import { comparePositions, type JobId, type Position } from '../job/job.js';
import type { FeedNews } from '../statements/claim-jobs.js';
import type { Stream } from '../statements/wake-up.js';

/** Lanes become ready at the very moment in which that is told: so little ahead of our clock, which is a guess, is now. */
const LANE_SLACK_MICROS = 1_000;

/** Arrivals that one claim reads: a few more than the last one needed, and more and more while they are of lanes that have an owner. */
const [LEAST_ARRIVALS, MOST_ARRIVALS] = [32, 1_000];

/** Larger than any id: a position with it stands behind all jobs of its microsecond. */
const LAST_ID = '9223372036854775807';

/** Just before a place, so that a look behind it finds the job that stands there. */
export const justBefore = ({ micros, id }: Position): Position =>
  id === '0' ? { micros: micros - 1, id: LAST_ID } : { micros, id: String(BigInt(id) - 1n) };

/**
 * What this process knows of one stream of jobs: those of one channel, priority and stream that one group of
 * handlers runs. Of the stream `lanes` a place is that of a lane.
 *
 * Claims go forward: each looks behind the place where the last one ended, so it never walks over what is leased or
 * gone. Transactions commit out of order, and jobs come back to old places: a notification or a survey then names a
 * place that has been passed, and the next look starts there (`lookAgainFrom`), until it has caught up.
 */
export class Feed {
  /** Everything free before it was seen and leased, but for what `lookAgainFrom` says. */
  private position: Position;
  private lookAgainFrom: Position | null = null;
  private mayHaveMore = true;
  private nextDue: number | null = null;
  /** Told while a look was under way, whose snapshot may be older. */
  private readonly told: Position[] = [];
  private looking = false;
  /** A look has found the channel paused, and has forgotten what it was told of. */
  private wasPaused = false;
  /** A survey has seen something while a look was under way: the channel was not paused any more. */
  private seen = false;
  /** Its next job is on its last attempt, and is not taken ahead: a look needs a free slot. */
  needsSlot = false;
  /** Jobs of it carry keys: claims by key take turns with claims in due order. */
  keyed = false;
  /** The key that had its turn last. */
  afterKey = '';
  /** Of the stream `arrivals`: how many of them the next look is to read. */
  arrivals = MOST_ARRIVALS;
  /** Looks at it so far, for taking turns. */
  looks = 0;

  constructor(
    readonly channel: string,
    readonly priority: number,
    readonly group: number,
    readonly stream: Stream,
    firstJob: Position,
  ) {
    this.position = justBefore(firstJob);
  }

  private get slackMicros(): number {
    return this.stream === 'lanes' ? LANE_SLACK_MICROS : 0;
  }

  /** Where the next look starts. */
  get after(): Position {
    return this.lookAgainFrom ?? this.position;
  }

  get ready(): boolean {
    return !this.looking && (this.mayHaveMore || this.lookAgainFrom !== null);
  }

  /** A look at it is under way. */
  get busy(): boolean {
    return this.looking;
  }

  get nextDueMicros(): number | null {
    return this.nextDue;
  }

  /** A free job stands, or will be due, at this place. */
  tell(place: Position, nowMicros: number): void {
    if (this.looking) this.told.push(place);
    // First, since the clock is a guess: what has been passed is found by no later look from the position.
    else if (comparePositions(place, this.position) <= 0) this.lookAgain(justBefore(place));
    else if (place.micros > nowMicros + this.slackMicros)
      this.nextDue = Math.min(this.nextDue ?? Infinity, place.micros);
    else this.mayHaveMore = true;
  }

  /**
   * A survey has seen a place, the first behind the slowest position of its time. Claims may have passed it since: that
   * is no news, but behind a pause it stands for all that came meanwhile.
   */
  see(place: Position, nowMicros: number): void {
    this.seen = this.looking;
    if (this.wasPaused) this.mayHaveMore = true;
    else if (comparePositions(place, this.position) > 0) this.tell(place, nowMicros);
    this.wasPaused = false;
  }

  /** Makes the feed ready when its next job has become due. */
  tick(nowMicros: number): void {
    if (this.nextDue === null || this.nextDue > nowMicros) return;
    this.nextDue = null;
    this.mayHaveMore = true;
  }

  begin(): void {
    this.looking = true;
    this.seen = false;
    this.needsSlot = false;
    this.looks += 1;
  }

  /**
   * Takes in what a look in due order has found.
   *
   * @param leased whether the look itself has leased the job with this id: being told of it is no news
   */
  learn(news: FeedNews, leased: (id: JobId) => boolean = () => false): void {
    const { after } = this;
    if (news.arrivals !== undefined) this.sizeUp(news.arrivals);
    if (news.paused) {
      // What stands behind its place is still to be found, by the survey that comes with the resumption.
      this.position = this.after;
      this.lookAgainFrom = null;
      this.mayHaveMore = this.seen;
      this.wasPaused = !this.seen;
    } else if (news.exhausted) {
      // Also backwards: it may have begun in the future, or the server's clock may have been set.
      this.position = { micros: news.nowMicros, id: LAST_ID };
      this.lookAgainFrom = null;
      this.mayHaveMore = false;
      this.nextDue = news.nextDueMicros;
    } else if (news.last !== null) {
      const caughtUp = comparePositions(news.last, this.position) >= 0;
      this.lookAgainFrom = this.lookAgainFrom === null || caughtUp ? null : news.last;
      this.advance(news.last);
      this.mayHaveMore = true;
    } else this.needsSlot = true;
    if (news.refused) this.lookAgain(after);
    // Of a lane it may have leased jobs from before the place where it began: what came with them it has not seen.
    this.end(news.nowMicros, (place) => comparePositions(place, after) > 0 && leased(place.id));
  }

  /** Ends a look that taught nothing about the order: it failed, or it went by key. */
  end(nowMicros: number, isSeen: (place: Position) => boolean = () => false): void {
    this.looking = false;
    for (const place of this.told.splice(0)) if (!isSeen(place)) this.tell(place, nowMicros);
  }

  private sizeUp(needed: number | null): void {
    const next = needed === null ? this.arrivals * 4 : Math.ceil(needed * 1.25);
    this.arrivals = Math.min(MOST_ARRIVALS, Math.max(LEAST_ARRIVALS, next));
  }

  private advance(to: Position): void {
    if (comparePositions(to, this.position) > 0) this.position = to;
  }

  private lookAgain(from: Position): void {
    if (this.lookAgainFrom === null || comparePositions(from, this.lookAgainFrom) < 0) this.lookAgainFrom = from;
  }
}
