/** Jobs sent and not yet begun. Senders wait while there are too many, as a caller under back-pressure does. */
export class BacklogLimit {
  private jobs = 0;
  private readonly waiting: (() => void)[] = [];

  constructor(private readonly limit: number) {}

  async enter(count: number): Promise<void> {
    while (this.jobs > 0 && this.jobs + count > this.limit)
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    this.jobs += count;
  }

  leave(count: number): void {
    this.jobs -= count;
    for (const lookAgain of this.waiting.splice(0)) lookAgain();
  }
}
