import type { Logger } from '@nestjs/common';
import type { ExtendedLane } from '../claim/claimer.js';
import type { HandlerRegistry } from '../handlers/handler.registry.js';
import type { Policies } from '../handlers/policies.js';
import type { QueueEvent } from '../job/events.js';
import type { ErrorHook } from '../job/handler.js';
import type { ClaimedJob } from '../job/job.js';
import type { LeaseBook } from '../job/lease-book.js';
import type { RunPort } from '../job/run-port.js';
import type { EndedRun } from '../settle/settlement.js';
import type { LaneEnd } from '../statements/lanes.js';
import type { SlotsSettings } from './slots.js';

export interface JobRunsSettings extends SlotsSettings {
  readonly abortGraceMs: number;
  readonly stuckAfterMs: number;
  readonly leaseMs: number;
  readonly maxPayloadBytes: number;
  /** One job at a time: batches have one, too. */
  readonly singly?: boolean;
  /** Hears of the failed runs of every handler. */
  readonly onError: ErrorHook | null;
}

export interface JobRunsParts {
  readonly registry: HandlerRegistry;
  readonly policies: Policies;
  readonly port: RunPort;
  readonly book: LeaseBook;
  readonly logger: Logger;
  readonly emit: (event: QueueEvent) => void;
  readonly observed: () => boolean;
  /** The leases are sure to be held. */
  readonly mayStart: () => boolean;
  /** A run has ended and is to be settled. */
  readonly ended: (run: EndedRun) => void;
  /** A lane is to be given back, behind what has ended before. */
  readonly laneEnded: (end: LaneEnd) => void;
  /** Claims more of a lane, at most so many jobs, under the lease that has it. */
  readonly extendLane: (lane: ExtendedLane, most: number) => Promise<readonly ClaimedJob[]>;
  /** The lease of a run has ended before the run: its job is to be rescued. */
  readonly leaseEnded: () => void;
  /** There is room for more. */
  readonly wanting: () => void;
}
