interface Call<Ask, Answer> {
  readonly ask: Ask;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Calls that come while the work for others is under way are answered together by the next one, so that many callers at
 * once need not wait for each other in turn. There is no timer. What the work throws is thrown to all whom it was for.
 */
export class Gatherer<Ask, Answer> {
  private calls: Call<Ask, Answer>[] = [];
  private working = false;

  /** @param work answers each of them, in their order */
  constructor(private readonly work: (asks: readonly Ask[]) => Promise<readonly Answer[]>) {}

  ask(ask: Ask): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.calls.push({ ask, resolve, reject });
      if (!this.working) void this.answerAll();
    });
  }

  private async answerAll(): Promise<void> {
    this.working = true;
    // Calls made in the same turn go together.
    await Promise.resolve();
    while (this.calls.length > 0) await this.answer(this.calls.splice(0));
    this.working = false;
  }

  private async answer(calls: readonly Call<Ask, Answer>[]): Promise<void> {
    try {
      const answers = await this.work(calls.map(({ ask }) => ask));
      calls.forEach(({ resolve }, at) => resolve(answers[at]!));
    } catch (error) {
      for (const { reject } of calls) reject(error);
    }
  }
}
