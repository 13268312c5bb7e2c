/**
 * Base of every error that nestmq throws or records. `code` is stable and meant for programs, the message is meant for
 * people: it carries the value that was got and the cure.
 */
export abstract class QueueError extends Error {
  /** Stable identifier of the kind of error, in snake_case. */
  abstract readonly code: string;

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** An option of the module, of a handler or of a spawn call is out of range. Thrown at boot or before any SQL. */
export class InvalidOptionsError extends QueueError {
  readonly code = 'invalid_options';

  /**
   * @param option path of the option, `concurrency.max`
   * @param value  what was given
   * @param cure   what to give instead
   */
  constructor(
    readonly option: string,
    readonly value: unknown,
    readonly cure: string,
  ) {
    super(`Option "${option}" is ${describe(value)}. ${cure}`);
  }
}

/** Two handlers of one application claim the same job name (or a `formerNames` entry repeats one). Thrown at boot. */
export class DuplicateHandlerError extends QueueError {
  readonly code = 'duplicate_handler';

  constructor(
    readonly jobName: string,
    readonly first: string,
    readonly second: string,
  ) {
    super(
      `Job name "${jobName}" belongs to both ${first} and ${second}. Give one of them another \`name\` in @JobHandler.`,
    );
  }
}

/** Two queue modules of one application have the same instance name. Thrown at boot. */
export class DuplicateInstanceError extends QueueError {
  readonly code = 'duplicate_instance';

  constructor(readonly instance: string) {
    super(
      `QueueModule.forRoot was imported twice for the instance "${instance}". Import it once, or give the second one another \`name\`.`,
    );
  }
}

/** A job is spawned whose name no handler of this application has. Nothing was written. */
export class UnknownJobError extends QueueError {
  readonly code = 'unknown_job';

  constructor(
    readonly jobName: string,
    readonly registered: readonly string[],
  ) {
    super(
      `No handler for job "${jobName}". Registered: ${listNames(registered)}. Fix the name, add a @JobHandler with it, or set \`openNames: true\` to send jobs that another application handles.`,
    );
  }
}

/** The payload is not JSON, or not what the handler's schema wants. At spawn nothing was written. */
export class PayloadInvalidError extends QueueError {
  readonly code = 'payload_invalid';

  /** @param issues one line a defect, with its path */
  constructor(
    readonly jobName: string,
    readonly issues: readonly string[],
    options?: ErrorOptions,
  ) {
    super(`Payload of job "${jobName}" is not valid: ${issues.join('; ')}. Correct it and spawn again.`, options);
  }
}

/** The encoded payload exceeds `maxPayloadBytes`. Nothing was written. */
export class PayloadTooLargeError extends QueueError {
  readonly code = 'payload_too_large';

  constructor(
    readonly jobName: string,
    readonly sizeBytes: number,
    readonly maxBytes: number,
  ) {
    super(
      `Payload of job "${jobName}" has ${sizeBytes} bytes, the limit is ${maxBytes}. Store the data elsewhere and send its id, or raise \`maxPayloadBytes\`.`,
    );
  }
}

/** One item of a `spawnMany` call is wrong. Nothing was written; `cause` is the item's own error. */
export class SpawnItemError extends QueueError {
  readonly code = 'spawn_item_invalid';

  constructor(
    readonly index: number,
    override readonly cause: Error,
  ) {
    super(`Item ${index} of spawnMany: ${cause.message}`, { cause });
  }
}

const ABORTED = {
  spawn: 'Nothing was written: an earlier statement of this transaction failed. Do not swallow that error; roll back',
  commit:
    'The transaction was not committed: one of its statements failed and the error was swallowed, so the jobs spawned in it would have vanished. Let the error through',
  run: 'The run was rolled back: a statement in job.manager failed and its error was swallowed. Let the error through',
};

/**
 * The caller's transaction was already aborted by an earlier error, or was aborted after a spawn had joined it and is
 * now to be committed. Postgres would answer such a COMMIT with ROLLBACK and the jobs would vanish without a word.
 */
export class TransactionAbortedError extends QueueError {
  readonly code = 'transaction_aborted';

  constructor(moment: keyof typeof ABORTED, options?: ErrorOptions) {
    super(`${ABORTED[moment]}, or run the statement in a savepoint.`, options);
  }
}

/** A manager was given that is of another DataSource or has no open transaction. Nothing was written. */
export class InvalidManagerError extends QueueError {
  readonly code = 'invalid_manager';

  constructor(reason: string) {
    super(`Option "manager" cannot be used: ${reason}`);
  }
}

/** The handler ran longer than its `timeout`. Recorded as the run's error. */
export class JobTimeoutError extends QueueError {
  readonly code = 'job_timeout';

  constructor(
    readonly jobName: string,
    readonly timeoutMs: number,
  ) {
    super(
      `Job "${jobName}" ran longer than its timeout of ${timeoutMs} ms. Raise \`timeout\`, or make the handler obey job.signal.`,
    );
  }
}

/** The run has lost its lease: another runner may have the job. The transaction in which this is thrown must not commit. */
export class LeaseLostError extends QueueError {
  readonly code = 'lease_lost';

