import { InvalidOptionsError } from './errors.js';

/** Milliseconds, or a number with a unit: `'250ms'`, `'30s'`, `'5m'`, `'2h'`, `'7d'`. Fractions are allowed: `'1.5h'`. */
export type Duration = number | `${number}${'ms' | 's' | 'm' | 'h' | 'd'}`;

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Ten years: further ahead a due time is a mistake, and microseconds stay exact in a JavaScript number. */
export const MAX_DURATION_MS = 10 * 365 * 86_400_000;

/**
 * Milliseconds of a duration, rounded to a whole number.
 *
 * @param option name of the option, for the message
 * @throws {InvalidOptionsError} unless it is a finite duration from `minMs` to `maxMs`
 */
export function durationMs(value: unknown, option: string, minMs = 0, maxMs = MAX_DURATION_MS): number {
  const ms = Math.round(parse(value));
  if (ms >= minMs && ms <= maxMs) return ms;
  throw new InvalidOptionsError(
    option,
    value,
    `Give milliseconds or a duration such as "30s" (units ms, s, m, h, d), from ${minMs} ms to ${maxMs} ms.`,
  );
}

function parse(value: unknown): number {
  if (typeof value === 'number') return value;
  const match = typeof value === 'string' ? /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(value) : null;
  return match ? Number(match[1]) * (UNIT_MS[match[2]!] ?? Number.NaN) : Number.NaN;
}
