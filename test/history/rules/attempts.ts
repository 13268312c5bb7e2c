// A job runs as often as it may.
import type { Job, Run } from '../history.js';
import type { Promises, Rule, Violation } from './violation.js';

/**
 * Attempts count starts, from 1. Two starts have the same number only when the process of the first was shutting down,
 * or when it was lost and nothing had been recorded of that start. The latter may happen to a job which was taken ahead
 * of a slot, once: after that it is a suspect, and the starts of suspects and of last attempts are recorded before they
 * happen.
 */
export const attemptsAreCounted: Rule = function* ({ jobs }, promises) {
  for (const job of jobs.values()) {
    const limit = job.spawned?.maxAttempts ?? Infinity;
    const runs = job.runs.filter(({ zombie }) => !zombie);
    for (const [index, run] of runs.entries()) {
      const { attempt, tick } = run.start;
      if (attempt > limit) yield attempts(job, `has ${limit} attempts, and was started as attempt ${attempt}`);
      const previous = runs[index - 1];
      if (previous === undefined) continue;
      const least = previous.start.attempt + (mayBeUncounted(previous, runs[index - 2], limit, promises) ? 0 : 1);
      if (attempt >= least) continue;
      yield attempts(
        job,
        `was started at ${tick} as attempt ${attempt}, and had been before at ${previous.start.tick} as attempt ${previous.start.attempt}`,
      );
    }
  }
};

function mayBeUncounted(run: Run, before: Run | undefined, limit: number, { strict }: Promises): boolean {
  if (run.inShutdown) return true;
  const suspect = before !== undefined && before.lostWith !== null && !before.inShutdown;
  return run.lostWith !== null && !strict && !suspect && run.start.attempt < limit;
}

const attempts = ({ id }: Job, what: string): Violation => ({
  rule: 'attempts',
  what: `Job ${id} ${what}.`,
  ids: [id],
});
