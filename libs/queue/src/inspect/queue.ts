import type { Observable } from 'rxjs';
import { durationMs, type Duration } from '../job/duration.js';
import { InvalidOptionsError } from '../job/errors.js';
import type { QueueEvent } from '../job/events.js';
import type { JobId } from '../job/job.js';
import { checkInteger, checkJobId, checkKey, checkName } from '../job/names.js';
import type { RunOneOptions, RunOneResult } from '../job/run-one.js';
import { MAX_TIMER_MS } from '../job/time-limit.js';
import { pauseChannel, resumeChannel } from '../statements/channels.js';
import { listLiveChannels } from '../statements/clear-jobs.js';
import { getJob, type JobRecord } from '../statements/inspect-jobs.js';
import { listLanes, type LaneRecord } from '../statements/list-lanes.js';
import { listRunners, type RunnerRecord } from '../statements/list-runners.js';
import { listPartitions, type PartitionRecord } from '../statements/partitions.js';
import { run, type SqlClient } from '../statements/statement.js';
import { beginCounting, beginOwningAll } from '../statements/transaction.js';
import { SURVEY_MESSAGE } from '../statements/wake-up.js';
import { Canceller, type CancelCounts, type CancelFilter, type CancelOptions, type CancelResult } from './canceller.js';
import { readStats, type ChannelStats } from './channel-stats.js';
import { clearChannels, type ClearOptions } from './clear-channels.js';
import { checkList, listJobs, type JobFilter, type JobPage, type ListJobsOptions } from './job-list.js';
import type { JobWaiter, WaitOptions } from './job-waiter.js';
import { readStatistics, type QueueStatistics } from './statistics.js';

export interface QueuePorts {
  readonly schema: string;
  /** Names of the jobs that this application handles. */
  readonly names: () => readonly string[];
  readonly events: Observable<QueueEvent>;
  readonly read: <T>(work: (client: SqlClient) => Promise<T>) => Promise<T>;
  /** Several statements of one moment. */
  readonly readMoment: <T>(work: (client: SqlClient) => Promise<T>, begin?: string) => Promise<T>;
  readonly write: <T>(work: (client: SqlClient) => Promise<T>, begin: string) => Promise<T>;
  readonly wake: (messages: readonly string[]) => void;
  readonly emit: (event: QueueEvent) => void;
  /** How long cancelled jobs are kept. */
  readonly keepMs: number;
  readonly waiter: JobWaiter;
  readonly running: () => number;
  readonly idle: (timeoutMs: number | null) => Promise<boolean>;
  readonly runOne: (channels: readonly string[] | null) => Promise<RunOneResult | null>;
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
  private readonly canceller: Canceller;

