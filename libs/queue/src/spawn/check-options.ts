import type { EntityManager } from 'typeorm';
import { InvalidOptionsError } from '../job/errors.js';
import type { SpawnOptions, TransactionOption } from './spawn-options.js';

/** @throws {InvalidOptionsError} unless it is an object, or nothing */
export function checkOptions<Options extends object = SpawnOptions>(options: Options | undefined): Options {
  if (options === undefined) return {} as Options;
  if (typeof options === 'object' && options !== null && !Array.isArray(options)) return options;
  throw new InvalidOptionsError('options', options, 'Give an object such as { manager, key, delay }.');
}

/**
 * The manager of a call that has no other option. A manager given in the place of the options is refused: the call
 * would not join its transaction.
 *
 * @param cure what to do about another option
 * @throws {InvalidOptionsError}
 */
export function managerOf(
  options: TransactionOption | undefined,
  cure = 'There is no such option. Known: manager.',
): EntityManager | undefined {
  const { manager, ...others } = checkOptions(options);
  const [[option, value] = []] = Object.entries(others);
  if (option === undefined) return manager;
  throw new InvalidOptionsError(option, value, cure);
}
