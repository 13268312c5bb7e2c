export interface TimeLimit {
  readonly timeoutMs: number;
  /** How long the work may go on after that. */
  readonly graceMs: number;
  /** What is thrown when that is over, too. */
  readonly expired: Error;
  /** The time is over. */
  readonly abort: () => void;
  /** The work does not obey. */
  readonly givenUp: () => void;
}

/** Tells some work to stop when its time is over, and gives up waiting for it when the grace is over too. */
export async function runWithin<T>(limit: TimeLimit, work: () => Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const tooLong = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      limit.abort();
      timer = setTimeout(() => {
        limit.givenUp();
        reject(limit.expired);
      }, limit.graceMs);
    }, limit.timeoutMs);
  });
  try {
    return await Promise.race([work(), tooLong]);
  } finally {
    clearTimeout(timer);
  }
}
