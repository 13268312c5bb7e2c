import { InvalidOptionsError } from './errors.js';

/** @throws {InvalidOptionsError} unless it is an object with none but these fields */
export function checkKnown<T extends object>(value: T, option: string, fields: readonly (keyof T & string)[]): void {
  const known = fields.map((field) => `"${field}"`).join(', ');
  const given: unknown = value;
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new InvalidOptionsError(option, given, `Give an object with ${known}.`);
  }
  const unknown = Object.keys(given).find((field) => !fields.includes(field as keyof T & string));
  if (unknown === undefined) return;
  const cure = `There is no such option. Known: ${known}.`;
  throw new InvalidOptionsError(`${option}.${unknown}`, value[unknown as keyof T], cure);
}