  constructor(
    readonly jobId: string,
    readonly jobName: string,
  ) {
    super(
      `The lease of job ${jobId} ("${jobName}") is lost: another runner may run it. Roll back and stop; the job is taken care of.`,
    );
  }
}

/** A run that has ended or was completed was to write more of itself, or a dead letter's state does not allow what was asked. */
export class InvalidTransitionError extends QueueError {
  readonly code = 'invalid_transition';

  constructor(
    readonly jobId: string,
    readonly from: string,
    readonly to: string,
  ) {
    super(`Job ${jobId} is ${from} and cannot become ${to}.`);
  }
}

/**
 * Why a reservation cannot be used.
 *
 * - `unknown`: nothing is held under its id. It was released, the transaction that spawned it rolled back, or it never was.
 * - `expired`: its hold has ended.
 * - `committed`: it was committed before.
 * - `foreign`: it was made by another queue.
 */
export type ReservationReason = 'unknown' | 'expired' | 'foreign' | 'committed';

const RESERVATION_MESSAGES: Readonly<Record<ReservationReason, (jobId: string) => string>> = {
  unknown: (id) => `Nothing is held under id ${id}: it was released, its spawn was rolled back, or it never was.`,
  expired: (id) =>
    `The hold of job ${id} has ended, and the job is gone. Spawn it again with a longer \`hold\`, or call keepAlive in time.`,
  committed: (id) => `Job ${id} is committed already.`,
  foreign: (id) => `Reservation ${id} was made by another queue. Commit it with the JobSpawner that made it.`,
};

/** A reservation cannot be committed, kept alive or released: `reason` tells why. Nothing was changed. */
export class ReservationError extends QueueError {
  readonly code = 'reservation_invalid';

  constructor(
    readonly jobId: string,
    readonly reason: ReservationReason,
  ) {
    super(RESERVATION_MESSAGES[reason](jobId));
  }
}

/** The schema is missing or older than this package. Thrown at boot. */
export class SchemaMissingError extends QueueError {
  readonly code = 'schema_missing';

  constructor(
    readonly schema: string,
    found: string,
    options?: ErrorOptions,
  ) {
    super(
      `The tables of nestmq are not in schema "${schema}" (${found}). Add \`...queueMigrations\` of "nestmq/migrations" to the DataSource's \`migrations\` and run \`npx typeorm migration:run -d <data-source>\`, or set \`migrationsRun: true\`.`,
      options,
    );
  }
}

/** The DataSource is not a PostgreSQL one. Thrown at boot. */
export class UnsupportedDataSourceError extends QueueError {
  readonly code = 'unsupported_data_source';

  constructor(readonly type: string) {
    super(`nestmq needs a DataSource of type "postgres", this one is "${type}". Name another one with \`dataSource\`.`);
  }
}

/** The database could not be reached, or ended the connection. Safe to try again; `cause` is the driver's error. */
export class DatabaseUnavailableError extends QueueError {
  readonly code = 'database_unavailable';

  constructor(options: ErrorOptions) {
    super(`The database cannot be reached: ${messageOf(options.cause)}. Try again later.`, options);
  }
}

/**
 * Another transaction was in the way: a serialization failure, a deadlock or a lock that was not had in time. Roll back
 * and run the whole transaction again; `cause` is the driver's error.
 */
export class TransactionConflictError extends QueueError {
  readonly code = 'transaction_conflict';

  constructor(options: ErrorOptions) {
    super(
      `Another transaction was in the way: ${messageOf(options.cause)}. Roll back and run the transaction again.`,
      options,
    );
  }
}

/** The queue of this process has been shut down. */
export class QueueClosedError extends QueueError {
  readonly code = 'queue_closed';

  constructor(what: string, cure = 'Spawn before the application closes.') {
    super(`${what} after the queue was shut down. ${cure}`);
  }
}

/** The text of whatever was thrown, never empty. */
export function messageOf(thrown: unknown): string {
  if (thrown instanceof AggregateError && thrown.message === '') return thrown.errors.map(messageOf).join('; ');
  if (thrown instanceof Error) return thrown.message || thrown.name;
  return typeof thrown === 'string' && thrown !== '' ? thrown : describe(thrown);
}

/** A value as it may stand in a message: short, one line. */
export function describe(value: unknown): string {
  if (typeof value === 'function') return `function ${value.name || '(anonymous)'}`;
  if (typeof value === 'bigint') return `${value}n`;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'an invalid Date' : value.toISOString();
  if (typeof value === 'number' || value === undefined) return String(value);
  const text = safeJson(value);
  return text.length > 120 ? `${text.slice(0, 117)}...` : text;
}

function safeJson(value: unknown): string {
  try {
    return JSON.stringify(value) ?? typeof value;
  } catch {
    return Object.prototype.toString.call(value);
  }
}

function listNames(names: readonly string[]): string {
  if (names.length === 0) return 'none';
  const shown = names.slice(0, 20).map((name) => `"${name}"`);
  return shown.join(', ') + (names.length > 20 ? ` and ${names.length - 20} more` : '');
}
