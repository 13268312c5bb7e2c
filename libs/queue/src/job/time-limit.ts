/**
 * The answer of some work, or an error when it takes too long. The work itself goes on: nobody waits for it any more.
 *
 * @throws whatever the work throws, or an Error that names the limit
 */
export async function withinMs<T>(limitMs: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${limitMs} ms`)), limitMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What a timer can count, in whole days. */
export const MAX_TIMER_MS = 24 * 86_400_000;

/** Waits for some work, at most so long, and says whether it has ended. `null`: as long as it takes. */
export async function endsWithin(limitMs: number | null, work: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const ended = work.then(() => true);
  if (limitMs === null) return ended;
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), limitMs);
  });
  try {
    return await Promise.race([ended, late]);
  } finally {
    clearTimeout(timer);
  }
}
