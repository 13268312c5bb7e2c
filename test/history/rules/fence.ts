// Only the run that is entitled to a job writes its end.
import type { EventOf } from '../event.js';
import { leaseName, type History, type Job, type Run } from '../history.js';
import type { Rule, Violation } from './violation.js';

/** What a handler wrote with its completion has committed with it, by the run that the database had for the job. */
export const effectsAreOfTheRunThatEnded: Rule = function* (history) {
  for (const job of history.jobs.values()) {
    for (const effect of job.effects) {
      const end = job.settled.find(({ xid, outcome }) => xid === effect.xid && outcome === 'completed');
      const by = `the run ${effect.run} of ${leaseName(effect)}`;
      if (!end) yield fenced(job, `the effect of ${by} committed without its completion`);
      else if (end.run !== effect.run) yield fenced(job, `${by} has ended run ${end.run}`);
      else if (!held(history, effect, end)) yield fenced(job, `${by} committed its effect without a lease`);
    }
  }
};

/** A completion is written for a run whose handler has returned, or by that handler's transaction. */
export const completionsAreOfRunsThatEnded: Rule = function* (history) {
  for (const job of history.jobs.values()) {
    for (const end of job.settled.filter(({ outcome }) => outcome === 'completed')) {
      const ended = job.runs.some((run) => run.run === end.run && held(history, run, end) && hasEnded(job, run, end));
      if (!ended) yield fenced(job, `run ${end.run} was completed at ${end.tick}, and no such run had ended so`);
    }
  }
};

/** A job goes back when its handler threw, when it was never started, or when its runner or its lease is gone. */
export const runsGoBackThatEnded: Rule = function* ({ jobs }) {
  for (const job of jobs.values()) {
    for (const requeued of job.requeued) {
      const run = job.runs.find(({ run: stamp, start }) => stamp === requeued.run && start.tick < requeued.tick);
      if (!run || run.lostWith || requeued.lapsed) continue;
      const threw = run.end?.how === 'threw' && run.end.tick < requeued.tick;
      if (!threw) yield fenced(job, `run ${run.run} was put back at ${requeued.tick}, while it was running`);
    }
  }
};

function hasEnded({ effects }: Job, { end, runner, lease, run, start }: Run, settled: EventOf<'settled'>): boolean {
  if (
    effects.some(
      (effect) =>
        effect.xid === settled.xid && effect.run === run && effect.lease === lease && effect.runner === runner,
    )
  )
    return start.tick < settled.tick;
  return end?.how === 'returned' && end.tick < settled.tick;
}

/** Whether the lease was there when the end was written: it may go with it. */
function held({ leases }: History, by: { runner: string; lease: number }, { tick, xid }: EventOf<'settled'>): boolean {
  const lease = leases.get(leaseName(by));
  return lease !== undefined && (lease.unleased === null || lease.unleased.tick > tick || lease.unleased.xid === xid);
}

const fenced = ({ id }: Job, what: string): Violation => ({ rule: 'fence', what: `Job ${id}: ${what}.`, ids: [id] });
