import type { SystemEntry } from '../systems/index.js';
import { startPlayer, type PlayerProcess } from './start.js';

/** Processes of each system, used again by one workload after another: to start one takes seconds of the processor. */
export class PlayerPool {
  private readonly idle = new Map<SystemEntry, PlayerProcess[]>();

  async take(entry: SystemEntry): Promise<PlayerProcess> {
    return this.idle.get(entry)?.pop() ?? (await startPlayer(entry));
  }

  /** Closes its player. */
  async giveBack(entry: SystemEntry, process: PlayerProcess): Promise<void> {
    if (!process.isAlive()) return; // it was killed
    await process.player.close();
    process.onBegun = () => undefined;
    this.idle.set(entry, [...(this.idle.get(entry) ?? []), process]);
  }

  async end(): Promise<void> {
    await Promise.all([...this.idle.values()].flat().map((process) => process.end()));
  }
}
