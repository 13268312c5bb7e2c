import type { Event } from '../event.js';
import type { History } from '../history.js';
import type { Violation } from '../rules/violation.js';

/** What a round was made of. */
export interface Figures {
  readonly events: number;
  readonly jobs: number;
  readonly lanes: number;
  readonly completed: number;
  readonly dead: number;
  readonly runs: number;
  /** Runs that were lost with their process. */
  readonly lost: number;
  /** Runs that began when their lease was gone. */
  readonly zombies: number;
  readonly effects: number;
  readonly rolledBack: number;
  /** How often a lane was extended while its jobs ran. */
  readonly extended: number;
  /** Jobs of a lane in a lease, on average. */
  readonly laneRun: number;
}

export function figuresOf(events: readonly Event[], { jobs, lanes, leases, transactions }: History): Figures {
  const all = [...jobs.values()];
  const settled = all.flatMap((job) => job.settled);
  const runs = all.flatMap((job) => job.runs);
  const leased = events.flatMap((event) => (event.type === 'leased' ? [event] : []));
  const lanesOf = leased.map((lease) => lease.jobs.flatMap(({ id }) => jobs.get(id)?.spawned?.lane ?? []));
  const laneRuns = lanesOf.reduce((sum, names) => sum + new Set(names).size, 0);
  return {
    events: events.length,
    jobs: all.filter(({ spawned }) => spawned !== null).length,
    lanes: lanes.size,
    completed: settled.filter(({ outcome }) => outcome === 'completed').length,
    dead: settled.filter(({ outcome }) => outcome === 'dead').length,
    runs: runs.length,
    lost: runs.filter(({ lostWith }) => lostWith !== null).length,
    zombies: runs.filter(({ zombie }) => zombie).length,
    effects: all.reduce((sum, { effects }) => sum + effects.length, 0),
    rolledBack: transactions.filter(({ outcome }) => outcome === 'rolled back').length,
    extended: leased.length - leases.size,
    laneRun: laneRuns === 0 ? 0 : lanesOf.flat().length / laneRuns,
  };
}

export interface Round {
  readonly seed: number;
  readonly seconds: number;
  /** `stalled`: jobs are left, and nothing moves. `cut off`: there was no time for all of them. */
  readonly end: 'drained' | 'stalled' | 'cut off';
  readonly figures: Figures;
  readonly faults: Readonly<Record<string, number | undefined>>;
  readonly violations: readonly Violation[];
}

export function describeRound({ seed, seconds, end, figures, faults, violations }: Round): string {
  const counts = Object.entries(figures).map(([name, value]) => `${name} ${Math.round(Number(value) * 10) / 10}`);
  const harm = Object.entries(faults).map(([name, count]) => `${name} ${count}`);
  const verdict = violations.length === 0 ? 'nothing found' : `${violations.length} VIOLATIONS`;
  return `seed ${seed}, ${Math.round(seconds)} s: ${counts.join(', ')}; faults: ${harm.join(', ') || 'none'}: ${end}, ${verdict}`;
}
