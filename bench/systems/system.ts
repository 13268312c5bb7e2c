import type { EntityManager } from 'typeorm';

/**
 * A job queue, as the bench asks for it. One file a system, and everything in it goes through the public API of the system
 * (two statements aside: counting and removing jobs where its API has no way to), so that its authors can check it.
 */
export interface System {
  /** Makes its tables in an empty database. */
  install(place: Place): Promise<void>;
  /** One process's share of the queue: it sends, and runs jobs where it is given work. */
  open(place: Place, use: Use): Promise<Client>;
}

/** Where a system keeps its jobs: one of the two. */
export interface Place {
  readonly postgres: string;
  readonly redis: string | null;
}

export interface Use {
  /** `null`: this process only sends. */
  readonly work: Work | null;
  /** The names of all handlers: most workloads have one. */
  readonly names: readonly string[];
  /** Jobs of one key run in the order in which they were sent. */
  readonly ordered: boolean;
}

/** What handlers do. Each kind asks something else of the system. */
export type Work =
  | { readonly kind: 'plain'; run(n: number): Promise<void> }
  /** The handler writes, and its writes commit with the job's completion or not at all. */
  | { readonly kind: 'transactional'; run(n: number, query: Query): Promise<void> }
  /** The handler gets up to `size` jobs at once. */
  | { readonly kind: 'batch'; readonly size: number; run(numbers: readonly number[]): Promise<void> }
  /** The same for up to `size` jobs at once, in one transaction. */
  | {
      readonly kind: 'transactional batch';
      readonly size: number;
      run(numbers: readonly number[], query: Query): Promise<void>;
    }
  /** The handler writes its progress down, durably, before it goes on. */
  | { readonly kind: 'checkpoints'; run(n: number, checkpoint: (step: number) => Promise<unknown>): Promise<void> };

export type Query = (text: string, values: unknown[]) => Promise<unknown>;

/** A job to send. */
export interface NewJob {
  readonly payload: Payload;
  readonly name: string;
  readonly key: string | null;
  /** Not before so many seconds from now. */
  readonly delaySeconds: number;
}

/** About 100 bytes of JSON, or as much as the workload asks for. */
export interface Payload {
  readonly n: number;
  readonly to: string;
  readonly subject: string;
}

export interface Client {
  send(job: NewJob): Promise<unknown>;
  sendMany(jobs: readonly NewJob[]): Promise<unknown>;
  /** How an application sends in a transaction of its own, where the system lets it. */
  readonly transactions: Transactions | null;
  /** Jobs that are not finished, whatever they wait for. */
  countUnfinished(): Promise<number>;
  /** Removes all jobs, finished ones too: nothing runs meanwhile. */
  clear(): Promise<void>;
  close(): Promise<void>;
}

export interface Transactions {
  /** A transaction of the application's. */
  run<T>(work: (manager: EntityManager) => Promise<T>): Promise<T>;
  send(manager: EntityManager, job: NewJob): Promise<unknown>;
}

/** Connections of each application's pool: what a busy service has. */
export const POOL_SIZE = 32;

/** Jobs that run at once where the system's own default is lower, which is all of the peers': in their favour. */
export const CONCURRENCY = 10;
