// One runner at a time is entitled to a job, and to an ordered lane.
import { leaseName, validUntil, type History, type Lease, type Run } from '../history.js';
import type { Rule, Violation } from './violation.js';

export const validRunsDoNotOverlap: Rule = function* (history) {
  for (const [unit, runs] of unitsOf(history)) {
    const valid = runs.filter(({ zombie }) => !zombie).toSorted((a, b) => a.start.tick - b.start.tick);
    let longest: Run | undefined;
    for (const run of valid) {
      if (longest && validUntil(longest) > run.start.tick) yield overlap(unit, longest, run);
      if (longest === undefined || validUntil(run) > validUntil(longest)) longest = run;
    }
  }
};

/** Leases of ordered jobs name a whole run, of which a tail may have been let go: what counts there is who starts them. */
export const noJobIsLeasedTwice: Rule = function* ({ jobs, leases }) {
  const holders = new Map<string, Lease>();
  for (const lease of leases.values()) {
    for (const { id } of lease.leased.jobs) {
      if (jobs.get(id)?.spawned?.lane !== null) continue;
      const other = holders.get(id);
      const until = other && Math.min(other.unleased?.tick ?? Infinity, ...fencedSince(jobs.get(id)!, other));
      if (other && until! > lease.leased.tick) yield leasedTwice(id, other, lease);
      holders.set(id, lease);
    }
  }
};

export const everyRunHasItsLease: Rule = function* ({ jobs, leases }) {
  for (const { id, runs } of jobs.values()) {
    for (const run of runs) {
      const lease = leases.get(leaseName(run));
      if (!lease?.leased.jobs.some((job) => job.id === id && job.run === run.run)) {
        yield without(run, 'that names no lease it was given');
      } else if (run.zombie && !(run.lostWith && run.lostWith.tick < run.start.tick)) {
        yield without(run, 'whose lease had ended, and whose runner nobody had declared dead');
      }
    }
  }
};

function* unitsOf({ jobs, lanes }: History): Generator<[string, Run[]]> {
  for (const [lane, members] of lanes) yield [`Lane ${lane}`, members.flatMap(({ runs }) => runs)];
  for (const { id, spawned, runs } of jobs.values()) if (!spawned?.lane) yield [`Job ${id}`, [...runs]];
}

/** When a lease lost one of its jobs by a settlement, while its row was still there for the others. */
function fencedSince({ id, requeued, settled }: NonNullable<ReturnType<History['jobs']['get']>>, { leased }: Lease) {
  const run = leased.jobs.find((job) => job.id === id)?.run;
  return [...requeued, ...settled].filter((settlement) => settlement.run === run).map(({ tick }) => tick);
}

const overlap = (unit: string, a: Run, b: Run): Violation => ({
  rule: 'overlap',
  what: `${unit}: job ${b.id} was started at ${b.start.tick} by ${leaseName(b)}, while job ${a.id}, started at ${a.start.tick} by ${leaseName(a)}, was running until ${validUntil(a)}.`,
  ids: [a.id, b.id],
});

const leasedTwice = (id: string, a: Lease, b: Lease): Violation => ({
  rule: 'leased twice',
  what: `Job ${id} was leased by ${leaseName(b.leased)} at ${b.leased.tick}, while ${leaseName(a.leased)} had it since ${a.leased.tick}.`,
  ids: [id],
});

const without = (run: Run, what: string): Violation => ({
  rule: 'run without a lease',
  what: `Job ${run.id}: ${leaseName(run)} started a run at ${run.start.tick} ${what}.`,
  ids: [run.id],
});
