import type { InjectionToken } from '@nestjs/common';
import type { DataSource } from 'typeorm';
import { durationMs, type Duration } from './job/duration.js';
import { InvalidOptionsError } from './job/errors.js';
import type { ErrorHook, HandlerPreset } from './job/handler.js';
import { checkBoolean, checkInteger, checkName } from './job/names.js';

/** How many jobs a process runs at once, 1 to 10 000. */
export interface Concurrency {
  /** When fewer run, more are claimed. Default 16. */
  min?: number;
  /** Never more run. Default 32. */
  max?: number;
}

/** How a process ends. */
export interface Shutdown {
  /** How long running handlers may take to end before they are aborted, milliseconds. Default 15 000. */
  graceMs?: number;
}

/** Options of `QueueModule.forRoot`. Every one has a default. */
export interface QueueOptions {
  /** Schema of the queue's tables, as its migrations were made for. Default `nestmq`. */
  schema?: string;
  /** `false`: this process only sends jobs. Default `true`. */
  runner?: boolean;
  /**
   * A stable name of this process, the same after a restart and no other's at the same time, say the name of a StatefulSet's
   * pod. Shown by `queue.runners()`. Default none.
   */
  runnerId?: string;
  /**
   * `release-own`: at its start a process takes the jobs back that a former one with its `runnerId` has left running, instead of
   * waiting until that one is missed. Default none.
   */
  onStart?: 'release-own';
  /** Run jobs of these channels only. Default all that have jobs for this application's handlers. */
  channels?: readonly string[];
  /** When fewer than `min` jobs run, so many are claimed that `max` run. Default 16 and 32; a number is both. */
  concurrency?: number | Concurrency;
  /** Jobs are held ahead of a free slot for so many milliseconds of work, and none where handlers take longer. 0 to 1 000, default 5. */
  prefetchMs?: number;
  /** Longest wait for a notification before looking without one, milliseconds, ± 25 %. 100 to 60 000, default 2 000. */
  pollMs?: number;
  /** A process that gives no sign for so long has lost its jobs. 1 000 to 600 000 ms, default 10 000. */
  leaseMs?: number;
  /** How long a handler may block the event loop and keep its lease, milliseconds. Default 300 000. */
  blockedLimitMs?: number;
  /** How long a run that its `timeout` aborted keeps its slot, milliseconds. Default 5 000. */
  abortGraceMs?: number;
  /** A run that goes on longer is told of by an event. Default 1 hour. */
  stuckAfter?: Duration;
  /** `graceMs`: how long a shutdown waits for running handlers before it aborts them. Default 15 000. */
  shutdown?: Shutdown;
  /** Payload, bytes and metadata of one job together, as UTF-8. Default 65 536, at most 64 MiB. */
  maxPayloadBytes?: number;
  /** How long a spawn waits for another transaction that has its idempotency key, milliseconds. 1 to 600 000, default 5 000. */
  idempotencyWaitMs?: number;
  /** Allow to send jobs by names that no handler of this application has. Default `false`. */
  openNames?: boolean;
  /** Options for all handlers, below their own. */
  defaults?: HandlerPreset;
  /** Direct connection string for LISTEN, where the application goes through a pooler. */
  listenUrl?: string;
  /** `false` where a pooler cannot keep named statements. Default `true`. */
  preparedStatements?: boolean;
  /** How long cancelled jobs, and resolved and discarded dead letters, are kept. Default 7 days. */
  finishedRetention?: Duration;
  /** How often finished jobs are pruned whose retention is over. Default 1 minute. */
  pruneEvery?: Duration;
  /** Called once a failed run is written, of every handler, after the handler's own. Default none. */
  onError?: ErrorHook;
}

/** What is fixed when the module is declared, also with `forRootAsync`. */
export interface QueueInstanceOptions {
  /** Name of this queue, where an application has several. Default the unnamed one, `default`. */
  name?: string;
  /** The DataSource: a name of @nestjs/typeorm, an injection token, or the DataSource itself. Default @nestjs/typeorm's. */
  dataSource?: string | InjectionToken<DataSource> | DataSource;
}

