import { hash } from 'node:crypto';

/** Hexadecimal digits of 52 bits, which a JavaScript number holds exactly. */
const DIGITS = 13;

/**
 * What a job is about, as a number: two jobs are the same when name, payload and bytes are. The order in which an
 * object's fields were written makes no difference, metadata (a trace id, say) makes none either.
 *
 * @param payload JSON text
 */
export function contentHash(name: string, payload: string | null, bytes: Buffer | null): number {
  const text = `${name}\0${payload === null ? '' : sortedJson(payload)}`;
  const content = bytes === null ? text : Buffer.concat([Buffer.from(`${text}\0`), bytes]);
  return Number.parseInt(hash('sha256', content, 'hex').slice(0, DIGITS), 16);
}

/** Only objects have an order that means nothing. */
const sortedJson = (json: string): string => (json.includes('{') ? sorted(JSON.parse(json)) : json);

function sorted(value: unknown): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(sorted).join(',')}]`;
  const fields = value as Record<string, unknown>;
  return `{${Object.keys(fields)
    .sort()
    .map((name) => `${JSON.stringify(name)}:${sorted(fields[name])}`)
    .join(',')}}`;
}
