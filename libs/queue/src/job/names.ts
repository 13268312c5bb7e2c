import { InvalidOptionsError } from './errors.js';

export const MAX_NAME_BYTES = 255;
export const MAX_KEY_BYTES = 1_024;

/**
 * Checks a text that is stored and compared byte by byte: well-formed Unicode without NUL, of bounded size.
 *
 * @throws {InvalidOptionsError} naming the option
 */
export function checkText(value: unknown, option: string, limits: { minBytes: number; maxBytes: number }): string {
  const { minBytes, maxBytes } = limits;
  if (typeof value !== 'string' || !value.isWellFormed() || value.includes('\0')) {
    throw new InvalidOptionsError(option, value, 'Give a string of well-formed Unicode without NUL.');
  }
  const bytes = Buffer.byteLength(value);
  if (bytes < minBytes || bytes > maxBytes) {
    throw new InvalidOptionsError(option, value, `Give ${minBytes} to ${maxBytes} bytes of UTF-8, this has ${bytes}.`);
  }
  return value;
}

export const checkName = (value: unknown, option: string): string =>
  checkText(value, option, { minBytes: 1, maxBytes: MAX_NAME_BYTES });

export const checkKey = (value: unknown, option: string): string =>
  checkText(value, option, { minBytes: 0, maxBytes: MAX_KEY_BYTES });

/** @throws {InvalidOptionsError} unless it is what `spawn` answers: a string of digits */
export function checkJobId(value: unknown, option: string): string {
  if (typeof value === 'string' && /^\d{1,18}$/.test(value)) return String(BigInt(value));
  throw new InvalidOptionsError(option, value, 'Give the id that spawn has answered, a string of digits.');
}

/** @throws {InvalidOptionsError} unless it is a whole number from min to max */
export function checkInteger(value: unknown, option: string, min: number, max: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value;
  throw new InvalidOptionsError(option, value, `Give a whole number from ${min} to ${max}.`);
}

/** @throws {InvalidOptionsError} unless it is true or false */
export function checkBoolean(value: unknown, option: string): boolean {
  if (typeof value === 'boolean') return value;
  throw new InvalidOptionsError(option, value, 'Give true or false.');
}

export const checkPriority = (value: unknown, option: string): number => checkInteger(value, option, -32_768, 32_767);

/** Retries as they are stored: `null` for `Infinity`. */
export function checkRetries(value: unknown, option: string): number | null {
  if (value === Infinity) return null;
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 1_000_000) return value;
  throw new InvalidOptionsError(option, value, 'Give a whole number from 0 to 1000000, or Infinity.');
}