export interface ResolvedQueueOptions {
  readonly schema: string;
  readonly runner: boolean;
  readonly runnerId: string | null;
  readonly releaseOwn: boolean;
  readonly channels: readonly string[] | null;
  readonly concurrency: { readonly min: number; readonly max: number };
  readonly prefetchMs: number;
  readonly pollMs: number;
  readonly leaseMs: number;
  readonly blockedLimitMs: number;
  readonly abortGraceMs: number;
  readonly stuckAfterMs: number;
  readonly shutdownGraceMs: number;
  readonly maxPayloadBytes: number;
  readonly idempotencyWaitMs: number;
  readonly openNames: boolean;
  readonly defaults: HandlerPreset;
  readonly listenUrl: string | null;
  readonly namedStatements: boolean;
  readonly finishedRetentionMs: number;
  readonly pruneEveryMs: number;
  readonly onError: ErrorHook | null;
}

export const DEFAULTS = {
  schema: 'nestmq',
  runner: true,
  concurrency: { min: 16, max: 32 },
  prefetchMs: 5,
  pollMs: 2_000,
  leaseMs: 10_000,
  blockedLimitMs: 300_000,
  abortGraceMs: 5_000,
  stuckAfter: '1h',
  shutdown: { graceMs: 15_000 },
  maxPayloadBytes: 65_536,
  idempotencyWaitMs: 5_000,
  openNames: false,
  defaults: {},
  preparedStatements: true,
  finishedRetention: '7d',
  pruneEvery: '1m',
} as const satisfies QueueOptions;

const KNOWN_OPTIONS = [...Object.keys(DEFAULTS), 'channels', 'listenUrl', 'onError', 'runnerId', 'onStart'];

const DAY_MS = 86_400_000;

/**
 * Fills in the defaults and checks everything.
 *
 * @throws {InvalidOptionsError} naming the option, the value got and the range
 */
export function resolveOptions(given: QueueOptions = {}): ResolvedQueueOptions {
  for (const option of Object.keys(given)) {
    if (KNOWN_OPTIONS.includes(option)) continue;
    throw new InvalidOptionsError(
      option,
      given[option as keyof QueueOptions],
      `There is no such option. Known: ${KNOWN_OPTIONS.join(', ')}.`,
    );
  }
  const defined = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as QueueOptions;
  const options = { ...DEFAULTS, ...defined };
  return {
    schema: checkSchema(options.schema),
    runner: checkBoolean(options.runner, 'runner'),
    runnerId: options.runnerId === undefined ? null : checkName(options.runnerId, 'runnerId'),
    releaseOwn: options.onStart === undefined ? false : checkOnStart(options.onStart, options.runnerId),
    channels: options.channels === undefined ? null : checkChannels(options.channels),
    concurrency: resolveConcurrency(options.concurrency),
    prefetchMs: checkInteger(options.prefetchMs, 'prefetchMs', 0, 1_000),
    pollMs: checkInteger(options.pollMs, 'pollMs', 100, 60_000),
    leaseMs: checkInteger(options.leaseMs, 'leaseMs', 1_000, 600_000),
    blockedLimitMs: checkInteger(options.blockedLimitMs, 'blockedLimitMs', 100, DAY_MS),
    abortGraceMs: checkInteger(options.abortGraceMs, 'abortGraceMs', 0, DAY_MS),
    stuckAfterMs: durationMs(options.stuckAfter, 'stuckAfter', 1),
    shutdownGraceMs: resolveShutdown(options.shutdown),
    maxPayloadBytes: checkInteger(options.maxPayloadBytes, 'maxPayloadBytes', 1, 67_108_864),
    idempotencyWaitMs: checkInteger(options.idempotencyWaitMs, 'idempotencyWaitMs', 1, 600_000),
    openNames: checkBoolean(options.openNames, 'openNames'),
    defaults: checkDefaults(options.defaults),
    listenUrl: options.listenUrl === undefined ? null : checkUrl(options.listenUrl),
    namedStatements: checkBoolean(options.preparedStatements, 'preparedStatements'),
    finishedRetentionMs: durationMs(options.finishedRetention, 'finishedRetention'),
    pruneEveryMs: durationMs(options.pruneEvery, 'pruneEvery', 100, DAY_MS),
    onError: options.onError === undefined ? null : checkHook(options.onError),
  };
}

