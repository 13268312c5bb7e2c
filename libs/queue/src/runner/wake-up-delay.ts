import type { WakeUp } from '../statements/wake-up.js';
import { FleetOrder } from './fleet-order.js';
import { Nap } from './nap.js';

type News = Extract<WakeUp, { kind: 'jobs' }>;

/** The second runner looks so much later than the first one, and the others so much: by then it has taken the job, or was busy. */
const SECOND_MS = { min: 5, max: 15 };
const OTHERS_MS = { min: 25, max: 100 };

/** Late looks that come in vain keep a distance, of this and up to so many times as much. */
const DISTANCE_MS = OTHERS_MS;
const MAX_DISTANCES = 6;

/** In a busy fleet a first runner comes to what has waited for less, sooner or later: to find only such jobs is in vain. */
const WAITED_MS = 50;

/** Who has found what waited longer is needed, for so long at least. */
const AWAKE_MS = 1_000;

const within = ({ min, max }: { min: number; max: number }): number => min + Math.random() * (max - min);

export interface WakeUpDelayParts {
  /** It is time to look. */
  readonly pass: (wakeUp: WakeUp) => void;
  /** Whether the job that is told of is for a handler of this process. */
  readonly hasHandler: (news: News) => boolean;
  /** Whether it has room for it, too. */
  readonly canRun: (news: News) => boolean;
  /** Whether jobs take next to no time. */
  readonly tiny: () => boolean;
  /** Whether nothing runs here or is about to. */
  readonly idle: () => boolean;
  readonly listen: (listening: boolean) => void;
  /** Help is wanted, and this runner has not listened: it has to look for what it was not told of. */
  readonly catchUp: () => void;
  /** The database's time. */
  readonly nowMicros: () => number;
}

/**
 * Keeps a fleet from looking at once: a hundred idle runners that all ask for one job would take the claim lock a
 * hundred times. The first one in the order of the fleet looks at once.
 *
 * The others come late, in case it has no room. Under load they would come again and again, and in vain where it suffices: so
 * their looks keep a distance, which grows while they find nothing, or only what the first one would have come to. The first
 * late look after a pause is as late as ever. Where jobs are tiny, those that have nothing to do before their turn do not even listen.
 */
export class WakeUpDelay {
  readonly order = new FleetOrder();
  private readonly nap: Nap;
  private readonly held: News[] = [];
  private timer: NodeJS.Timeout | undefined;
  /** When it is over. */
  private dueAt = 0;
  /** How many distances the next late look keeps from the last one. */
  private distances = 0;
  private lastLateAt = -Infinity;
  /** Drawn with each late look. */
  private distanceMs = DISTANCE_MS.min;
  /** A late look is due. */
  private late = false;
  private stopped = false;
  /** Until then it has no nap. */
  private awakeUntil = -Infinity;

  constructor(private readonly parts: WakeUpDelayParts) {
    const listen = (listening: boolean): void => {
      if (listening) this.order.missed();
      parts.listen(listening);
    };
    this.nap = new Nap({ idle: parts.idle, listen });
  }

  hear(wakeUp: WakeUp): void {
    if (this.stopped) return;
    if (wakeUp.kind !== 'jobs') {
      this.parts.pass(wakeUp);
      return;
    }
    const tiny = this.parts.tiny();
    // Jobs for these handlers may have come with one for others: who runs that looks first.
    const place = this.parts.hasHandler(wakeUp) ? this.order.placeFor(wakeUp.position, tiny) : Infinity;
    if (place === 0) {
      this.parts.pass(wakeUp);
      return;
    }
    this.held.push(wakeUp);
    if (place === 1) this.releaseAfter(within(SECOND_MS));
    else if (this.timer === undefined) this.releaseAfter(within(OTHERS_MS));
    if (tiny && place !== Infinity && this.order.crowded) this.rest();
  }

  /**
   * This runner looks now. Whoever looks says in the end what it has found.
   *
   * @returns what to say it to: for how long the first of the jobs had been due, `null` where there was none
   */
  look(): (waitedMs: number | null) => void {
    const { late } = this;
    this.late = false;
    return (waitedMs) => {
      if (late) this.distances = this.distancesAfter(waitedMs);
      if (waitedMs !== null && waitedMs >= WAITED_MS) this.needed();
    };
  }

  /** There is something to run, which others may have to say something about. */
  accepted(): void {
    this.nap.end();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    this.nap.stop();
    this.held.length = 0;
  }

  private rest(): void {
    if (performance.now() < this.awakeUntil) return;
    this.nap.begin(this.order.msUntilTurn(this.parts.nowMicros()));
  }

  private needed(): void {
    this.awakeUntil = performance.now() + AWAKE_MS;
    if (this.nap.end()) this.parts.catchUp();
  }

  private distancesAfter(waitedMs: number | null): number {
    if (waitedMs !== null && waitedMs >= WAITED_MS) return 0;
    const inVain = waitedMs === null || this.order.busy;
    return inVain ? Math.min(MAX_DISTANCES, this.distances + 1) : Math.max(0, this.distances - 1);
  }

  private releaseAfter(delayMs: number): void {
    const now = performance.now();
    const dueAt = Math.max(now + delayMs, this.lastLateAt + this.distances * this.distanceMs);
    if (this.timer !== undefined && this.dueAt <= dueAt) return;
    clearTimeout(this.timer);
    this.dueAt = dueAt;
    this.timer = setTimeout(() => this.release(), dueAt - now);
  }

  private release(): void {
    const held = this.held.splice(0);
    this.timer = undefined;
    this.lastLateAt = performance.now();
    this.distanceMs = within(DISTANCE_MS);
    // What is for other handlers than these says nothing about whether the first one suffices.
    this.late = held.some((news) => this.parts.canRun(news));
    for (const news of held) this.parts.pass(news);
  }
}
