import { InvalidOptionsError, messageOf, PayloadInvalidError, PayloadTooLargeError } from './errors.js';

/**
 * JSON text, `null` for `undefined`: a job without payload.
 *
 * @throws {PayloadInvalidError} when it is not JSON
 */
export function encodePayload(value: unknown, jobName: string, what: string): string | null {
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (cause) {
    throw new PayloadInvalidError(jobName, [`${what} is not JSON: ${messageOf(cause)}`], { cause });
  }
  if (text === undefined && value !== undefined)
    throw new PayloadInvalidError(jobName, [`${what} is a ${typeof value}, which is not JSON`]);
  return text ?? null;
}

/** @throws {InvalidOptionsError} unless they are bytes */
export function checkBytes(bytes: unknown): Buffer {
  if (bytes instanceof Uint8Array) return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  throw new InvalidOptionsError('bytes', bytes, 'Give a Buffer or a Uint8Array.');
}

/** @throws {PayloadTooLargeError} when what is stored with a job exceeds the limit together */
export function checkPayloadSize(
  jobName: string,
  { payload, metadata, bytes }: { payload: string | null; metadata: string | null; bytes: Buffer | null },
  maxBytes: number,
): void {
  const sizeBytes = byteLength(payload) + byteLength(metadata) + (bytes?.length ?? 0);
  if (sizeBytes > maxBytes) throw new PayloadTooLargeError(jobName, sizeBytes, maxBytes);
}

function byteLength(text: string | null): number {
  return text === null ? 0 : Buffer.byteLength(text);
}
