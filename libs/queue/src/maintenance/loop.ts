import type { Logger } from '@nestjs/common';
import { messageOf } from '../job/errors.js';
import { RetryDelay } from '../job/retry-delay.js';
import type { LoopBoard } from './loop-board.js';

export interface LoopSettings {
  readonly name: string;
  readonly everyMs: number;
  /** Share of the interval by which a turn comes earlier or later at random, so that processes do not march in step. */
  readonly jitter: number;
  /** May answer after how many milliseconds the next turn is wanted, if that is sooner than usual. */
  readonly turn: () => Promise<number | void>;
}

/** A turn takes at most this share of the time: a slow one makes the next come later. */
const MAX_LOAD = 0.1;

/** Does something again and again. A failed turn is logged, and comes again later and later, up to a minute. */
export class Loop {
  private timer: NodeJS.Timeout | undefined;
  private turning: Promise<number | void> | null = null;
  private running = false;
  private again = false;
  private readonly delay = new RetryDelay({ minMs: 500, maxMs: 60_000 });

  constructor(
    private readonly settings: LoopSettings,
    private readonly logger: Logger,
    private readonly board: LoopBoard | null,
  ) {}

  start(): void {
    this.running = true;
    this.schedule(this.nextMs());
  }

  /** Takes a turn at once; during one, another right behind it. */
  hurry(): void {
    if (!this.running) return;
    if (this.turning !== null) this.again = true;
    else void this.turn();
  }

  async stop(): Promise<void> {
    this.running = false;
    this.unschedule();
    // A failed turn has been told of already.
    await this.turning?.catch(() => undefined);
  }

  private nextMs(): number {
    const { everyMs, jitter } = this.settings;
    return everyMs * (1 + jitter * (Math.random() * 2 - 1));
  }

  private async turn(): Promise<void> {
    this.unschedule();
    const began = performance.now();
    let waitMs = this.nextMs();
    this.turning = this.settings.turn();
    try {
      const wantedMs = (await this.turning) ?? waitMs;
      this.delay.reset();
      waitMs = Math.max(Math.min(waitMs, wantedMs), (performance.now() - began) / MAX_LOAD);
    } catch (error) {
      waitMs = Math.max(waitMs, this.delay.nextMs());
      this.logger.warn(`${this.settings.name} failed, will try again: ${messageOf(error)}`);
    }
    this.turning = null;
    if (!this.running) return;
    if (this.again) {
      this.again = false;
      this.schedule(0);
    } else this.schedule(waitMs);
  }

  private schedule(inMs: number): void {
    this.unschedule();
    this.timer = setTimeout(() => void this.turn(), inMs);
    this.board?.show(this.settings.name, inMs);
  }

  private unschedule(): void {
    if (this.timer === undefined) return;
    clearTimeout(this.timer);
    this.board?.hide(this.settings.name);
    this.timer = undefined;
  }
}
