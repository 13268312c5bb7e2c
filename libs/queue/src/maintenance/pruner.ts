import { forgetRunners } from '../statements/runners.js';
import { JOBS_PER_PRUNE, pruneJobs, pruneKeys, pruneLanes } from '../statements/prune-jobs.js';
import { PROGRESS_PER_PRUNE, pruneProgress } from '../statements/report-progress.js';
import { run, type Statement } from '../statements/statement.js';
import type { Transact } from './rescuer.js';

/** Chunks of progress that one turn looks at although they had nothing to delete. */
const IDLE_CHUNKS = 10;

/** Lanes are kept for months, and looking for old ones reads them all: every so many turns. */
const TURNS_PER_LANE_PRUNE = 60;

/**
 * Deletes finished jobs whose retention is over, chunk by chunk, idempotency keys whose time is, the progress of jobs that
 * are gone, the rows of dead runners, and lanes long idle.
 */
export class Pruner {
  /** Behind it the next turn looks for progress of jobs that are gone. */
  private progressAfter = '0';
  private turns = 0;

  constructor(private readonly transact: Transact) {}

  /** @returns how many jobs were deleted */
  async turn(): Promise<number> {
    const pruned = await this.untilDone(pruneJobs);
    await this.untilDone(pruneKeys);
    await this.pruneProgress();
    await this.transact((client) => run(client, forgetRunners, { runner: null }));
    if (this.turns++ % TURNS_PER_LANE_PRUNE === 0) await this.untilDone(pruneLanes);
    return pruned;
  }

  /** Goes round the table: on as long as there is much to delete, else a part of it each turn. */
  private async pruneProgress(): Promise<void> {
    for (let idle = 0; idle < IDLE_CHUNKS;) {
      const after = this.progressAfter;
      const [chunk] = await this.transact((client) => run(client, pruneProgress, { after }));
      this.progressAfter = chunk?.last ?? '0';
      if (this.progressAfter === '0') return;
      if ((chunk?.pruned ?? 0) < PROGRESS_PER_PRUNE / 10) idle += 1;
    }
  }

  /** Chunk by chunk. */
  private async untilDone(prune: Statement<Record<string, never>, number>): Promise<number> {
    let pruned = 0;
    for (let chunk = JOBS_PER_PRUNE; chunk === JOBS_PER_PRUNE; pruned += chunk) {
      [chunk = 0] = await this.transact((client) => run(client, prune, {}));
    }
    return pruned;
  }
}
