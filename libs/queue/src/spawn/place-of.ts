import { InvalidOptionsError } from '../job/errors.js';
import type { RegisteredHandler } from '../job/handler.js';
import { checkBoolean, checkInteger, checkKey } from '../job/names.js';
import { checkPartition, partitionLane, partitionOf } from '../job/partition.js';
import type { JobSpawnOptions } from './spawn-options.js';

/** Where a job stands: with `ordered` in the lane of its key. */
export interface Place {
  readonly key: string;
  readonly ordered: boolean;
}

const PARTITIONS_ONLY = 'Only handlers with `partitions` take it. Give a `key` instead.';

/**
 * The key of a job, or of the partition that it is for.
 *
 * @throws {InvalidOptionsError} when an option is out of range, or does not go with the handler
 * @throws {PartitionOutOfRangeError} when there is no such partition
 */
export function placeOf(options: JobSpawnOptions, handler: RegisteredHandler | null): Place {
  const { key, partition, partitionKey, ordered } = options;
  if (handler !== null && handler.partitions !== null) return partitionFor(options, handler, handler.partitions);
  if (partition !== undefined) throw new InvalidOptionsError('partition', partition, PARTITIONS_ONLY);
  if (partitionKey !== undefined) throw new InvalidOptionsError('partitionKey', partitionKey, PARTITIONS_ONLY);
  return {
    key: key === undefined ? '' : checkKey(key, 'key'),
    ordered: ordered === undefined ? (handler?.policy.ordered ?? false) : checkBoolean(ordered, 'ordered'),
  };
}

/** What would lead past the partitions is refused: their order is what they are for. */
function partitionFor(
  { key, partition, partitionKey, ordered, channel }: JobSpawnOptions,
  handler: RegisteredHandler,
  partitions: number,
): Place {
  const { name } = handler;
  const refuse = (option: string, value: unknown, cure: string): never => {
    throw new InvalidOptionsError(option, value, `Job "${name}" is sent to partitions. ${cure}`);
  };
  if (key !== undefined) refuse('key', key, 'Give it as `partitionKey`.');
  if (ordered !== undefined && ordered !== true) refuse('ordered', ordered, 'They are ordered: leave it out.');
  if (channel !== undefined && channel !== handler.channel) {
    refuse('channel', channel, `They are those of channel "${handler.channel}": leave it out.`);
  }
  if (partition === undefined && partitionKey === undefined) {
    refuse('partitionKey', partitionKey, 'Give a `partitionKey`, or a `partition`.');
  }
  if (partition !== undefined && partitionKey !== undefined) {
    refuse('partition', partition, 'Give either a `partitionKey` or a `partition`.');
  }
  const index =
    partition === undefined
      ? partitionOf(checkKey(partitionKey, 'partitionKey'), partitions)
      : checkPartition(handler.channel, checkInteger(partition, 'partition', -MAX_INT, MAX_INT), partitions);
  return { key: partitionLane(index), ordered: true };
}

const MAX_INT = Number.MAX_SAFE_INTEGER;
