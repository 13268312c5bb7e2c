export interface CallTerms {
  readonly callers: number;
  readonly seconds: number;
  readonly maxCalls: number;
}

export interface Called {
  readonly calls: number;
  readonly seconds: number;
  /** Milliseconds of each call. */
  readonly durations: Float64Array;
}

/** Concurrent callers, each of which calls again and again for so long. */
export async function repeatCalls(
  { callers, seconds, maxCalls }: CallTerms,
  call: (n: number, caller: number) => Promise<unknown>,
): Promise<Called> {
  const durations: number[] = [];
  const startedAt = performance.now();
  const until = startedAt + seconds * 1_000;
  let calls = 0;
  const caller = async (index: number): Promise<void> => {
    for (let now = performance.now(); now < until && calls < maxCalls;) {
      await call(calls++, index);
      const endedAt = performance.now();
      durations.push(endedAt - now);
      now = endedAt;
    }
  };
  await Promise.all(Array.from({ length: callers }, (_, index) => caller(index)));
  return { calls, seconds: (performance.now() - startedAt) / 1_000, durations: Float64Array.from(durations) };
}
