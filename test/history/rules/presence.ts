// Every committed job ends, once, and no other job runs.
import type { History, Job } from '../history.js';
import type { Rule, Violation } from './violation.js';

export const noJobIsLost: Rule = function* ({ jobs, transactions }, { complete }) {
  for (const { transaction, outcome, ids } of transactions) {
    if (outcome !== 'committed') continue;
    for (const id of ids)
      if (!jobs.get(id)?.spawned) yield lost(id, `was committed by ${transaction} and is not there`);
  }
  if (!complete) return;
  for (const { id, spawned, settled, runs } of jobs.values()) {
    if (spawned && settled.length === 0) yield lost(id, `has not ended; it was started ${runs.length} times`);
  }
};

export const nothingRunsThatWasRolledBack: Rule = function* ({ jobs, transactions }) {
  for (const { id, spawned, runs } of jobs.values()) {
    if (spawned === null && runs.length > 0) yield phantom(id, 'ran, and no committed transaction has spawned it');
  }
  for (const { transaction, outcome, ids } of transactions) {
    if (outcome !== 'rolled back') continue;
    for (const id of ids) if (jobs.get(id)?.spawned) yield phantom(id, `is there, though ${transaction} rolled back`);
  }
};

export const nothingEndsTwice: Rule = function* ({ jobs }: History) {
  for (const job of jobs.values()) {
    if (job.settled.length > 1) yield twice(job, `has ended ${job.settled.length} times`);
    if (job.effects.length > 1) yield twice(job, `has had its effect ${job.effects.length} times`);
    const [end] = job.settled;
    const late = end && job.runs.find(({ start, zombie }) => start.tick > end.tick && !zombie);
    if (late) yield twice(job, `was started at ${late.start.tick}, after its end at ${end.tick}`);
  }
};

const lost = (id: string, what: string): Violation => ({ rule: 'lost job', what: `Job ${id} ${what}.`, ids: [id] });

const phantom = (id: string, what: string): Violation => ({
  rule: 'rolled-back spawn',
  what: `Job ${id} ${what}.`,
  ids: [id],
});

const twice = ({ id }: Job, what: string): Violation => ({
  rule: 'double completion',
  what: `Job ${id} ${what}.`,
  ids: [id],
});
