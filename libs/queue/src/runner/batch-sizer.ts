/**
 * How many jobs a handler gets at once: as many as it says, fewer after a batch has failed, so that what spoils batches
 * comes to stand alone. Modelled on the degradation of the modkit-db outbox.
 */
export class BatchSizer {
  private current: number;

  /** @param most what the handler says */
  constructor(private readonly most: number) {
    this.current = most;
  }

  get size(): number {
    return this.current;
  }

  /**
   * A batch has failed.
   *
   * @param processed how many of its jobs had ended before; `null`: unknown. The next batches end there
   */
  failed(processed: number | null): void {
    this.current = Math.min(this.most, Math.max(1, processed ?? 1));
  }

  /** A batch has come to its end. */
  succeeded(): void {
    this.current = Math.min(this.most, this.current * 2);
  }
}
