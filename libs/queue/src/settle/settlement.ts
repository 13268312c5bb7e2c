import type { HandlerPolicy } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import { endingOf, isCommitted, withEnding, type Outcome } from '../job/outcome.js';
import type { LaneEnd } from '../statements/lanes.js';
import type { FinishEntry } from '../statements/finish-jobs.js';
import type { Cancelled } from '../statements/held-runs.js';
import type { RequeueEntry } from '../statements/requeue-jobs.js';
import type { RunFence } from '../statements/run-fence.js';
import { errorText } from './error-text.js';

/** A run that has ended, and how. */
export interface EndedRun {
  readonly job: ClaimedJob;
  readonly outcome: Outcome;
  readonly policy: HandlerPolicy;
  readonly durationMs: number;
  /** Called once its end is written. */
  readonly written?: ((outcome: Outcome) => void) | undefined;
}

/**
 * What the settler writes for it: one of three statements, or a look whether the handler's transaction has written it,
 * or, without an `otherwise`, a rescuer.
 * `unsure`: written only if the handler's transaction has not completed the job, which may still be open.
 */
export type Settlement = { readonly run: EndedRun; readonly unsure?: boolean } & (
  | { readonly write: 'nothing'; readonly entry: RunFence }
  | { readonly write: 'complete'; readonly entry: RunFence }
  | { readonly write: 'finish'; readonly entry: RunFence & FinishEntry }
  | { readonly write: 'requeue'; readonly entry: RunFence & RequeueEntry }
  | { readonly write: 'confirm'; readonly entry: RunFence; readonly otherwise: Settlement | null }
);

/** The end of a lane's run: written behind the ends of its jobs. */
export interface LaneSettlement {
  readonly write: 'end-lane';
  readonly entry: LaneEnd;
}

/** Outcome → statement and row. Every ending of a run meets here. A claimed job is its own fence. */
export function settlementOf(run: EndedRun): Settlement {
  const { job, outcome, policy } = run;
  switch (outcome.kind) {
    case 'completed':
      if (isCommitted(outcome)) return { run, write: 'nothing', entry: job };
      if (policy.retentionMs === 0) return { run, write: 'complete', entry: job };
      return { run, write: 'finish', entry: completed(job, outcome.result, policy.retentionMs) };
    case 'retry':
      return requeue(run, { attempt: job.attempt, delayMs: outcome.delayMs, error: errorText(outcome.error) });
    case 'snoozed': {
      const { delayMs, error } = outcome;
      const text = error === undefined ? null : errorText(error);
      return requeue(run, { attempt: job.attempt - 1, delayMs, error: text });
    }
    case 'released':
      return requeue(run, { attempt: job.attempt - 1, delayMs: null, error: null });
    case 'dead':
      return { run, write: 'finish', entry: dead(job, outcome.reason, outcome.error, keepDeadMs(job, policy)) };
    // Never run again, which only the database can make sure of: it cancels what was asked to be cancelled.
    case 'cancelled':
      return requeue(run, { attempt: job.attempt, delayMs: 0, error: errorText(outcome.error) });
    case 'expired':
      return { run, write: 'confirm', entry: job, otherwise: null };
    case 'unless-completed':
      return {
        run,
        write: 'confirm',
        entry: job,
        otherwise: unsure({ ...settlementOf({ ...run, outcome: outcome.otherwise }), run }),
      };
  }
}

function unsure(settlement: Settlement): Settlement {
  return { ...settlement, unsure: true, entry: { ...settlement.entry, unsure: true } } as Settlement;
}

/** A dead job for which its lane waits is kept until a person has decided. */
function keepDeadMs({ seq }: ClaimedJob, { onDead, deadRetentionMs }: HandlerPolicy): number | null {
  return seq !== null && onDead === 'block' ? null : deadRetentionMs;
}

/** The job was asked to be cancelled, and this process may not have known. */
export function cancelledRun(run: EndedRun, { reason }: Cancelled): EndedRun {
  const ending = endingOf(run.outcome);
  const error = 'error' in ending ? ending.error : undefined;
  return { ...run, outcome: withEnding(run.outcome, { kind: 'cancelled', reason, error }) };
}

function requeue(run: EndedRun, entry: Omit<RequeueEntry, 'seq'>): Settlement {
  return { run, write: 'requeue', entry: { ...fenceOf(run.job), ...entry, seq: run.job.seq } };
}

export function completed(job: ClaimedJob, result: string | null, keepMs: number): RunFence & FinishEntry {
  const { attempt, seq } = job;
  return { ...fenceOf(job), state: 'completed', attempt, reason: null, error: null, result, seq, keepMs };
}

function dead(job: ClaimedJob, reason: string, error: unknown, keepMs: number | null): RunFence & FinishEntry {
  const { attempt, seq } = job;
  return { ...fenceOf(job), state: 'dead', attempt, reason, error: errorText(error), result: null, seq, keepMs };
}

export const fenceOf = ({ id, run, lease }: ClaimedJob): RunFence => ({ id, run, lease });

/** The settlements that one statement writes. */
export type SettlementBy<Write extends Settlement['write']> = Extract<Settlement, { write: Write }>;

/** By what they are written. */
export function divide(batch: readonly Settlement[]): {
  complete: SettlementBy<'complete'>[];
  finish: SettlementBy<'finish'>[];
  requeue: SettlementBy<'requeue'>[];
  confirm: SettlementBy<'confirm'>[];
  nothing: SettlementBy<'nothing'>[];
} {
  const divided = { nothing: [], complete: [], finish: [], requeue: [], confirm: [] } as ReturnType<typeof divide>;
  for (const settlement of batch) (divided[settlement.write] as Settlement[]).push(settlement);
  return divided;
}
