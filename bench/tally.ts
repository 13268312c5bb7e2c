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

  /**
   * Resolves in the turn in which the count is reached.
   *
   * @throws {Error} when it is not, and no job has run for `patienceMs`
   */
  async reached(count: number, patienceMs = 30_000): Promise<void> {
    if (this.total >= count) return;
    let before = this.total;
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve, reject) => {
      this.awaited = { count, resolve };
      timer = setInterval(() => {
        if (this.total === before)
          reject(new Error(`${this.total} of ${count} jobs have run, and no other for ${patienceMs} ms.`));
        before = this.total;
      }, patienceMs);
    }).finally(() => clearInterval(timer));
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
