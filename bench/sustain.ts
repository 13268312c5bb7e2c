import { BacklogLimit } from './backlog-limit.js';
import { clockMs } from './clock.js';
import { startMeter, withProcess } from './meter.js';
import { CALL, capacityFor, offerJobs, type Offered, type OfferTerms } from './offer.js';
import type { OfferReport } from './processes/sender.js';
import type { SenderProcess } from './processes/start.js';
import type { Sample, System } from './report.js';
import type { BenchDatabase } from './server.js';
import { percentilesOf } from './statistics.js';
import { emptied } from './tables.js';
import { Tally } from './tally.js';

/** Jobs that may have been sent and not yet begun. */
const BACKLOG = 1_000;

export interface Receiver {
  onStart: (n: number) => void;
}

/** Where the offer comes from: this process, or another one. */
export interface Source {
  /** @param onOffered is told of the limit before the first job is sent */
  offer(terms: OfferTerms, backlog: number): Promise<Offered & { readonly nodeMicros: number }>;
  begun(count: number): void;
}

export function sourceHere(send: (first: number, count: number) => Promise<unknown>): Source {
  let limit = new BacklogLimit(0);
  return {
    offer: async (terms, backlog) => {
      limit = new BacklogLimit(backlog);
      return { ...(await offerJobs(terms, limit, send)), nodeMicros: 0 };
    },
    begun: (count) => limit.leave(count),
  };
}

export function sourceThere(sender: SenderProcess): Source {
  return {
    offer: (terms, backlog) => sender.ask<OfferReport>({ kind: 'offer', terms, backlog }),
    begun: (count) => sender.tell({ kind: 'begun', count }),
  };
}

/** Jobs of which the source is told in one message. */
const TOLD_TOGETHER = 50;

export interface Sustained extends Sample {
  readonly perSecond: number;
  /** Jobs a second at the start and at the end of the offer. */
  readonly figures: Readonly<Record<string, number>>;
}

/** Jobs are sent and worked off at the same time; `windowSeconds` at the start and the end are rated by themselves. */
export async function sustain(
  database: BenchDatabase,
  terms: OfferTerms & { readonly windowSeconds: number },
  source: Source,
  { system, receiver }: { system: System; receiver: Receiver },
): Promise<Sustained> {
  const capacity = Math.min(capacityFor(terms.seconds), terms.maxJobs);
  const startedAt = new Float64Array(capacity);
  const tally = new Tally(capacity);
  receiver.onStart = (n) => {
    startedAt[n] = clockMs();
    tally.add(n);
    if (tally.count % TOLD_TOGETHER === 0) source.begun(TOLD_TOGETHER);
  };
  const stopMeter = await startMeter(database);
  const began = clockMs();
  const { jobs, committedAt, nodeMicros } = await source.offer(terms, BACKLOG);
  const offerEnded = clockMs();
  await tally.reached(jobs);
  const ended = clockMs();
  const usage = await stopMeter();
  await emptied(database, system);
  tally.check(jobs);

  const starts = startedAt.subarray(0, jobs);
  const windowMs = Math.min(terms.windowSeconds * 1_000, offerEnded - began);
  const rateBetween = (from: number, to: number): number =>
    starts.reduce((count, at) => count + (at >= from && at < to ? 1 : 0), 0) / ((to - from) / 1_000);
  return {
    jobs,
    perSecond: jobs / ((ended - began) / 1_000),
    latency: percentilesOf(starts.map((at, n) => Math.max(0, at - committedAt[Math.floor(n / CALL)]!))),
    usage: withProcess(usage, nodeMicros),
    figures: {
      [`first ${terms.windowSeconds} s`]: rateBetween(began, began + windowMs),
      [`last ${terms.windowSeconds} s`]: rateBetween(offerEnded - windowMs, offerEnded),
    },
  };
}
