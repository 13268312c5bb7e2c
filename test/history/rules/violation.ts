import type { History } from '../history.js';

/** A promise that was not kept. */
export interface Violation {
  /** Name of the promise. */
  readonly rule: string;
  readonly what: string;
  /** The jobs that it is about. */
  readonly ids: readonly string[];
}

export interface Promises {
  /**
   * Lane runs of one job (`prefetchMs: 0`): the end of a job is durable before the next one starts. Else the next one of
   * a run may start as soon as the handler of the one before has returned.
   */
  readonly strict: boolean;
  /** Jobs come in batches: the next one of a batch may start, too, when the one before died of its run and is passed by. */
  readonly batches?: boolean;
  /** Nothing is under way any more: every job has to have ended. */
  readonly complete: boolean;
}

export type Rule = (history: History, promises: Promises) => Iterable<Violation>;
