import type { Observable } from 'rxjs';
import type { QueueEvent } from '../job/events.js';
import type { JobId } from '../job/job.js';
import { checkJobId, checkName } from '../job/names.js';
import { pauseChannel, resumeChannel } from '../statements/channels.js';
import { countChannels, getJob, type ChannelStats, type JobRecord } from '../statements/inspect-jobs.js';
import { run, type SqlClient } from '../statements/statement.js';
import { beginOwningAll } from '../statements/transaction.js';
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
    const params = { id: checkJobId(id, 'id') };
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
