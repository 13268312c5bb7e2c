import { createHash } from 'node:crypto';
import { PartitionOutOfRangeError } from './partition-errors.js';

export const MAX_PARTITIONS = 1_024;

/** The key of a partition's lane. */
export const partitionLane = (partition: number): string => `partition ${partition}`;

/**
 * The partition of a key: the first 8 bytes of the SHA-256 of its UTF-8, as an unsigned big-endian number, modulo the
 * number of partitions. Documented, so that any program can compute it; never to be changed.
 */
export function partitionOf(partitionKey: string, partitions: number): number {
  const hash = createHash('sha256').update(partitionKey).digest().readBigUInt64BE(0);
  return Number(hash % BigInt(partitions));
}

/** @throws {PartitionOutOfRangeError} unless the channel has it */
export function checkPartition(channel: string, partition: number, partitions: number): number {
  if (partition >= 0 && partition < partitions) return partition;
  throw new PartitionOutOfRangeError(channel, partition, partitions);
}
