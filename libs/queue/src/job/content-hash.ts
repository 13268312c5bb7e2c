import { hash } from 'node:crypto';

/** Characters of base64: 66 bits. */
export const HASH_LENGTH = 11;

/**
 * What a job is about, in a few characters: two jobs are the same when name, payload and bytes are, as they are stored.
 * Metadata (a trace id, say) makes no difference. `contentHashOf` tells the same of a job's row, in SQL.
 *
 * @param payload JSON text
 */
export function contentHash(name: string, payload: string | null, bytes: Buffer | null): string {
  const text = `${name}\0${payload ?? ''}`;
  const content = bytes === null ? text : Buffer.concat([Buffer.from(`${text}\0`), bytes]);
  return hash('sha256', content, 'base64url').slice(0, HASH_LENGTH);
}
