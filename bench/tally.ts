/** Counts the runs of each job, so that no job is lost or done twice unseen. Jobs are numbered from 0. */
export class Tally {
  private readonly runs: Uint8Array;
  private total = 0;
  private awaited: { readonly count: number; readonly resolve: () => void } | null = null;

  constructor(capacity: number) {
    this.runs = new Uint8Array(capacity);
  }

  get count(): number {
    return this.total;
  }

  add(n: number): void {
    this.runs[n]! += 1;
    this.total += 1;
    if (this.awaited !== null && this.total >= this.awaited.count) this.awaited.resolve();
  }

  /** Resolves in the turn in which the count is reached. */
  async reached(count: number): Promise<void> {
    if (this.total >= count) return;
    await new Promise<void>((resolve) => (this.awaited = { count, resolve }));
    this.awaited = null;
  }

  /** @throws {Error} unless each of the first `count` jobs ran exactly once, and no other ran */
  check(count: number): void {
    let lost = 0;
    let repeated = 0;
    for (const [n, runs] of this.runs.entries()) {
      if (n < count && runs === 0) lost += 1;
      if (runs > 1 || (n >= count && runs > 0)) repeated += 1;
    }
    if (lost > 0 || repeated > 0 || this.total !== count)
      throw new Error(`Of ${count} jobs ${lost} were lost and ${repeated} done twice; ${this.total} runs in all.`);
  }
}
