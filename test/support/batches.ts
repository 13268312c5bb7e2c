import { Injectable } from '@nestjs/common';
import { JobHandler, type HandlerOptions, type Job, type JobBatch } from 'nestmq';

/** What a test lets the handler of a batch do. */
export type BatchBehaviour = (batch: JobBatch) => unknown;

export interface BatchWork {
  /** Every batch so far, in the order of their starts. */
  readonly batches: JobBatch[];
  /** The jobs of them. */
  readonly runs: readonly Job[];
  behaviour: BatchBehaviour;
}

/** As `workWith`, for a handler that gets its jobs in batches. */
export function batchWith(
  options: HandlerOptions & { batch: number },
  behaviour: BatchBehaviour = () => undefined,
): new () => BatchWork {
  @Injectable()
  class BatchWorker implements BatchWork {
    readonly batches: JobBatch[] = [];
    behaviour = behaviour;

    get runs(): readonly Job[] {
      return this.batches.flatMap(({ jobs }) => jobs);
    }

    @JobHandler('work', { name: 'work', ...options })
    run(batch: JobBatch): unknown {
      this.batches.push(batch);
      return this.behaviour(batch);
    }
  }
  return BatchWorker;
}

/** The payloads of each batch so far. */
export const batchesOf = ({ batches }: BatchWork): unknown[][] =>
  batches.map(({ jobs }) => jobs.map(({ payload }) => payload));
