import { Injectable } from '@nestjs/common';
import { JobHandler, type HandlerOptions, type Job } from 'nestmq';

/** What a test lets the handler do. */
export type Behaviour = (job: Job) => unknown;

export interface Work {
  /** Every run so far, in the order of their starts. */
  readonly runs: Job[];
  behaviour: Behaviour;
}

/**
 * A provider with one handler named `work` in channel `work`, which records its runs and does what the test says.
 * A class for each call, so that every test has options of its own.
 */
export function workWith(options: HandlerOptions = {}, behaviour: Behaviour = () => undefined): new () => Work {
  @Injectable()
  class Worker implements Work {
    readonly runs: Job[] = [];
    behaviour = behaviour;

    @JobHandler('work', { name: 'work', ...options })
    run(job: Job): unknown {
      this.runs.push(job);
      return this.behaviour(job);
    }
  }
  return Worker;
}

/** A promise that the test resolves, for a handler to wait on. */
export function gate(): { readonly opened: Promise<void>; readonly open: () => void } {
  let open!: () => void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

/** What a handler does that ends only when its signal aborts. */
export function untilAborted(job: Job): Promise<never> {
  return new Promise((_, reject) => {
    const abort = (): void => reject(job.signal.reason as Error);
    if (job.signal.aborted) abort();
    else job.signal.addEventListener('abort', abort);
  });
}

/** Work that takes its time, so that several runs are under way at once. */
export function takeTime(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** What a handler does that computes and never yields; without computing, since other tests need the processor. */
export function blockEventLoop(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
