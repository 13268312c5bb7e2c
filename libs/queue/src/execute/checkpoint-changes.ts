import { checkKnown } from '../job/check-known.js';
import { durationMs, type Duration } from '../job/duration.js';
import { checkBytes, checkPayloadSize, encodePayload } from '../job/encode-payload.js';
import { InvalidOptionsError } from '../job/errors.js';
import type { HandlerPolicy, RegisteredHandler, StoredPolicy } from '../job/handler.js';
import type { CheckpointChanges, ProgressReport } from '../job/job.js';
import { checkInteger, checkText } from '../job/names.js';
import { policyIdOf } from '../job/policy-id.js';
import type { Checkpoint, Progress } from '../job/run-port.js';
import { validatePayload } from '../job/validate-payload.js';

/** What is stored with a job that counts towards its size. */
export interface StoredPayload {
  readonly payload: string | null;
  readonly bytes: Buffer | null;
  readonly metadata: string | null;
}

const MAX_KEEP_ALIVE_MS = 365 * 86_400_000;
const MAX_EXTRA_RETRIES = 1_000_000;
const MAX_MESSAGE_BYTES = 1_024;

/** @throws {InvalidOptionsError} unless it is 1 ms to 365 days */
export const keepAliveMs = (duration: Duration, option: string): number =>
  durationMs(duration, option, 1, MAX_KEEP_ALIVE_MS);

interface CheckpointingRun {
  readonly handler: RegisteredHandler;
  readonly policy: HandlerPolicy;
  readonly host: { readonly maxPayloadBytes: number };
}

/**
 * Checks what a handler gives to `job.checkpoint`, and encodes it.
 *
 * @throws {InvalidOptionsError | PayloadInvalidError | PayloadTooLargeError}
 */
export async function checkpointOf(
  changes: CheckpointChanges,
  stored: StoredPayload,
  { handler, policy, host }: CheckpointingRun,
): Promise<Checkpoint> {
  checkFields(changes, 'checkpoint', ['payload', 'bytes', 'extraRetries', 'keepAlive']);
  const { payload, bytes, extraRetries = 0, keepAlive } = changes;
  const retries = checkInteger(extraRetries, 'extraRetries', 0, MAX_EXTRA_RETRIES);
  const endMs = keepAlive === undefined ? null : keepAliveMs(keepAlive, 'keepAlive');
  const binary = bytes === undefined || bytes === null ? bytes : checkBytes(bytes);
  if (payload !== undefined && handler.schema !== null) await validatePayload(handler.schema, handler.name, payload);
  const json = payload === undefined ? undefined : encodePayload(payload, handler.name, 'payload');
  const next = {
    ...stored,
    ...(json !== undefined && { payload: json }),
    ...(binary !== undefined && { bytes: binary }),
  };
  checkPayloadSize(handler.name, next, host.maxPayloadBytes);
  const upgraded = json === undefined ? undefined : upgradedPolicy(handler, policy);
  return { payload: json, bytes: binary, policy: upgraded, extraRetries: retries, keepAliveMs: endMs };
}

/** The job's own policy, but for the version: the handler has made the new payload, and it is not to be upgraded again. */
function upgradedPolicy(
  { name, policy: { payloadVersion } }: RegisteredHandler,
  policy: HandlerPolicy,
): StoredPolicy | undefined {
  if (policy.payloadVersion === payloadVersion) return undefined;
  const upgraded = { ...policy, payloadVersion };
  return { id: policyIdOf(name, upgraded), name, policy: upgraded };
}

/** @throws {InvalidOptionsError} unless it tells something, within the limits */
export function progressOf(report: ProgressReport): Partial<Progress> {
  checkFields(report, 'progress', ['percent', 'message']);
  const { percent, message } = report;
  return {
    ...(percent !== undefined && { percent: checkPercent(percent) }),
    ...(message !== undefined && { message: message === null ? null : checkMessage(message) }),
  };
}

/** An object with at least one of these fields, and no others. */
function checkFields<T extends object>(value: T, option: string, fields: readonly (keyof T & string)[]): void {
  checkKnown(value, option, fields);
  if (fields.some((field) => value[field] !== undefined)) return;
  throw new InvalidOptionsError(
    option,
    value,
    `Give at least one of ${fields.map((field) => `"${field}"`).join(', ')}.`,
  );
}

function checkPercent(percent: unknown): number {
  if (typeof percent === 'number' && percent >= 0 && percent <= 100) return percent;
  throw new InvalidOptionsError('percent', percent, 'Give a number from 0 to 100.');
}

const checkMessage = (message: unknown): string =>
  checkText(message, 'message', { minBytes: 0, maxBytes: MAX_MESSAGE_BYTES });
