import type { RegisteredHandler } from '../job/handler.js';
import type { ClaimedJob, JobId } from '../job/job.js';
import { BatchSizer } from './batch-sizer.js';

/** What this process has in hand of a handler that gets its jobs in batches. A batch is one run: it takes one slot. */
export class BatchLoad {
  readonly sizer: BatchSizer;
  /** Batches that run. */
  running = 0;
  /** Jobs that wait for a slot. */
  ahead = 0;
  /** Batches that follow in lanes, for which room is kept. */
  kept = 0;

  constructor(
    readonly most: number,
    private readonly concurrency: number | null,
    /** Each takes a connection of the application's pool. */
    readonly transactional = false,
  ) {
    this.sizer = new BatchSizer(most);
  }

  /** Slots that what waits will take. */
  get slotsAhead(): number {
    return Math.ceil(this.ahead / this.sizer.size);
  }

  /** How many more batches may be taken. */
  get room(): number {
    return (this.concurrency ?? Infinity) - this.running - this.kept - this.slotsAhead;
  }

  /** As many run as may. The size has shrunk since they were claimed, where there are more. */
  get full(): boolean {
    return this.running >= (this.concurrency ?? Infinity);
  }
}

/** Beyond so many the oldest doubts are forgotten. */
const MAX_DOUBTFUL = 100_000;

/** The handlers of this process that get their jobs in batches, and which jobs come alone. */
export class Batches {
  private readonly loads = new Map<RegisteredHandler, BatchLoad>();
  private readonly byName = new Map<string, BatchLoad>();
  /** In a batch that failed, nobody knows by which of them. */
  private readonly doubtful = new Set<JobId>();

  /** @param singly every batch has one job */
  constructor(handlers: readonly RegisteredHandler[] = [], singly = false) {
    for (const handler of handlers) {
      if (handler.batch === null) continue;
      const load = new BatchLoad(singly ? 1 : handler.batch, handler.concurrency, handler.isolation !== null);
      this.loads.set(handler, load);
      for (const name of [handler.name, ...handler.formerNames]) this.byName.set(name, load);
    }
  }

  get none(): boolean {
    return this.loads.size === 0;
  }

  of(handler: RegisteredHandler): BatchLoad | undefined {
    return this.loads.get(handler);
  }

  ofJob({ name }: ClaimedJob): BatchLoad | undefined {
    return this.byName.get(name);
  }

  /** By how much the slots that waiting jobs will take are fewer than the jobs. */
  get spared(): number {
    let spared = 0;
    for (const load of this.loads.values()) spared += load.ahead - load.slotsAhead;
    return spared;
  }

  /** These have failed together: each comes alone the next time, so that the one that did it is found. */
  doubt(jobs: readonly ClaimedJob[]): void {
    for (const { id } of jobs) this.doubtful.add(id);
    for (const id of this.doubtful) {
      if (this.doubtful.size <= MAX_DOUBTFUL) break;
      this.doubtful.delete(id);
    }
  }

  /** A suspect comes alone, too: what ended its process must not do so to others. */
  comesAlone({ id, suspect }: ClaimedJob): boolean {
    return suspect || this.doubtful.has(id);
  }

  /** It has come alone, and whatever came of it says something of this job only. */
  cameAlone({ id }: ClaimedJob): void {
    this.doubtful.delete(id);
  }
}