/** An object with some of these fields, and no others. */
function checkFields<T extends object>(value: unknown, option: string, fields: readonly (keyof T & string)[]): T {
  const known = fields.map((field) => `"${field}"`).join(' and ');
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new InvalidOptionsError(option, value, `Give an object with ${known}.`);
  }
  for (const [field, given] of Object.entries(value)) {
    if (fields.includes(field as keyof T & string)) continue;
    throw new InvalidOptionsError(`${option}.${field}`, given, `There is no such option. Known: ${known}.`);
  }
  return value as T;
}

function resolveShutdown(given: unknown): number {
  const { graceMs = DEFAULTS.shutdown.graceMs } = checkFields<{ graceMs?: number }>(given, 'shutdown', ['graceMs']);
  return checkInteger(graceMs, 'shutdown.graceMs', 0, DAY_MS);
}

function checkDefaults(defaults: unknown): HandlerPreset {
  if (typeof defaults === 'function') return defaults as HandlerPreset;
  if (typeof defaults === 'object' && defaults !== null && !Array.isArray(defaults)) return defaults;
  throw new InvalidOptionsError(
    'defaults',
    defaults,
    'Give an object of handler options, or a function that answers one.',
  );
}

function resolveConcurrency(given: unknown): ResolvedQueueOptions['concurrency'] {
  const { min, max } =
    typeof given === 'number'
      ? { min: given, max: given }
      : checkFields<{ min?: number; max?: number }>(given, 'concurrency', ['min', 'max']);
  const most = checkInteger(max ?? Math.max(min ?? 0, DEFAULTS.concurrency.max), 'concurrency.max', 1, 10_000);
  const least = checkInteger(min ?? Math.min(DEFAULTS.concurrency.min, most), 'concurrency.min', 1, 10_000);
  if (least > most)
    throw new InvalidOptionsError('concurrency.min', least, `Give at most \`concurrency.max\`, ${most}.`);
  return { min: least, max: most };
}

function checkSchema(schema: unknown): string {
  if (typeof schema === 'string' && /^[a-z_][a-z0-9_]{0,39}$/.test(schema)) return schema;
  throw new InvalidOptionsError(
    'schema',
    schema,
    'Give a lower-case identifier of at most 40 letters, digits and underscores.',
  );
}

function checkChannels(channels: unknown): readonly string[] {
  if (!Array.isArray(channels)) throw new InvalidOptionsError('channels', channels, 'Give an array of channel names.');
  return channels.map((channel) => checkName(channel, 'channels'));
}

function checkOnStart(given: unknown, runnerId: string | undefined): true {
  if (given !== 'release-own') throw new InvalidOptionsError('onStart', given, 'Give "release-own", or leave it out.');
  if (runnerId !== undefined) return true;
  throw new InvalidOptionsError('onStart', given, 'Give a `runnerId` too: by that a process knows what was its own.');
}

function checkHook(hook: unknown): ErrorHook {
  if (typeof hook === 'function') return hook as ErrorHook;
  throw new InvalidOptionsError('onError', hook, 'Give a function.');
}

function checkUrl(url: unknown): string {
  if (typeof url === 'string' && /^postgres(ql)?:\/\//.test(url)) return url;
  throw new InvalidOptionsError('listenUrl', '(hidden)', 'Give a connection string that begins with postgres://.');
}
