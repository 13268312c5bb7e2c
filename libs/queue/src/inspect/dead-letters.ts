import { checkKnown } from '../job/check-known.js';
import { durationMs, type Duration } from '../job/duration.js';
import { checkInteger, checkText } from '../job/names.js';
import {
  cleanUpLetters,
  countLetters,
  listLetters,
  scopeOf,
  takeLetters,
  type DeadLetter,
  type DeadLetterState,
} from '../statements/dead-letters.js';
import { endLetters, rejectLetters, requeueLetters } from '../statements/end-letters.js';
import { run, type SqlClient } from '../statements/statement.js';
import { beginOrdered } from '../statements/transaction.js';
import { ALL_STATES, conditionsOf, cursorOf, placeOf, type DeadLetterFilter } from './letter-filter.js';
import {
  bulkLimitOf,
  LETTERS_PER_CHUNK,
  LetterWriter,
  type DeadLetterTarget,
  type LetterPorts,
} from './letter-writer.js';

export interface DeadLettersPorts extends LetterPorts {
  /** How long resolved and discarded letters are kept. */
  readonly keepMs: number;
}

/** Which page of dead letters. */
export interface ListDeadLettersOptions {
  /** How many at most, 1 to 1 000. Default 100. */
  limit?: number;
  /** The `next` of the page before. */
  after?: string;
}

/** A page of dead letters, the longest dead first. */
export interface DeadLetterPage {
  /** The letters. */
  readonly letters: readonly DeadLetter[];
  /** Where the next page begins, `null` at the end. */
  readonly next: string | null;
}

/** Options of `deadLetters.take`. */
export interface TakeOptions {
  /** How long they are the caller's; then others may take them. 1 ms to 10 years, default 5 minutes. */
  timeout?: Duration;
  /** How many at most, 1 to 1 000. Default 100. */
  limit?: number;
}

/** Options of the bulk operations. */
export interface LetterBulkOptions {
  /** Do no more than so many, the longest dead first. Default: all. */
  limit?: number;
}

/** Options of `resolve`, `reject` and `discard`. */
export interface LetterNoteOptions extends LetterBulkOptions {
  /** Why, or by whom: kept with the letter, at most 8 KiB. */
  note?: string;
}

const MAX_PAGE = 1_000;
const DEFAULT_PAGE = 100;
const TAKE_MS = 300_000;
const MAX_NOTE_BYTES = 8_192;

/**
 * The jobs that will not run again by themselves: to be read, and to be dealt with by a person or a program.
 *
 * Where a target is a filter, the operation goes through what fits it now, chunk by chunk, each in a transaction of its
 * own, and answers how many it has done; what dies meanwhile is left. Several callers at once share the work. Where it is
 * ids, all are looked at first: an unknown one is a {@link JobNotFoundError}, one in a state that does not allow it an
 * {@link InvalidTransitionError}, and then nothing is done.
 */
export class DeadLetters {
  private readonly writer: LetterWriter;

  /** @internal made by `QueueModule` */
  constructor(private readonly ports: DeadLettersPorts) {
    this.writer = new LetterWriter(ports);
  }

  /**
   * A page of letters, the longest dead first. Without a `state` those that nobody has dealt with: dead, or taken.
   *
   * @throws {InvalidOptionsError} naming the field of the filter, or the limit
   * @example const { letters, next } = await deadLetters.list({ channel: 'mail', error: 'ECONNREFUSED' });
   */
  async list(filter: DeadLetterFilter = {}, options: ListDeadLettersOptions = {}): Promise<DeadLetterPage> {
    checkKnown(options, 'options', ['limit', 'after']);
    const limit = pageOf(options.limit);
    const after = options.after === undefined ? null : placeOf(options.after);
    const conditions = conditionsOf(filter, { states: listed(filter), limit: limit + 1, after });
    const rows = await this.transact((client) => run(client, listLetters(scopeOf(conditions)), conditions));
    const shown = rows.slice(0, limit);
    return {
      letters: shown.map(({ letter }) => letter),
      next: rows.length > limit ? cursorOf(shown.at(-1)!.place) : null,
    };
  }

  /** How many there are, exactly: as many as `list` shows over all of its pages. Reads those that it counts. */
  async count(filter: DeadLetterFilter = {}): Promise<number> {
    const conditions = conditionsOf(filter, { states: listed(filter), limit: 1 });
    const [count] = await this.transact((client) => run(client, countLetters(scopeOf(conditions)), conditions));
    return count ?? 0;
  }

  /**
   * Hands out letters that nobody has, the longest dead first. No letter is handed to two callers; when `timeout` is over
   * without an end, others may take it again. Give the letter itself to what follows: then it is refused where somebody
   * else has taken it meanwhile.
   *
   * @throws {InvalidOptionsError}
   * @example
   * for (const letter of await deadLetters.take({ channel: 'mail' }, { timeout: '2m', limit: 10 })) {
   *   await deadLetters.resolve(letter, { note: 'sent by hand' });
   * }
   */
  async take(filter: DeadLetterFilter = {}, options: TakeOptions = {}): Promise<readonly DeadLetter[]> {
    checkKnown(options, 'options', ['timeout', 'limit']);
    const timeoutMs = options.timeout === undefined ? TAKE_MS : durationMs(options.timeout, 'timeout', 1);
    const conditions = conditionsOf(filter, {
      states: ['dead', 'reprocessing'],
      free: true,
      limit: pageOf(options.limit),
    });
    const rows = await this.transact((client) =>
      run(client, takeLetters(scopeOf(conditions)), { ...conditions, timeoutMs }),
    );
    return rows.map(({ letter }) => letter);
  }

