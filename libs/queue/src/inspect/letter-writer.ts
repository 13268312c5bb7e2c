import { JobNotFoundError } from '../job/control-errors.js';
import { InvalidOptionsError, InvalidTransitionError, TransactionConflictError } from '../job/errors.js';
import type { JobId } from '../job/job.js';
import { checkInteger, checkJobId } from '../job/names.js';
import { RetryDelay } from '../job/retry-delay.js';
import { isUniqueViolation } from '../postgres/sqlstate.js';
import {
  findLetters,
  scopeOf,
  type DeadLetter,
  type DeadLetterState,
  type FoundLetter,
  type LetterConditions,
  type LetterPlace,
} from '../statements/dead-letters.js';
import {
  findLetterStates,
  lockLanes,
  unblockLanes,
  type LetterRef,
  type LettersRow,
  type LetterStateRow,
} from '../statements/end-letters.js';
import { run, type SqlClient } from '../statements/statement.js';
import { begin, beginBriefly, beginOrdered } from '../statements/transaction.js';
import { conditionsOf, MAX_IDS, type DeadLetterFilter } from './letter-filter.js';

/** The letters of a bulk operation: an id, a letter, several of them, or whatever fits a filter. */
export type DeadLetterTarget = JobId | DeadLetter | readonly (JobId | DeadLetter)[] | DeadLetterFilter;

export interface LetterPorts {
  /** A transaction that may be long, and locks nothing that a runner needs. */
  readonly read: <T>(work: (client: SqlClient) => Promise<T>, begin: string) => Promise<T>;
  /** One whose statements are all sent at once: no blocked event loop leaves its locks behind. */
  readonly write: <T>(work: (client: SqlClient) => Promise<T>, begin: string) => Promise<T>;
  readonly wake: (messages: readonly string[]) => void;
}

/** What is to be done with letters. */
export interface LetterWork {
  /** What becomes of them, for messages. */
  readonly to: string;
  /** `taken`: only taken ones; `free`: dead ones, and taken ones that are the caller's or nobody's any more. */
  readonly from: 'taken' | 'free';
  /** Where a filter looks. */
  readonly states: readonly DeadLetterState[];
  readonly limit: number | undefined;
  /** @param keepKeys `false`: idempotency keys stay behind */
  readonly write: (client: SqlClient, letters: readonly LetterRef[], keepKeys: boolean) => Promise<LettersRow[]>;
}

/** Letters that one transaction writes: the lanes of ordered ones are locked for so long. */
export const LETTERS_PER_CHUNK = 500;

/** How long the lane of a job that has just died may take to be given back. */
const BUSY_LIMIT_MS = 5_000;
const BUSY_DELAY_MS = { minMs: 5, maxMs: 200 };

/** Does something with dead letters, chunk by chunk. */
export class LetterWriter {
  constructor(private readonly ports: LetterPorts) {}

  /** @returns how many were written */
  async write(target: DeadLetterTarget, work: LetterWork): Promise<number> {
    const most = bulkLimitOf(work.limit);
    const refs = refsOf(target);
    if (refs === null) return this.writeFitting(target as DeadLetterFilter, work, most);
    await this.check(refs, work);
    const done = await this.writeAll(refs.slice(0, most), work);
    const [only] = refs;
    // Somebody was faster: with a single letter the caller is told.
    if (done === 0 && refs.length === 1 && only) {
      await this.check(refs, work);
      throw new TransactionConflictError({ cause: new Error(`job ${only.id} is still being settled`) });
    }
    return done;
  }

  private async writeFitting(filter: DeadLetterFilter, work: LetterWork, most: number): Promise<number> {
    const free = work.from === 'free';
    const conditions = conditionsOf(filter, { states: work.states, free, limit: LETTERS_PER_CHUNK });
    const statement = findLetters(scopeOf(conditions));
    let after: LetterPlace | null = null;
    // What is requeued and dies again meanwhile is not met a second time.
    let untilMicros: string | null = null;
    for (let done = 0; ;) {
      const limit = Math.min(LETTERS_PER_CHUNK, most - done);
      const params: LetterConditions = { ...conditions, after, untilMicros, limit };
      const found: FoundLetter[] = await this.ports.read((client) => run(client, statement, params), beginOrdered);
      done += await this.writeChunk(
        found.map(({ id }) => ({ id, take: null })),
        work,
      );
      if (found.length < limit || done >= most) return done;
      after = found.at(-1)!;
      untilMicros ??= found[0]!.nowMicros;
    }
  }

