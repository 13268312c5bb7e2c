export interface NapParts {
  /** Nothing runs here or is about to: there is nothing this process would have to be told. */
  readonly idle: () => boolean;
  readonly listen: (listening: boolean) => void;
}

/** Shorter ones are not worth while. */
const LEAST_MS = 100;

/** So long it takes at most to see that there is less to do. */
const MOST_MS = 1_000;

/** Listening begins so much before the turn, in case the clocks of the fleet are apart or the server is slow. */
const LEAD_MS = 40;

/**
 * A runner of a busy fleet that has nothing to do until its turn does not listen until then. A notification is read by
 * every listening connection of the database, and costs the server and the process about a tenth of a millisecond each: with eight
 * processes and 150 a second that was a quarter of a core.
 */
export class Nap {
  private timer: NodeJS.Timeout | undefined;

  constructor(private readonly parts: NapParts) {}

  /** @param turnInMs when this runner is the first again */
  begin(turnInMs: number): void {
    const napMs = Math.min(turnInMs - LEAD_MS, MOST_MS);
    if (this.timer !== undefined || !(napMs >= LEAST_MS) || !this.parts.idle()) return;
    this.parts.listen(false);
    this.timer = setTimeout(() => void this.end(), napMs);
  }

  /** Listens again; says whether it did not. */
  end(): boolean {
    if (this.timer === undefined) return false;
    this.stop();
    this.parts.listen(true);
    return true;
  }

  stop(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
  }
}
