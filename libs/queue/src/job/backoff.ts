import { durationMs, type Duration } from './duration.js';
import { InvalidOptionsError } from './errors.js';

/** How the wait grows from one failed run to the next. */
export type BackoffType = 'exponential' | 'fixed' | 'full-jitter' | 'decorrelated';

export const BACKOFF_TYPES: readonly BackoffType[] = ['exponential', 'fixed', 'full-jitter', 'decorrelated'];

/** How long to wait before the next run. Every field has a default; a bare duration is the `base`. */
export interface BackoffOptions {
  /**
   * `exponential` (default): base × factor^(attempt − 1), plus up to `jitter` of it.
   * `fixed`: always base, plus jitter.
   * `full-jitter`: anything from 0 to the exponential value.
   * `decorrelated`: anything from base to three times the previous wait. Both after "Exponential Backoff And Jitter".
   */
  type?: BackoffType;
  /** Wait after the first failed run. Default 1 s. */
  base?: Duration;
  /** What each further failure multiplies it by, 1 to 100. Default 2. */
  factor?: number;
  /** Upper limit of the wait, jitter included. Default 15 minutes. */
  max?: Duration;
  /** Share of the wait that is added at random, 0 to 1, upwards only. Default 0.1. */
  jitter?: number;
}

/** Own rule: the failed attempt (1, 2, …) and what was thrown → milliseconds to wait. */
export type BackoffFunction = (attempt: number, error: unknown) => number;

/** A backoff with every number resolved, as it is stored with a handler's policy. */
export interface Backoff {
  readonly type: BackoffType;
  readonly baseMs: number;
  readonly factor: number;
  readonly maxMs: number;
  readonly jitter: number;
}

export const DEFAULT_BACKOFF: Backoff = { type: 'exponential', baseMs: 1_000, factor: 2, maxMs: 900_000, jitter: 0.1 };

/**
 * Fills the gaps of a backoff from `fallback` and checks it.
 *
 * @throws {InvalidOptionsError} naming the field
 */
export function resolveBackoff(given: BackoffOptions | Duration, option: string, fallback = DEFAULT_BACKOFF): Backoff {
  if (typeof given === 'number' || typeof given === 'string') return resolveBackoff({ base: given }, option, fallback);
  if (typeof given !== 'object' || given === null) {
    throw new InvalidOptionsError(option, given, 'Give a duration, { type, base, factor, max, jitter } or a function.');
  }
  const { type = fallback.type, factor = fallback.factor, jitter = fallback.jitter } = given;
  if (!BACKOFF_TYPES.includes(type)) {
    throw new InvalidOptionsError(`${option}.type`, type, `Give one of ${BACKOFF_TYPES.join(', ')}.`);
  }
  const baseMs = given.base === undefined ? fallback.baseMs : durationMs(given.base, `${option}.base`);
  const maxMs = given.max === undefined ? Math.max(fallback.maxMs, baseMs) : durationMs(given.max, `${option}.max`);
  if (maxMs < baseMs)
    throw new InvalidOptionsError(`${option}.max`, given.max, `Give at least the base, ${baseMs} ms.`);
  return {
    type,
    baseMs,
    factor: within(factor, 1, 100, `${option}.factor`),
    maxMs,
    jitter: within(jitter, 0, 1, `${option}.jitter`),
  };
}

/**
 * Milliseconds until the next run, after the `attempt`-th run failed.
 *
 * @param attempt the run that failed, from 1
 * @param random  from 0 to 1, for tests
 */
export function backoffMs(backoff: Backoff, attempt: number, random: () => number = Math.random): number {
  const { type, baseMs, maxMs, jitter } = backoff;
  if (type === 'decorrelated') return Math.round(decorrelatedMs(backoff, attempt, random));
  const full = type === 'fixed' ? baseMs : exponentialMs(backoff, attempt);
  const wait = type === 'full-jitter' ? full * random() : full * (1 + jitter * random());
  return Math.round(Math.min(wait, maxMs));
}

/** Grows in floating point, which ends in Infinity and not in an overflow, whatever the attempt. */
function exponentialMs({ baseMs, factor, maxMs }: Backoff, attempt: number): number {
  // 0 × Infinity would be NaN.
  return baseMs === 0 ? 0 : Math.min(baseMs * factor ** (attempt - 1), maxMs);
}

/** The previous wait is not stored: it is drawn again along the chain, which gives the same distribution. */
function decorrelatedMs({ baseMs, maxMs }: Backoff, attempt: number, random: () => number): number {
  let wait = baseMs;
  for (let step = 0; step < Math.min(attempt, 64); step++) {
    wait = Math.min(maxMs, baseMs + random() * (wait * 3 - baseMs));
  }
  return wait;
}

function within(value: unknown, min: number, max: number, option: string): number {
  if (typeof value === 'number' && value >= min && value <= max) return value;
  throw new InvalidOptionsError(option, value, `Give a number from ${min} to ${max}.`);
}
