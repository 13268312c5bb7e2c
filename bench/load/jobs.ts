import type { NewJob, Payload } from '../systems/system.js';

/** What the jobs of a workload are like; job n is always the same. */
export interface Shape {
  /** Names of handlers, taken in turn. */
  readonly names: number;
  /** Keys, taken in turn; none: the jobs have no key. */
  readonly keys: number | null;
  /** Every job of so many has the first key, `1`: none is favoured. */
  readonly hotEvery?: number;
  readonly payloadBytes: number;
  readonly delaySeconds: number;
}

export const PLAIN: Shape = { names: 1, keys: null, payloadBytes: 100, delaySeconds: 0 };

const SUBJECT = 'A letter of about a hundred bytes, as jobs are';

export function jobsFrom(first: number, count: number, shape: Shape): NewJob[] {
  return Array.from({ length: count }, (_, index) => jobOf(first + index, shape));
}

export function jobOf(n: number, shape: Shape): NewJob {
  return {
    payload: payloadOf(n, shape.payloadBytes),
    name: nameOf(Math.max(0, n) % shape.names),
    key: keyOf(n, shape),
    delaySeconds: shape.delaySeconds,
  };
}

export const namesOf = ({ names }: Shape): string[] => Array.from({ length: names }, (_, index) => nameOf(index));

const nameOf = (index: number): string => `send${index}`;

export function keyOf(n: number, { keys, hotEvery }: Shape): string | null {
  if (keys === null) return null;
  if (hotEvery !== undefined && n % hotEvery === 0) return 'hot';
  return `key ${n % keys}`;
}

export function payloadOf(n: number, bytes = PLAIN.payloadBytes): Payload {
  return { n, to: 'somebody@example.org', subject: bytes <= 100 ? SUBJECT : SUBJECT.padEnd(bytes, '.') };
}

export function payloadsFrom(first: number, count: number): Payload[] {
  return Array.from({ length: count }, (_, index) => payloadOf(first + index));
}