  private async writeAll(refs: readonly LetterRef[], work: LetterWork): Promise<number> {
    let done = 0;
    for (let from = 0; from < refs.length; from += LETTERS_PER_CHUNK) {
      done += await this.writeChunk(refs.slice(from, from + LETTERS_PER_CHUNK), work);
    }
    return done;
  }

  /** A letter whose lane is not given back yet is tried again, for some time. */
  private async writeChunk(refs: readonly LetterRef[], work: LetterWork): Promise<number> {
    const delay = new RetryDelay(BUSY_DELAY_MS);
    const giveUpAt = performance.now() + BUSY_LIMIT_MS;
    let done = 0;
    for (let left = refs; left.length > 0; await delay.wait()) {
      const { ids, busy, messages } = await this.writeOnce(left, work);
      done += ids.length;
      if (messages.length > 0) this.ports.wake(messages);
      const again = new Set(busy);
      left = left.filter(({ id }) => again.has(id));
      if (left.length === 0 || performance.now() > giveUpAt) break;
    }
    return done;
  }

  /** A job that is just being spawned with the idempotency key of a letter is not waited for: that one has it then. */
  private async writeOnce(letters: readonly LetterRef[], work: LetterWork): Promise<LettersRow> {
    const { write } = this.ports;
    try {
      return await write((client) => writeIn(client, letters, work, true), beginBriefly);
    } catch (error) {
      if (!(error instanceof TransactionConflictError) && !isUniqueViolation(error)) throw error;
      return write((client) => writeIn(client, letters, work, false), begin);
    }
  }

  /** @throws {JobNotFoundError | InvalidTransitionError} for the first one with which it cannot be done */
  private async check(refs: readonly LetterRef[], work: LetterWork): Promise<void> {
    const ids = refs.map(({ id }) => id);
    const rows = await this.ports.read((client) => run(client, findLetterStates, { ids }), begin);
    const states = new Map(rows.map((row) => [row.id, row]));
    for (const ref of refs) {
      const row = states.get(ref.id);
      if (row === undefined || row.state === null) throw new JobNotFoundError(ref.id);
      if (!isAllowed(ref, row, work.from)) throw new InvalidTransitionError(ref.id, fromOf(ref, row), work.to);
    }
  }
}

/** One chunk, and the lanes that go on by it, in one transaction. */
async function writeIn(
  client: SqlClient,
  letters: readonly LetterRef[],
  work: LetterWork,
  keepKeys: boolean,
): Promise<LettersRow> {
  const ids = letters.map(({ id }) => id);
  const [, [row], messages] = await Promise.all([
    run(client, lockLanes, { ids }),
    work.write(client, letters, keepKeys),
    run(client, unblockLanes, { ids }),
  ]);
  if (row === undefined) throw new Error('A statement about dead letters has answered nothing.');
  return { ...row, messages: [...row.messages, ...messages] };
}

function isAllowed({ take }: LetterRef, row: LetterStateRow, from: LetterWork['from']): boolean {
  const mine = take === null || take === row.take;
  if (row.state === 'dead') return from === 'free' && mine;
  if (row.state !== 'reprocessing') return false;
  return from === 'taken' || take !== null ? mine : row.free;
}

function fromOf({ take }: LetterRef, row: LetterStateRow): string {
  if (row.state === 'live') return 'waiting or running';
  const isOpen = row.state === 'dead' || row.state === 'reprocessing';
  return isOpen && take !== null && take !== row.take ? `${row.state}, taken by somebody else since,` : row.state!;
}

/** @throws {InvalidOptionsError} unless it is a whole number from 1 on */
export const bulkLimitOf = (limit: number | undefined): number =>
  limit === undefined ? Infinity : checkInteger(limit, 'limit', 1, Number.MAX_SAFE_INTEGER);

/** The letters that are named; `null` for a filter. */
function refsOf(target: DeadLetterTarget): readonly LetterRef[] | null {
  if (Array.isArray(target)) {
    if (target.length > MAX_IDS) {
      throw new InvalidOptionsError('ids', target.length, `Give at most ${MAX_IDS} in one call.`);
    }
    const refs = (target as readonly (JobId | DeadLetter)[]).map(refOf);
    return [...new Map(refs.map((ref) => [ref.id, ref])).values()];
  }
  const isFilter = typeof target === 'object' && target !== null && !('id' in target);
  return isFilter ? null : [refOf(target as JobId | DeadLetter)];
}

function refOf(given: JobId | DeadLetter): LetterRef {
  if (typeof given !== 'object' || given === null) return { id: checkJobId(given, 'ids'), take: null };
  return { id: checkJobId(given.id, 'ids'), take: given.take ?? null };
}
