import { forgetRunners } from '../statements/runners.js';
import { JOBS_PER_PRUNE, pruneJobs } from '../statements/prune-jobs.js';
import { run } from '../statements/statement.js';
import type { Transact } from './rescuer.js';

/** Deletes finished jobs whose retention is over, chunk by chunk, and the rows of dead runners. */
export class Pruner {
  constructor(private readonly transact: Transact) {}

  /** @returns how many jobs were deleted */
  async turn(): Promise<number> {
    let pruned = 0;
    for (let chunk = JOBS_PER_PRUNE; chunk === JOBS_PER_PRUNE; pruned += chunk) {
      [chunk = 0] = await this.transact((client) => run(client, pruneJobs, {}));
    }
    await this.transact((client) => run(client, forgetRunners, { runner: null }));
    return pruned;
  }
}
