import type { RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';

/** Of a job, or of its lane: whose it is. */
export type LaneId = Pick<ClaimedJob, 'runner' | 'lease' | 'channel' | 'key'>;

/** A run of one lane's jobs that this process has leased: one of them is next or running, the others wait behind it. */
export interface LaneRun extends LaneId {
  readonly priority: number;
  /** The job that is next, or runs; `null` when its handler has ended and no other has been taken. */
  current: ClaimedJob | null;
  /** The job that has ended last. */
  last: ClaimedJob | null;
  /** Number of its last job, when nothing stood behind that. */
  closesAt: number | null;
  /** The jobs behind the current one, in order. */
  readonly followers: ClaimedJob[];
  /** Jobs whose handlers have ended well and whose end is being written. */
  unwritten: number;
  /** Number of a job that took long: the next one starts when all ends are written. */
  awaited: number | null;
  /** A handler's limit counts a job that is to start when ends are written: whose room is kept for it meanwhile. */
  keptRoomOf: RegisteredHandler | null;
  /** What its handlers have taken so far. */
  spentMs: number;
  /** The end of one of its jobs was refused: nothing further starts, and the lane is given back when nothing runs. */
  refused: boolean;
  /** Who may go on only when nothing is unwritten. */
  waiters: (() => void)[];
  readonly extension: Extension;
}

/** Of a long run: more of its lane's jobs are claimed while those in hand run. */
interface Extension {
  /** Jobs that came with the last claim of it. 0: it is not extended. */
  size: number;
  underWay: boolean;
  /** It has been: its lane has to be told where its numbers have come to. */
  done: boolean;
  /** Number of the job that has ended last, when nothing is left until the extension is here. */
  awaitedBehind: number | null;
}

/** Shorter runs are over before more of the lane is here, or are of handlers that take their time. */
const EXTENDED_FROM = 32;

export const newRun = (current: ClaimedJob): LaneRun => ({
  runner: current.runner,
  lease: current.lease,
  channel: current.channel,
  key: current.key,
  priority: current.priority,
  current,
  last: null,
  closesAt: null,
  followers: [],
  unwritten: 0,
  awaited: null,
  keptRoomOf: null,
  spentMs: 0,
  refused: false,
  waiters: [],
  extension: { size: 0, underWay: false, done: false, awaitedBehind: null },
});

/** A crash repeats what is unwritten: a lane that is faster than its ends can be written waits for them. */
const MAX_UNWRITTEN = 1_000;

/** Whether half of what came last has run, and there is more behind. */
export const wantsMore = ({ extension: { size, underWay }, followers, closesAt, unwritten }: LaneRun): boolean =>
  size >= EXTENDED_FROM && !underWay && closesAt === null && followers.length <= size / 2 && unwritten <= MAX_UNWRITTEN;
