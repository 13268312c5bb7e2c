import { checkKnown } from '../job/check-known.js';
import { JobNotFoundError } from '../job/control-errors.js';
import { InvalidOptionsError, TransactionConflictError } from '../job/errors.js';
import type { QueueEvent } from '../job/events.js';
import { Gatherer } from '../job/gatherer.js';
import type { JobId, JobState } from '../job/job.js';
import { checkJobId, checkKey, checkName, checkText } from '../job/names.js';
import { RetryDelay } from '../job/retry-delay.js';
import {
  cancelJobs,
  findCancellable,
  locateJobs,
  type CancellableRow,
  type CancelRow,
  type FoundCancellableRow,
} from '../statements/cancel-jobs.js';
import { repairLanes } from '../statements/mend-lanes.js';
import { run, type SqlClient } from '../statements/statement.js';
import { beginOwningAll } from '../statements/transaction.js';
import { cancelMessages } from '../statements/wake-up.js';
import { MAX_IDS } from './letter-filter.js';

/** Options of `queue.cancel` and `queue.cancelMany`. */
export interface CancelOptions {
  /** Why: the reason of the handler's {@link JobCancelledError}, and kept with the job. At most 1 KiB. */
  reason?: string;
}

/** What `queue.cancel` did. */
export type CancelResult =
  /** It had not started, and never will. */
  | { readonly outcome: 'cancelled'; readonly state: 'cancelled' }
  /** It runs, or is about to: it was told to stop. It ends cancelled, or completed when it succeeds all the same. */
  | { readonly outcome: 'requested'; readonly state: 'running' }
  /** There was nothing to cancel any more. */
  | { readonly outcome: 'already finished'; readonly state: JobState };

/** Which jobs `queue.cancelMany` cancels: those of a channel, or those with some ids. */
export interface CancelFilter {
  /** Of this channel. */
  channel?: string;
  /** Of those, with this key; `''`: without one. */
  key?: string;
  /** Of those, for the handler with this name. */
  name?: string;
  /** With one of these ids, at most 10 000; unknown ones are passed by. */
  ids?: readonly JobId[];
}

/** How many jobs `queue.cancelMany` has cancelled, and how many that run it has told to stop. */
export interface CancelCounts {
  /** They had not started, and never will. */
  readonly cancelled: number;
  /** They run, and were told to stop. */
  readonly requested: number;
}

export interface CancelPorts {
  readonly schema: string;
  readonly read: <T>(work: (client: SqlClient) => Promise<T>) => Promise<T>;
  readonly write: <T>(work: (client: SqlClient) => Promise<T>, begin: string) => Promise<T>;
  readonly wake: (messages: readonly string[]) => void;
  readonly emit: (event: QueueEvent) => void;
  /** How long cancelled jobs are kept. */
  readonly keepMs: number;
}

const MAX_REASON_BYTES = 1_024;

/** Jobs that one transaction cancels: claims of their channel wait for it. */
const CHUNK = 500;

/** Jobs that are looked for at once. */
const FOUND = 10_000;

/** How long a job may be locked by another transaction, say of its own handler. */
const BUSY_LIMIT_MS = 5_000;
const BUSY_DELAY_MS = { minMs: 5, maxMs: 100 };

interface Asked {
  readonly id: JobId;
  readonly reason: string | null;
}

/** What one try has found: its answer, or that the job was locked, and whether it ran then; `null`: there is none. */
type Found = CancelResult | { readonly outcome: 'busy'; readonly ran: boolean } | null;

const BUSY: Found = { outcome: 'busy', ran: false };

/** Cancels jobs: at once what nobody has, by a request what runs. */
export class Canceller {
  /** Single ones that are asked for at once go together: each transaction holds up the claims of its channel. */
  private readonly asked = new Gatherer<Asked, Found>((asked) => this.tryAll(asked));

  constructor(private readonly ports: CancelPorts) {}

  async cancel(id: JobId, options: CancelOptions = {}): Promise<CancelResult> {
    const asked = { id: checkJobId(id, 'id'), reason: reasonOf(options) };
    let busy: Patience | null = null;
    for (let ran = false; ; await busy.wait()) {
      const found = await this.asked.ask(asked);
      // It was there, and ran: a handler without `retention` has completed it meanwhile.
      if (found === null && ran) return { outcome: 'already finished', state: 'completed' };
      if (found === null) throw new JobNotFoundError(asked.id);
      if (found.outcome !== 'busy') return found;
      ran ||= found.ran;
      busy ??= new Patience();
      if (!busy.isOver) continue;
      throw new TransactionConflictError({ cause: new Error(`job ${asked.id} is locked by another transaction`) });
    }
  }

  private async tryAll(asked: readonly Asked[]): Promise<Found[]> {
    const ids = [...new Set(asked.map(({ id }) => id))];
    const places = await this.ports.read((client) => run(client, locateJobs, { ids }));
    const found = new Map<JobId, Found>();
    const reasons = new Map(asked.toReversed().map(({ id, reason }) => [id, reason]));
    for (const { id, finished } of places) {
      // One that is live now and gone a moment later has ended meanwhile: worth another look, too.
      found.set(id, finished === null ? BUSY : { outcome: 'already finished', state: finished });
    }
    for (const reason of new Set(reasons.values())) {
      const some = places.filter(({ id, finished }) => finished === null && reasons.get(id) === reason);
      for (const chunk of chunksOf(some)) {
        for (const [id, result] of foundIn(await this.cancelOnce(chunk, reason))) found.set(id, result);
      }
    }
    return asked.map(({ id }) => found.get(id) ?? null);
  }

