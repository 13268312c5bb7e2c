import type { Event } from './event.js';
import { historyOf, type History } from './history.js';
import { attemptsAreCounted } from './rules/attempts.js';
import { everyRunHasItsLease, noJobIsLeasedTwice, validRunsDoNotOverlap } from './rules/exclusion.js';
import { completionsAreOfRunsThatEnded, effectsAreOfTheRunThatEnded, runsGoBackThatEnded } from './rules/fence.js';
import {
  jobsEndInTheOrderOfSeq,
  jobsStartInTheOrderOfSeq,
  seqFollowsTheSpawns,
  seqIsContiguousAndKept,
} from './rules/order.js';
import { noJobIsLost, nothingEndsTwice, nothingRunsThatWasRolledBack } from './rules/presence.js';
import type { Promises, Rule, Violation } from './rules/violation.js';

const RULES: readonly Rule[] = [
  noJobIsLost,
  nothingRunsThatWasRolledBack,
  nothingEndsTwice,
  validRunsDoNotOverlap,
  noJobIsLeasedTwice,
  everyRunHasItsLease,
  effectsAreOfTheRunThatEnded,
  completionsAreOfRunsThatEnded,
  runsGoBackThatEnded,
  attemptsAreCounted,
  seqIsContiguousAndKept,
  jobsStartInTheOrderOfSeq,
  jobsEndInTheOrderOfSeq,
  seqFollowsTheSpawns,
];

/** Finds every promise that a history does not keep. */
export const check = (history: History, promises: Promises): Violation[] =>
  RULES.flatMap((rule) => [...rule(history, promises)]);

/** What one has to read to understand a violation: all about its jobs, and about those who had to do with them. */
export function excerpt(events: readonly Event[], { ids }: Violation): Event[] {
  const { jobs } = historyOf(events.filter((event) => 'id' in event && ids.includes(event.id)));
  const calls = new Set([...jobs.values()].map(({ spawned }) => spawned?.call));
  const runners = new Set([...jobs.values()].flatMap(({ runs }) => runs.map(({ runner }) => runner)));
  const pids = new Set([...jobs.values()].flatMap(({ runs }) => runs.map(({ start }) => start.pid)));
  const leases = new Set<string>();
  return events.filter((event) => {
    switch (event.type) {
      case 'call':
        return calls.has(event.call);
      case 'transaction':
        return event.ids.some((id) => ids.includes(id));
      case 'leased':
        if (!event.jobs.some(({ id }) => ids.includes(id))) return false;
        leases.add(`${event.runner}/${event.lease}`);
        return true;
      case 'unleased':
        return leases.has(`${event.runner}/${event.lease}`);
      case 'stopping':
      case 'gone':
        return runners.has(event.runner);
      case 'fault':
        return pids.has(event.pid);
      default:
        return ids.includes(event.id);
    }
  });
}
