import type { DataSource, EntityManager } from 'typeorm';
import { TransactionConflictError } from '../job/errors.js';
import type { JobId } from '../job/job.js';
import { RetryDelay } from '../job/retry-delay.js';
import type { Connection } from '../postgres/connection.js';
import { isUnavailable, sqlStateOf } from '../postgres/sqlstate.js';
import { transactionClient } from '../postgres/transaction-client.js';
import { chunksOf, JOBS_PER_INSERT } from '../statements/insert-jobs.js';
import type { NewJob } from '../statements/new-job.js';
import {
  beginKeyed,
  drawIds,
  findKeys,
  insertKeyedJobs,
  insertKeyedJobsInTransaction,
  REFUSED,
  withdrawJobs,
  type KeyedJob,
  type KeyedRow,
  type KeyHolder,
} from '../statements/insert-keyed-jobs.js';
import type { JobItem } from '../statements/job-items.js';
import { run, type SqlClient } from '../statements/statement.js';
import { notifyChannelOf } from '../statements/wake-up.js';
import { answersOfAll, checkSame, distinctKeys } from './same-keys.js';
import type { SpawnResult } from './spawn-options.js';
import { SpawnQueue } from './spawn-queue.js';

export interface KeyedSpawnsSettings {
  readonly dataSource: DataSource;
  readonly schema: string;
  readonly namedStatements: boolean;
  /** Longest wait for the end of another transaction that has the key. */
  readonly idempotencyWaitMs: number;
}

/** Between two looks whether a key is free or its job is to be seen. */
const LOOK_MS = { minMs: 2, maxMs: 200 };

const NOT_SEEN = new Error('the job of an idempotency key could not be seen in time');

/** Spawns of jobs of which some have an idempotency key: in the caller's transaction, or merged in one of our own. */
export class KeyedSpawns {
  private readonly queue: SpawnQueue<SpawnResult>;
  private readonly underWay = new Set<Promise<unknown>>();

  constructor(
    private readonly settings: KeyedSpawnsSettings,
    private readonly connection: Connection,
    private readonly onInserted: (wakeUps: readonly string[]) => void,
    private readonly onJoined: (manager: EntityManager) => void,
  ) {
    this.queue = new SpawnQueue({ write: (jobs) => this.write(jobs), isShared: isUnavailable, overlaps: () => false });
  }

  /**
   * @returns one answer for each job; an earlier job of its key is one that is not new
   * @throws {IdempotencyConflictError | TransactionConflictError} nothing is written then
   */
  async insert(all: readonly NewJob[], manager: EntityManager | undefined): Promise<SpawnResult[]> {
    if (manager === undefined) return this.track(this.insertAlone(all));
    const distinct = distinctKeys(all);
    return answersOfAll(distinct, await this.insertIn(manager, distinct.jobs));
  }

  /** Resolves when every call without a manager has been answered. */
  async idle(): Promise<void> {
    await Promise.allSettled(this.underWay);
  }

  private async track<T>(work: Promise<T>): Promise<T> {
    this.underWay.add(work);
    try {
      return await work;
    } finally {
      this.underWay.delete(work);
    }
  }

  // ── in a transaction of our own ───────────────────────────────────────────────────────────────────────────────────

  /** A key that somebody has is asked for again and again: the connection is not kept waiting. */
  private async insertAlone(jobs: readonly NewJob[]): Promise<SpawnResult[]> {
    const delay = new RetryDelay(LOOK_MS);
    const giveUpAt = performance.now() + this.settings.idempotencyWaitMs;
    for (let alone = false; ; alone = true) {
      try {
        return await this.queue.insert(jobs, alone);
      } catch (error) {
        const wasRefused = REFUSED.has(sqlStateOf(error));
        if (!wasRefused && !(error instanceof TransactionConflictError)) throw error;
        if (wasRefused) await this.checkStrict(jobs);
        if (performance.now() > giveUpAt) throw wasRefused ? new TransactionConflictError({ cause: NOT_SEEN }) : error;
      }
      await delay.wait();
    }
  }

  /** What was merged may have a key twice. */
  private async write(all: readonly NewJob[]): Promise<SpawnResult[]> {
    const distinct = distinctKeys(all);
    const rows = await this.connection.transaction(
      (client) => Promise.all(chunksOf(distinct.jobs).map((jobs) => run(client, insertKeyedJobs, { jobs }))),
      beginKeyed,
    );
    this.onInserted(rows.flatMap(([row]) => row?.wakeUps ?? []));
    return answersOfAll(
      distinct,
      rows.flatMap(([row]) => (row?.answers ?? []) as SpawnResult[]),
    );
  }

