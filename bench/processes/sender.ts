// A process that only sends: what the one that measures asks for, in messages.
import { startSender } from '../bulk-sender.js';
import { BacklogLimit } from '../backlog-limit.js';
import { clockMs } from '../clock.js';
import { offerJobs, type Offered, type OfferTerms } from '../offer.js';
import type { System } from '../report.js';

export type Order =
  /** Send one job. */
  | { readonly kind: 'one'; readonly n: number }
  /** Send many; `begun` says how many of them have begun since it last did. */
  | { readonly kind: 'offer'; readonly terms: OfferTerms; readonly backlog: number }
  | { readonly kind: 'begun'; readonly count: number }
  | { readonly kind: 'close' };

/** The answer to `one`. */
export interface SentOne {
  readonly calledAt: number;
}

/** The answer to `offer`. */
export interface OfferReport extends Offered {
  readonly nodeMicros: number;
}

const { BENCH_URL, BENCH_SYSTEM } = process.env;
const sender = await startSender(BENCH_SYSTEM as System, BENCH_URL!);
let limit = new BacklogLimit(0);

process.on('disconnect', () => process.exit()); // closed, or the one that measures has died
process.on('message', (order: Order) => void obey(order));
process.send!('ready');

async function obey(order: Order): Promise<void> {
  if (order.kind === 'one') await sendOne(order.n);
  if (order.kind === 'begun') limit.leave(order.count);
  if (order.kind === 'offer') {
    limit = new BacklogLimit(order.backlog);
    await offer(order.terms);
  }
  if (order.kind === 'close') {
    await sender.close();
    process.disconnect();
  }
}

async function sendOne(n: number): Promise<void> {
  const calledAt = clockMs();
  await sender.sendMany(n, 1);
  process.send!({ calledAt } satisfies SentOne);
}

async function offer(terms: OfferTerms): Promise<void> {
  const before = process.cpuUsage();
  const offered = await offerJobs(terms, limit, (first, count) => sender.sendMany(first, count));
  const { user, system } = process.cpuUsage(before);
  process.send!({ ...offered, nodeMicros: user + system } satisfies OfferReport);
}
