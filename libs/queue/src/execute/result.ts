import { PayloadInvalidError, messageOf } from '../job/errors.js';

/**
 * JSON text of what a handler returned, `null` where it is not kept.
 *
 * @throws {PayloadInvalidError} when it is to be kept and is not JSON
 */
export function encodeResult(jobName: string, result: unknown, retentionMs: number): string | null {
  if (retentionMs === 0 || result === undefined) return null;
  try {
    return JSON.stringify(result) ?? null;
  } catch (cause) {
    throw new PayloadInvalidError(jobName, [`the handler's result is not JSON: ${messageOf(cause)}`], { cause });
  }
}