  private async checkStrict(jobs: readonly NewJob[]): Promise<void> {
    const strict = jobs.filter(isKeyed).filter(({ idempotency }) => idempotency.strict);
    if (strict.length === 0) return;
    const holders = await this.connection.transaction((client) => run(client, findKeys, { jobs: strict }));
    for (const { index, id, hash } of holders) checkSame(strict[index]!, hash, id);
  }

  // ── in the caller's transaction ───────────────────────────────────────────────────────────────────────────────────

  private async insertIn(manager: EntityManager, jobs: readonly NewJob[]): Promise<SpawnResult[]> {
    const client = await transactionClient(manager, this.settings);
    this.onJoined(manager);
    const delay = new RetryDelay(LOOK_MS);
    const giveUpAt = performance.now() + this.settings.idempotencyWaitMs;
    for (;;) {
      const answers = await this.tryIn(client, jobs);
      if (answers !== null) return answers;
      if (performance.now() > giveUpAt) throw new TransactionConflictError({ cause: NOT_SEEN });
      await delay.wait();
    }
  }

  /**
   * @returns `null` when a key was taken whose job is gone by now, or not to be seen: nothing is written, try again
   * @throws {IdempotencyConflictError} nothing is written, and the transaction is usable
   */
  private async tryIn(client: SqlClient, jobs: readonly NewJob[]): Promise<SpawnResult[] | null> {
    const params = { notifyChannel: notifyChannelOf(client.schema), waitMs: this.settings.idempotencyWaitMs };
    const chunks = await chunksByKey(jobs, (count) => run(client, drawIds, { count }));
    const rows: KeyedRow[] = [];
    for (const chunk of chunks) {
      const [row] = await run(client, insertKeyedJobsInTransaction, { ...params, jobs: chunk.jobs });
      rows.push(row!);
    }
    const answers = answersOf(chunks, rows);
    const isWhole = rows.every(({ surplus }) => surplus.length === 0) && answers.every(({ id }) => id !== null);
    if (isWhole) return answers as SpawnResult[];
    try {
      const found = await this.foundIn(client, jobs, answers);
      if (found !== null && rows.every(({ surplus }) => surplus.length === 0)) return found;
    } catch (error) {
      await this.withdraw(client, answers);
      throw error;
    }
    await this.withdraw(client, answers);
    return null;
  }

  /** Fills in the jobs that hold the keys; `null` when one is not there. */
  private async foundIn(
    client: SqlClient,
    jobs: readonly NewJob[],
    answers: readonly Answer[],
  ): Promise<SpawnResult[] | null> {
    const places = answers.flatMap(({ id }, index) => (id === null ? index : []));
    const wanted = places.map((place) => jobs[place]! as KeyedJob); // only a key can be taken
    const holders = new Map<number, KeyHolder>();
    for (const holder of await run(client, findKeys, { jobs: wanted })) {
      checkSame(wanted[holder.index]!, holder.hash, holder.id);
      holders.set(places[holder.index]!, holder);
    }
    if (holders.size < places.length) return null;
    return answers.map(({ id, isNew }, index) => ({ id: id ?? holders.get(index)!.id, isNew }));
  }

  private async withdraw(client: SqlClient, answers: readonly Answer[]): Promise<void> {
    const ids = answers.flatMap(({ id, isNew }) => (isNew && id !== null ? id : []));
    if (ids.length > 0) await run(client, withdrawJobs, { ids });
  }
}

type Answer = KeyedRow['answers'][number];

const isKeyed = (job: NewJob): job is KeyedJob => job.idempotency !== null;

/** Jobs that go out in one statement, and their places in the call. */
interface Chunk {
  readonly jobs: readonly JobItem[];
  readonly places: readonly number[];
}

/**
 * What one statement takes it sorts by key itself. More is cut by key, so that all keys of a call are taken in order, and
 * then the ids are drawn ahead, since they ascend in the order of the call.
 */
async function chunksByKey(jobs: readonly NewJob[], draw: (count: number) => Promise<JobId[][]>): Promise<Chunk[]> {
  const places = jobs.map((_, place) => place);
  if (jobs.length <= JOBS_PER_INSERT) return [{ jobs, places }];
  const [ids] = await draw(jobs.length);
  const bytes = jobs.map(({ channel, idempotency }) => Buffer.from(`${channel}\0${idempotency?.key ?? ''}`));
  const keyed = jobs.map((job, place) => ({ ...job, id: ids![place]!, place }));
  keyed.sort((a, b) => Buffer.compare(bytes[a.place]!, bytes[b.place]!));
  return chunksOf(keyed).map((chunk) => ({ jobs: chunk, places: chunk.map(({ place }) => place) }));
}

function answersOf(chunks: readonly Chunk[], rows: readonly KeyedRow[]): Answer[] {
  const answers: Answer[] = [];
  for (const [index, { places }] of chunks.entries()) {
    for (const [at, place] of places.entries()) answers[place] = rows[index]!.answers[at]!;
  }
  return answers;
}