  /**
   * Taken letters are dealt with: they are kept for `finishedRetention`, with the note. A lane that one of them blocks goes
   * on without it.
   *
   * @returns how many
   * @throws {JobNotFoundError | InvalidTransitionError} where ids were given; nothing is done then
   */
  async resolve(target: DeadLetterTarget, options: LetterNoteOptions = {}): Promise<number> {
    const note = noteOf(options);
    const params = { state: 'resolved', note, keepMs: this.ports.keepMs } as const;
    return this.writer.write(target, {
      ...{ to: 'resolved', from: 'taken', states: ['reprocessing'], limit: options.limit },
      write: (client, letters) => run(client, endLetters, { ...params, letters }),
    });
  }

  /**
   * Taken letters could not be dealt with: they are dead again, and can be taken at once. A lane that one of them blocks
   * stays blocked.
   *
   * @returns how many
   * @throws {JobNotFoundError | InvalidTransitionError} where ids were given; nothing is done then
   */
  async reject(target: DeadLetterTarget, options: LetterNoteOptions = {}): Promise<number> {
    const note = noteOf(options);
    return this.writer.write(target, {
      ...{ to: 'dead', from: 'taken', states: ['reprocessing'], limit: options.limit },
      write: (client, letters) => run(client, rejectLetters, { letters, note }),
    });
  }

  /**
   * Gives letters up that nobody has, or that the caller has taken: they are kept for `finishedRetention`, with the note. A
   * lane that one of them blocks goes on without it.
   *
   * @returns how many
   * @throws {JobNotFoundError | InvalidTransitionError} where ids were given; nothing is done then
   */
  async discard(target: DeadLetterTarget, options: LetterNoteOptions = {}): Promise<number> {
    const note = noteOf(options);
    const params = { state: 'discarded', note, keepMs: this.ports.keepMs } as const;
    return this.writer.write(target, {
      ...{ to: 'discarded', from: 'free', states: ['dead', 'reprocessing'], limit: options.limit },
      write: (client, letters) => run(client, endLetters, { ...params, letters }),
    });
  }

  /**
   * Lets jobs run again that nobody has, or that the caller has taken, under their ids: due at once, attempts anew. One
   * that blocks its lane (`onDead: 'block'`) runs in its place, before all that wait behind it; any other ordered one at the
   * end of its lane.
   *
   * @returns how many
   * @throws {JobNotFoundError | InvalidTransitionError} where ids were given; nothing is done then
   * @example await deadLetters.requeue({ channel: 'mail', reason: 'exhausted', newerThan: '1d' });
   */
  async requeue(target: DeadLetterTarget, options: LetterBulkOptions = {}): Promise<number> {
    checkKnown(options, 'options', ['limit']);
    return this.writer.write(target, {
      ...{ to: 'waiting', from: 'free', states: ['dead', 'reprocessing'], limit: options.limit },
      write: (client, letters, keepKeys) => run(client, requeueLetters, { letters, keepKeys }),
    });
  }

  /**
   * Deletes resolved and discarded letters before their retention is over.
   *
   * @returns how many
   */
  async cleanup(filter: DeadLetterFilter = {}, options: LetterBulkOptions = {}): Promise<number> {
    checkKnown(options, 'options', ['limit']);
    const most = bulkLimitOf(options.limit);
    const conditions = conditionsOf(filter, { states: ['resolved', 'discarded'], limit: LETTERS_PER_CHUNK });
    const statement = cleanUpLetters(scopeOf(conditions));
    for (let deleted = 0; ;) {
      const limit = Math.min(LETTERS_PER_CHUNK, most - deleted);
      const [chunk = 0] = await this.transact((client) => run(client, statement, { ...conditions, limit }));
      deleted += chunk;
      if (chunk < limit || deleted >= most) return deleted;
    }
  }

  private transact<T>(work: (client: SqlClient) => Promise<T>): Promise<T> {
    return this.ports.read(work, beginOrdered);
  }
}

/** What is shown where no state is asked for: whatever nobody has dealt with. */
const listed = (filter: DeadLetterFilter): readonly DeadLetterState[] =>
  filter?.state === undefined ? ['dead', 'reprocessing'] : ALL_STATES;

const pageOf = (limit = DEFAULT_PAGE): number => checkInteger(limit, 'limit', 1, MAX_PAGE);

function noteOf(options: LetterNoteOptions): string | null {
  checkKnown(options, 'options', ['note', 'limit']);
  const { note } = options;
  return note === undefined ? null : checkText(note, 'note', { minBytes: 0, maxBytes: MAX_NOTE_BYTES });
}
