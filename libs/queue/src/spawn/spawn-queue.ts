import { isRetryable } from '../postgres/sqlstate.js';
import { chunksOf, insertJobs } from '../statements/insert-jobs.js';
import type { NewJob } from '../statements/new-job.js';
import { run } from '../statements/statement.js';
import { beginPlain } from '../statements/transaction.js';
import type { JobId } from '../job/job.js';
import type { Connection } from '../postgres/connection.js';

interface Call<Answer> {
  readonly jobs: readonly NewJob[];
  /** Not to be merged with others. */
  readonly alone: boolean;
  /** Nothing else is under way while its INSERT is. */
  readonly apart: boolean;
  readonly resolve: (answers: Answer[]) => void;
  readonly reject: (error: unknown) => void;
}

export interface SpawnTerms<Answer> {
  /** Inserts all of them or none; answers one for each. */
  write(jobs: readonly NewJob[]): Promise<readonly Answer[]>;
  /** Whether an error would be every merged call's, and not only that of one among them. */
  isShared(error: unknown): boolean;
  /** Whether another INSERT may be under way beside that of these jobs. */
  overlaps(jobs: readonly NewJob[]): boolean;
}

/** Jobs that one merged INSERT takes at most; a single larger call goes out whole. */
const BATCH = 1_000;

/** INSERTs that may be under way together. */
const AT_ONCE = 2;

/** When so many jobs wait they are worth an INSERT that goes out before the last one is answered. */
const ENOUGH = 100;

/**
 * Spawns outside of transactions. Calls that come while an INSERT is under way go out together in the next one, so ten
 * concurrent callers need not wait for ten commits in turn. When the INSERT is refused for what one of them wrote, each
 * call is tried by itself.
 *
 * While much waits two INSERTs are under way: the server begins with the second while this process still reads the answer to the
 * first, and callers make new jobs. Not beside one that is large, whose time the other would have to wait for.
 */
export class SpawnQueue<Answer> {
  private readonly calls: Call<Answer>[] = [];
  /** Jobs of those calls. */
  private waiting = 0;
  /** Calls that keep INSERTs from overlapping, until they are answered. */
  private apart = 0;
  private readonly senders = new Set<Promise<void>>();

  constructor(private readonly terms: SpawnTerms<Answer>) {}

  insert(jobs: readonly NewJob[], alone = false): Promise<Answer[]> {
    return new Promise((resolve, reject) => {
      const apart = jobs.length > BATCH || !this.terms.overlaps(jobs);
      this.calls.push({ jobs, alone, apart, resolve, reject });
      this.waiting += jobs.length;
      if (apart) this.apart += 1;
      if (this.senders.size === 0 || (this.senders.size < AT_ONCE && this.mayOverlap)) this.startSender();
    });
  }

  /** Resolves when every call has been answered. */
  async idle(): Promise<void> {
    while (this.senders.size > 0) await Promise.all(this.senders);
  }

  private get mayOverlap(): boolean {
    return this.waiting >= ENOUGH && this.apart === 0;
  }

  private startSender(): void {
    const sender = this.sendWhatWaits(() => this.senders.delete(sender));
    this.senders.add(sender);
  }

  private async sendWhatWaits(end: () => void): Promise<void> {
    // Calls made in the same turn go out together.
    await Promise.resolve();
    while (this.calls.length > 0 && (this.senders.size === 1 || this.mayOverlap)) await this.sendFirst();
    // In the same turn as the last look: whoever calls later starts another sender.
    end();
  }

  private async sendFirst(): Promise<void> {
    const calls = this.take();
    await this.send(calls);
    this.apart -= calls.filter(({ apart }) => apart).length;
  }

  private take(): Call<Answer>[] {
    let size = 0;
    let count = 0;
    for (const { jobs, alone } of this.calls) {
      if (count > 0 && (alone || size + jobs.length > BATCH)) break;
      size += jobs.length;
      count += 1;
      if (alone) break;
    }
    this.waiting -= size;
    return this.calls.splice(0, count);
  }

  private async send(calls: readonly Call<Answer>[]): Promise<void> {
    try {
      const answers = await this.terms.write(calls.flatMap((call) => call.jobs));
      let from = 0;
      for (const call of calls) call.resolve(answers.slice(from, (from += call.jobs.length)));
    } catch (error) {
      // A lost connection leaves open whether it was written: only the callers can know whether to send again.
      if (calls.length === 1 || this.terms.isShared(error)) for (const call of calls) call.reject(error);
      else for (const call of calls) await this.send([call]);
    }
  }
}

/** Spawns of jobs without idempotency keys. */
export function plainSpawns(
  connection: Connection,
  onInserted: (wakeUps: readonly string[]) => void,
): SpawnQueue<JobId> {
  const write = async (jobs: readonly NewJob[]): Promise<JobId[]> => {
    const chunks = chunksOf(jobs);
    const rows = await connection.transaction(
      (client) => Promise.all(chunks.map((chunk) => run(client, insertJobs, { jobs: chunk }))),
      beginPlain, // an INSERT has one plan
    );
    onInserted(rows.flatMap(([row]) => row?.wakeUps ?? []));
    return rows.flatMap(([row]) => row?.ids ?? []);
  };
  // They come in the order of their calls, behind each other on one connection; but of an INSERT that is refused the calls are tried
  // again, behind the next one. Ordered jobs wait for that.
  const overlaps = (jobs: readonly NewJob[]): boolean => !jobs.some(({ ordered }) => ordered);
  return new SpawnQueue({ write, isShared: isRetryable, overlaps });
}
