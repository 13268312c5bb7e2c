/** Watches that the jobs of each key start in the order of their numbers, with a seq each, contiguous. */
export class OrderWatch {
  private readonly last = new Map<string, { n: number; seq: number | null }>();
  private faults = 0;
  private first: string | null = null;

  started(key: string, n: number, seq: number | null): void {
    const before = this.last.get(key);
    const inOrder = before === undefined || n > before.n;
    const contiguous = seq !== null && (before === undefined || seq === before.seq! + 1);
    if (!inOrder || !contiguous) {
      this.faults += 1;
      this.first ??= `${key}: job ${n} (seq ${seq}) behind job ${before?.n} (seq ${before?.seq})`;
    }
    this.last.set(key, { n, seq });
  }

  /** @throws {Error} when a job started out of order, or numbers were left out */
  check(): void {
    if (this.faults > 0) throw new Error(`${this.faults} jobs started out of order. The first one, ${this.first}.`);
  }
}
