import type { RegisteredHandler } from '../job/handler.js';
import { PartitionCountMismatchError } from '../job/partition-errors.js';
import { findPartitions, recordPartitions, type PartitionedChannel } from '../statements/partitions.js';
import { run, type SqlClient } from '../statements/statement.js';

/**
 * The channels that handlers divide, and into how many partitions.
 *
 * @throws {PartitionCountMismatchError} when two handlers of one channel do not agree
 */
export function partitionedChannels(handlers: readonly RegisteredHandler[]): PartitionedChannel[] {
  const found = new Map<string, number>();
  for (const { channel, partitions } of handlers) {
    if (partitions === null) continue;
    const other = found.get(channel) ?? partitions;
    if (other !== partitions) throw new PartitionCountMismatchError(channel, partitions, other);
    found.set(channel, partitions);
  }
  return [...found].map(([channel, partitions]) => ({ channel, partitions }));
}

/**
 * Records the partitions of channels that have none yet, and compares the others'.
 *
 * @throws {PartitionCountMismatchError} naming both numbers
 */
export async function agreeOnPartitions(client: SqlClient, handlers: readonly RegisteredHandler[]): Promise<void> {
  const channels = partitionedChannels(handlers);
  if (channels.length === 0) return;
  await run(client, recordPartitions, { channels });
  const recorded = await run(client, findPartitions, { channels: channels.map(({ channel }) => channel) });
  const counts = new Map(recorded.map(({ channel, partitions }) => [channel, partitions]));
  for (const { channel, partitions } of channels) {
    const found = counts.get(channel) ?? partitions;
    if (found !== partitions) throw new PartitionCountMismatchError(channel, partitions, found);
  }
}
