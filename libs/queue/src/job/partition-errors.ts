import { QueueError } from './errors.js';

/** A spawn names a partition that its channel does not have. Nothing was written. */
export class PartitionOutOfRangeError extends QueueError {
  readonly code = 'partition_out_of_range';

  constructor(
    readonly channel: string,
    readonly partition: number,
    readonly partitions: number,
  ) {
    super(
      `Channel "${channel}" has ${partitions} partitions, 0 to ${partitions - 1}; there is no partition ${partition}. Give one of these, or a \`partitionKey\`.`,
    );
  }
}

/**
 * A handler wants another number of partitions than its channel has. Thrown at boot: under another number keys would move
 * to other partitions, past their jobs that still wait.
 */
export class PartitionCountMismatchError extends QueueError {
  readonly code = 'partition_count_mismatch';

  /**
   * @param expected what the handler says
   * @param found    what the channel was first used with, or what another handler of this application says
   */
  constructor(
    readonly channel: string,
    readonly expected: number,
    readonly found: number,
  ) {
    super(
      `Channel "${channel}" has ${found} partitions, its handler wants ${expected}. Say \`partitions: ${found}\`, take another channel, or drain this one and forget its number as docs/ordering.md tells.`,
    );
  }
}
