import { once } from 'node:events';
import { styleText } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { Queue, type QueueEvent } from 'nestmq';
import { Progress, type ImportProgress } from './progress.js';
import { countDone, progressBar } from './progress-bar.js';
import { RateMeter } from './rate-meter.js';
import type { Screen } from './screen.js';
import { summary } from './summary.js';

const REFRESH_MS = 500;

/** Retries shown one by one; the summary counts them all. */
const RETRIES_SHOWN = 3;

/** Shows an import on a screen. */
@Injectable()
export class Reporter {
  constructor(
    private readonly progress: Progress,
    private readonly queue: Queue,
  ) {}

  /** Until the import is finished, a later one has begun, or the signal aborts. @returns whether it is finished */
  async follow(importId: number, screen: Screen, signal: AbortSignal): Promise<boolean> {
    const events = this.queue.events.subscribe(eventPrinter(screen));
    try {
      const finished = await this.drawUntilFinished(importId, screen, signal);
      screen.clear();
      if (finished === null) return false;
      screen.print(summary(finished, await this.progress.countries(), await this.progress.rejections()));
      return true;
    } finally {
      events.unsubscribe();
    }
  }

  private async drawUntilFinished(
    importId: number,
    screen: Screen,
    signal: AbortSignal,
  ): Promise<ImportProgress | null> {
    const meter = new RateMeter();
    const aborted = abortOf(signal); // so that a Ctrl-C need not wait for a database that does not answer
    while (!signal.aborted) {
      const progress = await Promise.race([this.progress.of(importId), aborted]);
      if (progress === null) return null;
      meter.add({ atMs: performance.now(), done: countDone(progress.files).done });
      screen.draw(progressBar(progress, meter.perSecond));
      if (progress.state === 'finished') return progress;
      await sleep(REFRESH_MS, undefined, { signal }).catch(() => {});
    }
    return null;
  }
}

async function abortOf(signal: AbortSignal): Promise<null> {
  if (!signal.aborted) await once(signal, 'abort');
  return null;
}

function eventPrinter(screen: Screen): (event: QueueEvent) => void {
  let retries = 0;
  return (event) => {
    if (event.type === 'dead')
      screen.print(styleText('red', `✗ job ${event.id} ${event.name} is dead: ${text(event.error)}`));
    if (event.type === 'rescued') screen.print(`↺ ${event.waiting} jobs of a process that was killed wait again`);
    if (event.type !== 'retrying' || ++retries > RETRIES_SHOWN) return;
    const last = retries === RETRIES_SHOWN ? ' (further ones are only counted)' : '';
    screen.print(styleText('yellow', `↻ ${event.name} runs again in ${event.delayMs} ms: ${text(event.error)}${last}`));
  };
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
