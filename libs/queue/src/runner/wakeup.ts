/** What the claim loop waits on: a signal, or the next due time. A signal that comes while nobody waits is kept. */
export class Wakeup {
  private signalled = false;
  private resolve: (() => void) | null = null;

  signal(): void {
    this.signalled = true;
    this.resolve?.();
  }

  /** @param withinMs longest wait, `null`: until a signal */
  async wait(withinMs: number | null): Promise<void> {
    if (!this.signalled) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.resolve = resolve;
        if (withinMs !== null) timer = setTimeout(resolve, Math.min(withinMs, 2_147_483_647));
      });
      clearTimeout(timer);
      this.resolve = null;
    }
    this.signalled = false;
  }
}