  /** @internal made by `QueueModule` */
  constructor(private readonly ports: QueuePorts) {
    this.canceller = new Canceller(ports);
  }

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
    const params = { id: checkJobId(id, 'id') };
    const [job] = await this.ports.read((client) => run(client, getJob, params));
    return job ?? null;
  }

  /**
   * A page of jobs, live and finished, the last spawned first. The cost of a page is bounded: where a filter fits few of
   * millions, a page may be short, or empty, before the end; go on until `next` is `null`.
   *
   * @param filter `state` (one or several) · `channel` · `name` · `key` · `before` and `after`: when they were spawned
   * @param options `limit`: 1 to 1 000, default 100 · `after`: the `next` of the page before
   * @throws {InvalidOptionsError} naming the field
   * @example const { jobs, next } = await queue.list({ channel: 'mail', state: ['waiting', 'running'] }, { limit: 20 });
   */
  async list(filter?: JobFilter, options?: ListJobsOptions): Promise<JobPage> {
    const query = checkList(filter, options);
    return this.ports.readMoment((client) => listJobs(client, query));
  }

  /** Whether there is such a job, live or finished. */
  async exists(id: JobId): Promise<boolean> {
    return (await this.get(id)) !== null;
  }

  /**
   * Waits for the end of a job, in whatever process it runs, and answers what its handler returned. The handler needs
   * a `retention` longer than anybody may take to ask: without one nothing is left of a job that was completed.
   *
   * One statement looks for all jobs that this process waits for, at most every 25 ms, later every second.
   *
   * @param options `timeout` (default none) · `signal` ends the wait, not the job
   * @returns the result, `undefined` when the handler returned nothing
   * @throws {JobNotFoundError} when there is no such job, or none any more: also when its transaction is not committed yet
   * @throws {JobDeadError} when the job is dead, with its reason and last error
   * @throws {JobCancelledError} when the job was cancelled
   * @throws {WaitTimeoutError} when the time is over; the job goes on
   * @throws {QueueClosedError} when this process shuts down first
   * @example const total = await queue.waitFor<number>(id, { timeout: '30s' });
   */
  async waitFor<Result = unknown>(id: JobId, options?: WaitOptions): Promise<Result> {
    return (await this.ports.waiter.waitFor(checkJobId(id, 'id'), options)) as Result;
  }

  /** How many handlers run in this process now. */
  get running(): number {
    return this.ports.running();
  }

  /**
   * Waits until no handler runs in this process, and the ends of those that ran are written. It does not stop the runner:
   * jobs that are due are started meanwhile, and waited for too.
   *
   * @param options `timeout` (default: as long as it takes)
   * @returns `false` when the time is over
   */
  async idle({ timeout }: { timeout?: Duration } = {}): Promise<boolean> {
    return this.ports.idle(timeout === undefined ? null : durationMs(timeout, 'timeout', 0, MAX_TIMER_MS));
  }

  /**
   * For tests, in an application with `runner: false`: claims one due job, runs it here as a runner would, and answers
   * what became of it once that is written.
   *
   * @returns `null` when no job is due that this application has a handler for
   * @throws {InvalidOptionsError} when this process has a runner, which would take the jobs itself
   * @example expect(await queue.runOne()).toMatchObject({ name: 'Mailer.welcome', outcome: 'completed' });
   */
  async runOne({ channels }: RunOneOptions = {}): Promise<RunOneResult | null> {
    return this.ports.runOne(channels === undefined ? null : checkChannels(channels));
  }

  /**
   * Counts of every channel that has live jobs, dead ones or a pause, of one moment, never from a cache. Where one channel is
   * read each count is exact up to 10 000. Where several are each is exact up to 100, and up to fifty that have more share 10 000 jobs.
   * A count that has stopped so is named in `atLeast`, so the cost is bounded, whatever the number of jobs. Of a channel with many
   * lanes smaller counts too may be lower bounds, named there.
   *
   * @param channels only these; default all
   * @example const late = (await queue.stats()).filter(({ oldestReadyMs }) => (oldestReadyMs ?? 0) > 60_000);
   */
  async stats(channels?: readonly string[]): Promise<ChannelStats[]> {
    const params = { names: this.ports.names(), channels: channels === undefined ? null : checkChannels(channels) };
    return this.ports.readMoment((client) => readStats(client, params, true), beginCounting);
  }

  /**
   * The figures of the queue in one object: what is live, what has ended where it is kept, rates and times. It reads up to
   * 10 000 jobs of each channel and state, so it is for a page that is looked at, not for every second.
   *
   * @param channels only these; default all
   * @example const { successRatePast24Hours, perMinutePastHour } = await queue.statistics();
   */
  async statistics(channels?: readonly string[]): Promise<QueueStatistics> {
    const params = { names: this.ports.names(), channels: channels === undefined ? null : checkChannels(channels) };
    return this.ports.readMoment((client) => readStatistics(client, params));
  }

  /**
   * Who runs jobs: every process with a runner, since when, of what version, with which channels and handlers, and how many
   * jobs it has now. One that was killed is shown as alive until the others miss it, after `leaseMs` and a half.
   *
   * @example const busy = (await queue.runners()).filter(({ running }) => running > 0);
   */
  async runners(): Promise<RunnerRecord[]> {
    return this.ports.readMoment((client) => run(client, listRunners, {}));
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
   * The partitions of a channel by their numbers, empty ones too.
   *
   * @returns `[]` when no handler has divided the channel
   */
  partitions(channel: string): Promise<PartitionRecord[]> {
    const params = { channel: checkName(channel, 'channel') };
    return this.ports.read((client) => run(client, listPartitions, params));
  }

  /**
   * Cancels a job. One that waits or is held is cancelled at once, and never runs. Of one that runs the signal aborts, here
   * at once and in any other process within a second, with a {@link JobCancelledError}: it ends `cancelled`, and is not
   * retried, unless it succeeds all the same; then it is `completed`. Cancelled jobs are kept for `finishedRetention`.
   *
   * @param options `reason`: at most 1 KiB, for the handler and for whoever reads the job
   * @returns `outcome`: `cancelled`, `requested` of a running one, or `already finished`; and the job's `state`
   * @throws {JobNotFoundError} when there is no such job, or none any more: completed without `retention`
   * @throws {TransactionConflictError} when a transaction, say of its own handler, has had the job locked for 5 s
   * @example await queue.cancel(id, { reason: 'the customer has left' });
   */
  async cancel(id: JobId, options?: CancelOptions): Promise<CancelResult> {
    return this.canceller.cancel(id, options);
  }

  /**
   * Cancels all jobs of a channel, of a key or a handler in it, or with some ids, as `cancel` does each; chunk by chunk,
   * what is spawned meanwhile is left.
   *
   * @returns how many were `cancelled`, and of how many running ones that was `requested`
   * @throws {InvalidOptionsError} when neither a channel nor ids are given
   * @example const { cancelled } = await queue.cancelMany({ channel: 'mail', key: customerId });
   */
  async cancelMany(filter: CancelFilter, options?: CancelOptions): Promise<CancelCounts> {
    return this.canceller.cancelMany(filter, options);
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

  /**
   * Deletes the waiting and held jobs of some channels, whatever their due times, and answers how many. Jobs that are
   * spawned meanwhile stay. Nothing of these channels is claimed in between, but for breaths after every 5 000 jobs, in
   * which runners may take some: those run.
   *
   * @param options `keepRunning: true` leaves the running jobs, and clears the others
   * @throws {ChannelBusyError} when a job of one of them is running; nothing was deleted, in none of them
   * @example await queue.clear(['mail', 'reports'], { keepRunning: true });
   */
  async clear(channels: readonly string[], options: ClearOptions = {}): Promise<number> {
    return clearChannels(this.ports, checkChannels(channels), options);
  }

  /** The same for every channel that has jobs. */
  async clearAll(options: ClearOptions = {}): Promise<number> {
    return clearChannels(this.ports, await this.ports.read((client) => run(client, listLiveChannels, {})), options);
  }
}

function checkChannels(channels: unknown): string[] {
  if (Array.isArray(channels)) return channels.map((channel) => checkName(channel, 'channels'));
  throw new InvalidOptionsError('channels', channels, 'Give an array of names of channels.');
}
