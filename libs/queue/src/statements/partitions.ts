import { partitionLane } from '../job/partition.js';
import type { JobId } from '../job/job.js';
import { lastSeqOf } from './lanes.js';
import { defineStatement } from './statement.js';

export interface PartitionedChannel {
  readonly channel: string;
  readonly partitions: number;
}

/** Records how many partitions channels have, where nobody has before. The order keeps two boots from a deadlock. */
export const recordPartitions = defineStatement<{ channels: readonly PartitionedChannel[] }, string>({
  name: 'record_partitions_v1',
  text: (schema) => `
  INSERT INTO ${schema}.partitioned_channel (channel, partitions)
  SELECT given.channel, given.partitions
  FROM unnest($1::text[], $2::integer[]) AS given (channel, partitions)
  ORDER BY given.channel
  ON CONFLICT (channel) DO NOTHING
  RETURNING channel`,
  values: ({ channels }) => [channels.map(({ channel }) => channel), channels.map(({ partitions }) => partitions)],
  row: ([channel]) => channel as string,
});

/** How many partitions channels have. Sent behind `recordPartitions`, so that it sees what another boot has recorded. */
export const findPartitions = defineStatement<{ channels: readonly string[] }, PartitionedChannel>({
  name: 'find_partitions_v1',
  text: (schema) => `SELECT channel, partitions FROM ${schema}.partitioned_channel WHERE channel = ANY ($1::text[])`,
  values: ({ channels }) => [channels],
  row: ([channel, partitions]) => ({ channel: channel as string, partitions: partitions as number }),
});

/** A partition as it is read. */
export interface PartitionRecord {
  /** Its number, from 0. */
  readonly partition: number;
  /** Key of its lane: what its jobs have as `job.key`. */
  readonly key: string;
  /** Jobs in it that have not ended, counted up to 10 000. */
  readonly jobs: number;
  /** There are more of them. */
  readonly atLeast: boolean;
  /** Runs of its first job that have failed. */
  readonly failures: number;
  /** The last number given to a job of it. */
  readonly lastSeq: number;
  /** The dead job that it waits for, where its handler says `onDead: 'block'`. */
  readonly blockedBy: JobId | null;
}

/** A count beyond it costs more than it tells. */
const MAX_COUNT = 10_000;

/** The partitions of a channel, empty ones too; none when the channel is not partitioned. Indexes `job_lane`, `lane_pkey`. */
export const listPartitions = defineStatement<{ channel: string }, PartitionRecord>({
  name: 'list_partitions_v1',
  text: (schema) => `
  SELECT partition.number, live.jobs, coalesce(head.attempt, 0), coalesce(${lastSeqOf('lane')}, 0), lane.blocked_by
  FROM ${schema}.partitioned_channel
  CROSS JOIN LATERAL (
    SELECT number, 'partition ' || number AS key FROM generate_series(0, partitioned_channel.partitions - 1) AS number
  ) AS partition
  CROSS JOIN LATERAL (
    SELECT count(*) AS jobs
    FROM (
      SELECT
      FROM ${schema}.job
      WHERE channel = $1 AND key = partition.key AND position IS NOT NULL
      LIMIT ${MAX_COUNT + 1}
    ) AS counted
  ) AS live
  LEFT JOIN LATERAL (
    SELECT attempt
    FROM ${schema}.job
    WHERE channel = $1 AND key = partition.key AND position IS NOT NULL
    ORDER BY seq, position
    LIMIT 1
  ) AS head ON true
  LEFT JOIN ${schema}.lane ON lane.channel = $1 AND lane.key = partition.key
  WHERE partitioned_channel.channel = $1
  ORDER BY partition.number`,
  values: ({ channel }) => [channel],
  row: ([number, jobs, failures, lastSeq, blockedBy]) => ({
    partition: number as number,
    key: partitionLane(number as number),
    jobs: Math.min(Number(jobs), MAX_COUNT),
    atLeast: Number(jobs) > MAX_COUNT,
    failures: failures as number,
    lastSeq: Number(lastSeq),
    blockedBy: blockedBy as JobId | null,
  }),
});
