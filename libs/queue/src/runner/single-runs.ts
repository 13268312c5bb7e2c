import { QueueClosedError } from '../job/errors.js';
import type { RunOneResult } from '../job/run-one.js';
import { endsWithin } from '../job/time-limit.js';
import { parseWakeUp } from '../statements/wake-up.js';
import type { SingleRun } from './single-run.js';

/** The single runs of this process that are under way. */
export class SingleRuns {
  private readonly underWay = new Map<SingleRun, Promise<unknown>>();
  private closed = false;

  /** @param make a run of a job of these channels, `null`: those that the module serves */
  constructor(private readonly make: (channels: readonly string[] | null) => SingleRun) {}

  get running(): number {
    return [...this.underWay.keys()].reduce((sum, { running }) => sum + running, 0);
  }

  async runOne(channels: readonly string[] | null): Promise<RunOneResult | null> {
    if (this.closed) throw new QueueClosedError('A job was to be run');
    const single = this.make(channels);
    const running = single.run();
    this.underWay.set(single, running);
    try {
      return await running;
    } finally {
      this.underWay.delete(single);
    }
  }

  /** Something this process itself has told the runners: those here need not wait for the next heartbeat. */
  tell(messages: readonly string[]): void {
    if (this.underWay.size === 0) return;
    for (const wakeUp of messages.map(parseWakeUp)) {
      if (wakeUp?.kind !== 'cancel') continue;
      const reasons = new Map(wakeUp.ids.map((id) => [id, wakeUp.reason]));
      for (const single of this.underWay.keys()) single.cancel(reasons);
    }
  }

  /** Waits until all have ended; `false` when that takes longer. */
  idle(timeoutMs: number | null): Promise<boolean> {
    return endsWithin(timeoutMs, Promise.allSettled(this.underWay.values()));
  }

  /** Ends them, as a runner ends its runs. */
  async drain(): Promise<void> {
    this.closed = true;
    const all = [...this.underWay];
    await Promise.all(all.map(([single]) => single.drain()));
    await Promise.allSettled(all.map(([, running]) => running));
  }
}
