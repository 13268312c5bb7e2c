import { resolveBackoff } from '../job/backoff.js';
import { durationMs, MAX_DURATION_MS } from '../job/duration.js';
import { checkBytes, checkPayloadSize, encodePayload } from '../job/encode-payload.js';
import { InvalidOptionsError } from '../job/errors.js';
import type { RegisteredHandler } from '../job/handler.js';
import { checkName, checkPriority, checkRetries } from '../job/names.js';
import type { NewJob } from '../statements/new-job.js';
import { idempotencyOf } from './idempotency.js';
import { placeOf } from './place-of.js';
import { holdMsOf } from './reservation.js';
import type { JobSpawnOptions } from './spawn-options.js';

/** Whom a job is for: a handler of this application, or a bare name where open names are allowed. */
export type Target = { readonly name: string; readonly handler: RegisteredHandler | null };

const KNOWN_OPTIONS = new Set<string>([
  'key',
  'partition',
  'partitionKey',
  'delay',
  'runAt',
  'retries',
  'backoff',
  'priority',
  'channel',
  'bytes',
  'metadata',
  'ordered',
  'hold',
  'idempotencyKey',
  'scope',
  'idempotencyTtl',
  'strict',
] satisfies (keyof JobSpawnOptions)[]);

const OPEN_NAME_RETRIES = 4;

/**
 * Checks everything that can be told before any SQL, but for the handler's schema, and encodes the payload. Waits
 * for nothing.
 *
 * @throws {InvalidOptionsError | PartitionOutOfRangeError | PayloadInvalidError | PayloadTooLargeError}
 */
export function prepareJob(
  { name, handler }: Target,
  payload: unknown,
  options: JobSpawnOptions,
  maxPayloadBytes: number,
): NewJob {
  checkKnown(options);
  const encoded = encodePayload(payload, name, 'payload');
  const metadata =
    options.metadata === undefined ? null : encodePayload(checkMetadata(options.metadata), name, 'metadata');
  const bytes = options.bytes === undefined ? null : checkBytes(options.bytes);
  checkPayloadSize(name, { payload: encoded, metadata, bytes }, maxPayloadBytes);
  const retries =
    options.retries === undefined ? (handler?.policy.retries ?? null) : checkRetries(options.retries, 'retries');
  const openRetries = handler === null && options.retries === undefined ? OPEN_NAME_RETRIES : retries;
  return {
    channel: options.channel === undefined ? channelOf(name, handler) : checkName(options.channel, 'channel'),
    name: checkName(name, 'name'),
    priority: options.priority === undefined ? (handler?.priority ?? 0) : checkPriority(options.priority, 'priority'),
    maxAttempts: openRetries === null ? null : openRetries + 1,
    policyId: handler?.policyId ?? null,
    backoff: options.backoff === undefined ? null : checkBackoff(options.backoff),
    delayMs: options.delay === undefined ? 0 : durationMs(options.delay, 'delay'),
    runAtMs: options.runAt === undefined ? null : checkRunAt(options.runAt),
    holdMs: options.hold === undefined ? null : holdMsOf(options.hold, 'hold'),
    payload: encoded,
    bytes,
    metadata,
    ...placeOf(options, handler),
    idempotency: idempotencyOf(options, { name, payload: encoded, bytes }),
  };
}

function channelOf(name: string, handler: RegisteredHandler | null): string {
  if (handler !== null) return handler.channel;
  throw new InvalidOptionsError(
    'channel',
    undefined,
    `Job "${name}" has no handler here, so its channel must be given.`,
  );
}

function checkKnown(options: JobSpawnOptions): void {
  for (const option of Object.keys(options)) {
    if (KNOWN_OPTIONS.has(option)) continue;
    throw new InvalidOptionsError(
      option,
      options[option as keyof JobSpawnOptions],
      `There is no such option. Known: ${[...KNOWN_OPTIONS].join(', ')}.`,
    );
  }
}

function checkMetadata(metadata: unknown): object {
  if (typeof metadata === 'object' && metadata !== null && !Array.isArray(metadata)) return metadata;
  throw new InvalidOptionsError('metadata', metadata, 'Give an object.');
}

function checkBackoff(backoff: unknown): NewJob['backoff'] {
  if (typeof backoff === 'function') {
    throw new InvalidOptionsError(
      'backoff',
      backoff,
      'A function cannot be stored with a job: give it with @JobHandler.',
    );
  }
  return resolveBackoff(backoff as Parameters<typeof resolveBackoff>[0], 'backoff');
}

function checkRunAt(runAt: unknown): number {
  const ms = runAt instanceof Date ? runAt.getTime() : Number.NaN;
  if (Math.abs(ms - Date.now()) <= MAX_DURATION_MS || ms < Date.now()) return Math.max(0, ms);
  throw new InvalidOptionsError('runAt', runAt, 'Give a valid Date at most ten years ahead.');
}