  async cancelMany(filter: CancelFilter, options: CancelOptions = {}): Promise<CancelCounts> {
    checkKnown(filter, 'filter', ['channel', 'key', 'name', 'ids']);
    const reason = reasonOf(options);
    const { channel, ids, key, name } = filter;
    if ((channel === undefined) === (ids === undefined) || (ids !== undefined && (key ?? name) !== undefined)) {
      throw new InvalidOptionsError('filter', filter, 'Give `channel`, with `key` and `name` as you like, or `ids`.');
    }
    if (ids !== undefined) return this.cancelIds(checkIds(ids), reason);
    return this.cancelFitting(
      {
        channel: checkName(channel, 'channel'),
        key: key === undefined ? null : checkKey(key, 'key'),
        name: name === undefined ? null : checkName(name, 'name'),
      },
      reason,
    );
  }

  private async cancelIds(ids: readonly JobId[], reason: string | null): Promise<CancelCounts> {
    const places = await this.ports.read((client) => run(client, locateJobs, { ids }));
    return this.cancelPlaces(
      places.filter(({ finished }) => finished === null),
      reason,
    );
  }

  /** What is spawned meanwhile is left. */
  private async cancelFitting(
    which: { channel: string; key: string | null; name: string | null },
    reason: string | null,
  ): Promise<CancelCounts> {
    let [after, upTo]: [JobId, JobId | null] = ['0', null];
    let total: CancelCounts = { cancelled: 0, requested: 0 };
    for (;;) {
      const params: Parameters<typeof findCancellable.query>[1] = { ...which, after, upTo, limit: FOUND };
      const found: FoundCancellableRow[] = await this.ports.read((client) => run(client, findCancellable, params));
      total = sum(total, await this.cancelPlaces(found, reason));
      const last = found.at(-1);
      if (found.length < FOUND || last === undefined) return total;
      [after, upTo] = [last.id, last.upTo];
    }
  }

  /** Channel by channel, chunk by chunk. */
  private async cancelPlaces(places: readonly CancellableRow[], reason: string | null): Promise<CancelCounts> {
    let total: CancelCounts = { cancelled: 0, requested: 0 };
    for (const chunk of chunksOf(places)) total = sum(total, await this.cancelChunk(chunk, reason));
    return total;
  }

  private async cancelChunk(places: readonly CancellableRow[], reason: string | null): Promise<CancelCounts> {
    const busy = new Patience();
    let total: CancelCounts = { cancelled: 0, requested: 0 };
    for (let left = places; ; await busy.wait()) {
      const row = await this.cancelOnce(left, reason);
      total = sum(total, { cancelled: row.cancelled.length, requested: row.requested.length });
      const again = new Set(row.busy);
      left = left.filter(({ id }) => again.has(id));
      if (left.length === 0 || busy.isOver) return total;
    }
  }

  /** One transaction, in which nothing of the channel is claimed, and what is told of it afterwards. */
  private async cancelOnce(places: readonly CancellableRow[], reason: string | null): Promise<CancelRow> {
    const { schema, keepMs, wake, emit } = this.ports;
    const { channel } = places[0]!;
    const ids = places.map(({ id }) => id);
    const lanes = places.filter(({ ordered }) => ordered);
    const [[row], freed] = await this.ports.write(
      (client) =>
        Promise.all([
          run(client, cancelJobs, { channel, ids, reason, keepMs }),
          lanes.length > 0 ? run(client, repairLanes, { lanes }) : [],
        ]),
      beginOwningAll(schema, channel),
    );
    if (row === undefined) throw new Error('The statement that cancels has answered nothing.');
    const messages = [...cancelMessages(row.requested, reason), ...freed.flatMap(({ message }) => message ?? [])];
    if (messages.length > 0) wake(messages);
    for (const job of row.cancelled) emit({ type: 'cancelled', ...job });
    return row;
  }
}

/** How long it is worth to try again. */
class Patience {
  private readonly delay = new RetryDelay(BUSY_DELAY_MS);
  private readonly until = performance.now() + BUSY_LIMIT_MS;

  get isOver(): boolean {
    return performance.now() > this.until;
  }

  wait(): Promise<void> {
    return this.delay.wait();
  }
}

/** Of one channel each. */
function* chunksOf(places: readonly CancellableRow[]): Generator<CancellableRow[]> {
  for (const channel of new Set(places.map((place) => place.channel))) {
    const some = places.filter((place) => place.channel === channel);
    for (let from = 0; from < some.length; from += CHUNK) yield some.slice(from, from + CHUNK);
  }
}

function* foundIn({ cancelled, requested, busy, busyRunning }: CancelRow): Generator<[JobId, Found]> {
  const ran = new Set(busyRunning);
  for (const { id } of cancelled) yield [id, { outcome: 'cancelled', state: 'cancelled' }];
  for (const id of requested) yield [id, { outcome: 'requested', state: 'running' }];
  for (const id of busy) yield [id, { outcome: 'busy', ran: ran.has(id) }];
}

const sum = (one: CancelCounts, other: CancelCounts): CancelCounts => ({
  cancelled: one.cancelled + other.cancelled,
  requested: one.requested + other.requested,
});

function reasonOf(options: CancelOptions): string | null {
  checkKnown(options, 'options', ['reason']);
  const { reason } = options;
  return reason === undefined ? null : checkText(reason, 'reason', { minBytes: 1, maxBytes: MAX_REASON_BYTES });
}

function checkIds(ids: unknown): JobId[] {
  if (!Array.isArray(ids)) throw new InvalidOptionsError('ids', ids, 'Give an array of ids.');
  if (ids.length > MAX_IDS) throw new InvalidOptionsError('ids', ids.length, `Give at most ${MAX_IDS} in one call.`);
  return [...new Set(ids.map((id) => checkJobId(id, 'ids')))];
}
