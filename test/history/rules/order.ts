// The order of a lane.
import { horizonOf, sees } from '../event.js';
import { leaseName, type Job, type Run } from '../history.js';
import type { Promises, Rule, Violation } from './violation.js';

/** A job of a lane that has a place there. */
interface Placed {
  readonly job: Job;
  readonly seq: number;
}

export const seqIsContiguousAndKept: Rule = function* ({ lanes, jobs }) {
  for (const [lane, members] of lanes) {
    for (const job of members) yield* keptBy(lane, job);
    const placed = inOrder(members);
    for (const [index, { job, seq }] of placed.entries()) {
      const expected = (placed[index - 1]?.seq ?? 0) + 1;
      if (seq === expected - 1)
        yield order('seq', lane, `${seq} is the number of two jobs`, placed[index - 1]!.job, job);
      else if (seq !== expected)
        yield order('seq', lane, `job ${job.id} has number ${seq}, after ${expected - 1}`, job);
    }
  }
  for (const job of jobs.values()) {
    const seq = job.spawned?.lane === null ? seqsOf(job)[0] : undefined;
    if (seq !== undefined) yield order('seq', '–', `job ${job.id} is not ordered and has number ${seq}`, job);
  }
};

/** A job starts when all before it have ended for good, or have returned in the same run of the lane. */
export const jobsStartInTheOrderOfSeq: Rule = function* ({ lanes }, promises) {
  for (const [lane, members] of lanes) {
    const placed = inOrder(members);
    for (const [index, { job }] of placed.entries()) {
      const before = placed[index - 1]?.job;
      if (before === undefined) continue;
      const early = job.runs.find((run) => !run.zombie && !mayFollow(run, before, promises));
      if (early)
        yield order(
          'start order',
          lane,
          `job ${job.id} was started at ${early.start.tick} by ${leaseName(early)}, before the end of job ${before.id}`,
          before,
          job,
        );
    }
  }
};

export const jobsEndInTheOrderOfSeq: Rule = function* ({ lanes }) {
  for (const [lane, members] of lanes) {
    const placed = inOrder(members);
    for (const [index, { job }] of placed.entries()) {
      const before = placed[index - 1]?.job;
      const [end] = job.settled;
      if (before === undefined || end === undefined) continue;
      const [ended] = before.settled;
      if (ended === undefined || !(ended.xid === end.xid || sees(end.snapshot, ended.xid)))
        yield order(
          'end order',
          lane,
          `the end of job ${job.id} was written before that of job ${before.id}`,
          before,
          job,
        );
    }
  }
};

/** Jobs of one transaction have call order; what had committed before a call of spawn began comes before its jobs. */
export const seqFollowsTheSpawns: Rule = function* ({ lanes }) {
  for (const [lane, members] of lanes) {
    const placed = inOrder(members).filter(({ job }) => job.call !== null);
    // A job that was never started stands behind all that were.
    const all = [...placed.map(({ job }) => job), ...members.filter((job) => job.call && seqsOf(job).length === 0)];
    // The oldest transaction from each place on: nothing behind a place can precede it when that one is too young.
    const oldest: number[] = [];
    for (let at = all.length - 1; at >= 0; at--)
      oldest[at] = Math.min(oldest[at + 1] ?? Infinity, all[at]!.spawned!.xid);
    for (const [at, { job }] of placed.entries()) {
      const reach = Math.max(horizonOf(job.call!.snapshot), job.spawned!.xid + 1);
      for (let next = at + 1; next < all.length && oldest[next]! < reach; next++) {
        if (precedes(all[next]!, job)) {
          yield order(
            'spawn order',
            lane,
            `job ${job.id} came before job ${all[next]!.id}, which was spawned before it`,
            all[next]!,
            job,
          );
          break;
        }
      }
    }
  }
};

function precedes(a: Job, b: Job): boolean {
  const [call, other] = [a.call!, b.call!];
  if (call.transaction !== other.transaction) return sees(other.snapshot, a.spawned!.xid);
  return call.tick === other.tick ? a.spawned!.index < b.spawned!.index : call.tick < other.tick;
}

function mayFollow(run: Run, before: Job, { strict, batches = false }: Promises): boolean {
  if (before.settled.some(({ xid }) => sees(run.start.snapshot, xid))) return true;
  if (strict) return false;
  return before.runs.some(({ end, ...other }) => {
    const passed = end?.how === 'returned' || (batches && diedOf(before, other.run));
    return leaseName(other) === leaseName(run) && end !== null && passed && end.tick < run.start.tick;
  });
}

const diedOf = ({ settled }: Job, run: number): boolean =>
  settled.some((end) => end.run === run && end.outcome === 'dead');

function* keptBy(lane: string, job: Job): Generator<Violation> {
  const seqs = seqsOf(job);
  if (seqs.length > 1) yield order('seq', lane, `job ${job.id} had the numbers ${seqs.join(', ')}`, job);
  const without = job.runs.find(({ start, zombie }) => start.seq === null && !zombie);
  if (without) yield order('seq', lane, `job ${job.id} was started at ${without.start.tick} without a number`, job);
}

function inOrder(members: readonly Job[]): Placed[] {
  const placed = members.flatMap((job) =>
    seqsOf(job)
      .slice(0, 1)
      .map((seq) => ({ job, seq })),
  );
  return placed.toSorted((a, b) => a.seq - b.seq);
}

function seqsOf({ runs, settled }: Job): number[] {
  const seqs = [...runs.filter(({ zombie }) => !zombie).map(({ start }) => start), ...settled].map(({ seq }) => seq);
  return [...new Set(seqs.filter((seq) => seq !== null))];
}

const order = (rule: string, lane: string, what: string, ...jobs: readonly Job[]): Violation => ({
  rule,
  what: `Lane ${lane}: ${what}.`,
  ids: jobs.map(({ id }) => id),
});
