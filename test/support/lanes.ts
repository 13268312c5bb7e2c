import { Injectable } from '@nestjs/common';
import { JobHandler, type HandlerOptions, type Job } from 'nestmq';
import type { Behaviour, Work } from './work.js';

export interface LaneWork extends Work {
  /** `a starts` and `a ends` for each run of a job with payload `a`, in the order in which it happened. */
  readonly steps: string[];
}

/** As `workWith`, for jobs that run in the order of their lanes. */
export function laneWith(options: HandlerOptions = {}, behaviour: Behaviour = () => undefined): new () => LaneWork {
  @Injectable()
  class LaneWorker implements LaneWork {
    readonly runs: Job[] = [];
    readonly steps: string[] = [];
    behaviour = behaviour;

    @JobHandler('work', { name: 'work', ordered: true, ...options })
    async run(job: Job): Promise<unknown> {
      this.runs.push(job);
      this.steps.push(`${String(job.payload)} starts`);
      try {
        return await this.behaviour(job);
      } finally {
        this.steps.push(`${String(job.payload)} ends`);
      }
    }
  }
  return LaneWorker;
}

/** Steps of jobs that ran one after another. */
export const oneByOne = (...payloads: unknown[]): string[] =>
  payloads.flatMap((payload) => [`${String(payload)} starts`, `${String(payload)} ends`]);

/** Payloads of the runs so far, of one lane or of all. */
export const payloadsOf = (work: Work, key?: string): unknown[] =>
  work.runs.filter((job) => key === undefined || job.key === key).map(({ payload }) => payload);

/** Numbers of the runs so far, of one lane or of all. */
export const seqsOf = (work: Work, key?: string): (number | null)[] =>
  work.runs.filter((job) => key === undefined || job.key === key).map(({ seq }) => seq);

/** 1, 2, 3, … */
export const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);

/** Lets everything else in this process that is ready go first. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
