import { forgetRunners } from '../statements/runners.js';
import { JOBS_PER_PRUNE, pruneJobs, pruneLanes } from '../statements/prune-jobs.js';
import { run } from '../statements/statement.js';
import type { Transact } from './rescuer.js';

/** Lanes are kept for months, and looking for old ones reads them all: every so many turns. */
const TURNS_PER_LANE_PRUNE = 60;

/** Deletes finished jobs whose retention is over, chunk by chunk, the rows of dead runners, and lanes long idle. */
export class Pruner {
  private turns = 0;

  constructor(private readonly transact: Transact) {}

  /** @returns how many jobs were deleted */
  async turn(): Promise<number> {
    let pruned = 0;
    for (let chunk = JOBS_PER_PRUNE; chunk === JOBS_PER_PRUNE; pruned += chunk) {
      [chunk = 0] = await this.transact((client) => run(client, pruneJobs, {}));
    }
    await this.transact((client) => run(client, forgetRunners, { runner: null }));
    if (this.turns++ % TURNS_PER_LANE_PRUNE === 0) await this.pruneLanes();
    return pruned;
  }

  private async pruneLanes(): Promise<void> {
    for (let chunk = JOBS_PER_PRUNE; chunk === JOBS_PER_PRUNE;) {
      [chunk = 0] = await this.transact((client) => run(client, pruneLanes, {}));
    }
  }
}
