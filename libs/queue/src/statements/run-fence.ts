import type { JobId } from '../job/job.js';
import { lookUp } from './look-up.js';
import { listOf } from './statement.js';

/** What identifies a run: the fence of every write about it. */
export interface RunFence {
  readonly id: JobId;
  readonly run: number;
  readonly lease: number;
}

export interface Fenced<Entry> {
  readonly runner: string;
  readonly entries: readonly (RunFence & Entry)[];
}

export const fenceColumns = (entries: readonly RunFence[]): unknown[] => [
  listOf(entries.map((entry) => entry.id)),
  listOf(entries.map((entry) => entry.run)),
  listOf(entries.map((entry) => entry.lease)),
];

/**
 * The fence: the job has the run's stamp and the lease is there. Both are needed. The lease alone would let a statement
 * that waited for a rescuer delete what another runner has by now, since a waiting statement reads only the row it
 * waited for again; that row's stamp has changed then.
 *
 * The leases are read by their numbers and apart: joined, a plan made while the table was small walks every dead lease
 * of the runner.
 */
export const heldLeases = (schema: string): string => `held_lease AS MATERIALIZED (
    SELECT number FROM ${schema}.lease WHERE runner_id = $1 AND number = ANY ($4::integer[])
  )`;

/** Of a job among those of `done`, where `held_lease` is known. */
export const fence = `${lookUp('job.id', 'done.id')}
      AND job.run = done.run
      AND EXISTS (SELECT FROM held_lease WHERE held_lease.number = done.lease)`;
