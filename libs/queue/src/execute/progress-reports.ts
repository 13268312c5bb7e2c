import type { Progress } from '../job/run-port.js';

/** One write under way, and the next that has gathered meanwhile. */
interface Gathered {
  readonly written: Promise<void>;
  readonly send: () => void;
}

/**
 * Writes how far a run is. While one report is being written the later ones add up to the next: the last word on each
 * field wins, and a handler that reports at every step costs no more than one that waits.
 */
export class ProgressReports {
  private told: Progress = { percent: null, message: null };
  private writing = false;
  private gathered: Gathered | null = null;

  constructor(private readonly write: (progress: Progress) => Promise<void>) {}

  /** Resolves when this report, or one that includes it, is written. */
  report(news: Partial<Progress>): Promise<void> {
    this.told = { ...this.told, ...news };
    if (!this.writing) return this.send();
    this.gathered ??= gather(() => this.send());
    return this.gathered.written;
  }

  /** Sends what has gathered without waiting for the write under way: the connection keeps their order. */
  flush(): void {
    const { gathered } = this;
    this.gathered = null;
    gathered?.send();
  }

  private async send(): Promise<void> {
    this.writing = true;
    try {
      await this.write(this.told);
    } finally {
      this.writing = false;
      this.flush();
    }
  }
}

function gather(write: () => Promise<void>): Gathered {
  let send!: () => void;
  const written = new Promise<void>((resolve) => (send = resolve)).then(write);
  // Whoever awaits it hears of it; a report that nobody awaits must not end the process.
  written.catch(() => undefined);
  return { written, send };
}
