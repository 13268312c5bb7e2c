import type { Logger } from '@nestjs/common';
import { messageOf } from '../job/errors.js';
import { RetryDelay } from '../job/retry-delay.js';
import type { Connection } from '../postgres/connection.js';
import { type EndedLaneRow, type FreedLaneRow, type LaneEnd, type LaneName } from '../statements/lanes.js';
import { recheckLanes } from '../statements/mend-lanes.js';
import { run, type SqlClient } from '../statements/statement.js';
import { beginPlanned } from '../statements/transaction.js';

/** When it is looked again at what others were writing. */
const LOOK_AGAIN_MS = 200;

/**
 * Lanes that came to rest without a next job, or with one that has to wait. What was committed meanwhile, a job before that one
 * or the end of its hold, was passed by, since the lane had an owner, and only a look behind that owner's commit finds it.
 */
export class RestingLanes {
  private lanes: LaneName[] = [];
  /** Those that others were writing. */
  private passedBy: LaneName[] = [];
  private timer: NodeJS.Timeout | undefined;
  private readonly delay = new RetryDelay({ minMs: 100, maxMs: 5_000 });

  constructor(
    private readonly connection: Connection,
    private readonly ready: (messages: readonly string[]) => void,
    private readonly logger: Logger,
    private readonly stopSignal: AbortSignal,
    /** There are lanes to look at again. */
    private readonly wanted: () => void,
  ) {}

  /** None is still to be looked at. */
  get none(): boolean {
    return this.lanes.length === 0;
  }

  /** Lanes were given back, of which some go on; those that wait for a person are of no concern. */
  add(ended: readonly LaneEnd[], goOn: readonly EndedLaneRow[] = []): void {
    const ready = new Set(goOn.filter((lane) => lane.ready).map(nameOf));
    for (const lane of ended) if (lane.blockedBy === null && !ready.has(nameOf(lane))) this.lanes.push(lane);
  }

  /**
   * Does some work in a transaction, and looks at them in it. They stay for the next look when it fails.
   *
   * @param start opens the transaction when there is nothing to look at
   */
  async lookWith<T>(work: (client: SqlClient) => Promise<T>, start = beginPlanned): Promise<T> {
    const lanes = this.lanes;
    if (lanes.length === 0) return this.connection.transaction(work, start);
    this.lanes = [];
    try {
      const [answer, found] = await this.connection.transaction(
        (client) => Promise.all([work(client), run(client, recheckLanes, { lanes })]),
        beginPlanned,
      );
      this.tell(found);
      this.lookLater(found.filter(({ passedBy }) => passedBy));
      return answer;
    } catch (error) {
      this.lanes.push(...lanes);
      throw error;
    }
  }

  /** Looks at them by themselves. Never throws. */
  async look(): Promise<void> {
    const { length } = this.lanes;
    if (length === 0) return;
    try {
      await this.lookWith(() => Promise.resolve());
      this.delay.reset();
    } catch (error) {
      if (this.stopSignal.aborted) return;
      this.logger.warn(`Looking again at ${length} lanes failed, will try again: ${messageOf(error)}`);
      await this.delay.wait(this.stopSignal);
    }
  }

  /** Wakes runners with lanes that are ready. */
  tell(found: readonly FreedLaneRow[]): void {
    const messages = found.flatMap(({ message }) => message ?? []);
    if (messages.length > 0) this.ready(messages);
  }

  /** Gives up those that others were writing: a sweep will find them. */
  stop(): void {
    clearTimeout(this.timer);
  }

  private lookLater(lanes: readonly LaneName[]): void {
    this.passedBy.push(...lanes);
    if (this.passedBy.length > 0 && !this.stopSignal.aborted)
      this.timer ??= setTimeout(() => this.lookNow(), LOOK_AGAIN_MS);
  }

  private lookNow(): void {
    this.timer = undefined;
    this.lanes.push(...this.passedBy.splice(0));
    this.wanted();
  }
}

const nameOf = ({ channel, key }: LaneName): string => `${channel}\0${key}`;
