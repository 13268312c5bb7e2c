import { setTimeout as sleep } from 'node:timers/promises';

/** The wait of a background loop that has failed: doubled each time, capped, and jittered so that processes spread. */
export class RetryDelay {
  private failures = 0;

  constructor(private readonly limits: { readonly minMs: number; readonly maxMs: number }) {}

  reset(): void {
    this.failures = 0;
  }

  nextMs(): number {
    const { minMs, maxMs } = this.limits;
    const full = Math.min(maxMs, minMs * 2 ** Math.min(this.failures, 30));
    this.failures += 1;
    return full * (0.75 + Math.random() / 4);
  }

  /** Waits, or ends early when the signal aborts. */
  async wait(signal?: AbortSignal): Promise<void> {
    await sleep(this.nextMs(), undefined, signal && { signal }).catch(() => undefined);
  }
}
