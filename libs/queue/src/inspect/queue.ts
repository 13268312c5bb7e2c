import type { Observable } from 'rxjs';
import { InvalidOptionsError } from '../job/errors.js';
import type { QueueEvent } from '../job/events.js';
import type { JobId } from '../job/job.js';
import { checkInteger, checkKey, checkName } from '../job/names.js';
import { pauseChannel, resumeChannel } from '../statements/channels.js';
import { countChannels, getJob, type ChannelStats, type JobRecord } from '../statements/inspect-jobs.js';
import { listLanes, unblockLane, type LaneRecord } from '../statements/list-lanes.js';
import { run, type SqlClient } from '../statements/statement.js';
import { begin, beginOwningAll } from '../statements/transaction.js';
import { SURVEY_MESSAGE } from '../statements/wake-up.js';

export interface QueuePorts {
  readonly schema: string;
  /** Names of the jobs that this application handles. */
  readonly names: () => readonly string[];
  readonly events: Observable<QueueEvent>;
  readonly read: <T>(work: (client: SqlClient) => Promise<T>) => Promise<T>;
  readonly write: <T>(work: (client: SqlClient) => Promise<T>, begin: string) => Promise<T>;
  readonly wake: (messages: readonly string[]) => void;
}

/** Which lanes `queue.lanes` lists. */
export interface ListLanesOptions {
  /** The key behind which to begin. */
  after?: string;
  /** How many at most, 1 to 10 000. Default 100. */
  limit?: number;
}

/** Reads and controls the queue. */
export class Queue {
  /** @internal made by `QueueModule` */
  constructor(private readonly ports: QueuePorts) {}

  /** What happens to jobs and to the runner of this process, as it happens. Nothing is kept for late subscribers. */
  get events(): Observable<QueueEvent> {
    return this.ports.events;
  }

  /**
   * One job, live or finished.
   *
   * @returns `null` when there is none: unknown, completed with retention 0, or pruned
   * @throws {InvalidOptionsError} when the id is no decimal number
   */
  async get(id: JobId): Promise<JobRecord | null> {
    const params = { id: checkId(id) };
    const [job] = await this.ports.read((client) => run(client, getJob, params));
    return job ?? null;
  }

  /** Whether there is such a job, live or finished. */
  async exists(id: JobId): Promise<boolean> {
    return (await this.get(id)) !== null;
  }

  /** Counts of every channel that has jobs, dead ones or a pause. Reads all live jobs. */
  stats(): Promise<ChannelStats[]> {
    return this.ports.read((client) => run(client, countChannels, { names: this.ports.names() }));
  }

  /**
   * Lanes of a channel, a page in the order of their keys: the channel's keys that have ordered jobs, or a dead one that
   * blocks them, and why a blocked one does not go on.
   *
   * @param options `after`: the last key of the page before · `limit`: 1 to 10 000, default 100
   * @example const blocked = (await this.queue.lanes('orders')).filter(({ state }) => state === 'blocked');
   */
  lanes(channel: string, options: ListLanesOptions = {}): Promise<LaneRecord[]> {
    const params = {
      channel: checkName(channel, 'channel'),
      after: options.after === undefined ? null : checkKey(options.after, 'after'),
      limit: checkInteger(options.limit ?? 100, 'limit', 1, 10_000),
      names: this.ports.names(),
    };
    return this.ports.read((client) => run(client, listLanes, params));
  }

  /**
   * Lets a lane go on that waits because of a dead job (`onDead: 'block'`). The dead job stays as it is.
   *
   * @returns `false` when it was not blocked
   */
  async unblock(channel: string, key = ''): Promise<boolean> {
    const lane = { channel: checkName(channel, 'channel'), key: checkKey(key, 'key') };
    const messages = await this.ports.write((client) => run(client, unblockLane, lane), begin);
    this.ports.wake(messages.flatMap((message) => message ?? []));
    return messages.length > 0;
  }

  /**
   * Stops claims from a channel, by every process, until `resume`; outlasts restarts. When it resolves no further job
   * of the channel is claimed; those that run go on.
   *
   * @returns `false` when it was paused already
   */
  async pause(channel: string): Promise<boolean> {
    const params = { channel: checkName(channel, 'channel') };
    // Behind the claim under way, and before the next one.
    const rows = await this.ports.write(
      (client) => run(client, pauseChannel, params),
      beginOwningAll(this.ports.schema, channel),
    );
    return rows.length > 0;
  }

  /** Lets a paused channel be claimed from again. @returns `false` when it was not paused */
  async resume(channel: string): Promise<boolean> {
    const params = { channel: checkName(channel, 'channel') };
    const rows = await this.ports.write(
      (client) => run(client, resumeChannel, params),
      beginOwningAll(this.ports.schema, channel),
    );
    this.ports.wake([SURVEY_MESSAGE]);
    return rows.length > 0;
  }
}

function checkId(id: unknown): JobId {
  if (typeof id === 'string' && /^\d{1,18}$/.test(id)) return id;
  throw new InvalidOptionsError('id', id, 'Give the id that spawn has answered, a string of digits.');
}
