import {
  countFeeds,
  countLanes,
  countOthers,
  EXACT,
  type ChannelPart,
  type CountParams,
  type StatsCell,
} from '../statements/count-channels.js';
import { run, type SqlClient } from '../statements/statement.js';

/** What stands in one channel. Counts are exact up to 10 000 each. */
export interface ChannelStats {
  /** Name of the channel. */
  readonly channel: string;
  /** Nothing is claimed from it. */
  readonly paused: boolean;
  /** Waiting for their first run, due in the future. */
  readonly scheduled: number;
  /** Due and free, whatever runs they had. */
  readonly ready: number;
  /** Ordered, behind the head of their lane or behind a dead job that blocks it. */
  readonly blocked: number;
  /** Waiting for a further run, due in the future. */
  readonly retrying: number;
  /** Spawned with `hold` and not yet committed. */
  readonly held: number;
  /** Leased by a runner. */
  readonly running: number;
  /** Kept because they will not run again by themselves. */
  readonly dead: number;
  /** The counts of which there may be more than the number says. */
  readonly atLeast: readonly StatsCell[];
  /** How long the longest due free job has been due, `null` when there is none. */
  readonly oldestReadyMs: number | null;
  /** Names of waiting jobs that no handler of this application and no living runner has: nobody will run them. */
  readonly unknownNames: readonly string[];
}

const NONE: Readonly<Record<StatsCell, number>> = {
  ...{ scheduled: 0, ready: 0, blocked: 0, retrying: 0, held: 0, running: 0, dead: 0 },
};

/** Of one moment, when the client is in a transaction with one snapshot. Its cost is bounded, whatever the number of jobs. */
export async function readStats(client: SqlClient, params: CountParams): Promise<ChannelStats[]> {
  const parts = [
    ...(await run(client, countFeeds, params)),
    ...(await run(client, countLanes, params)),
    ...(await run(client, countOthers, params)),
  ];
  const channels = new Map<string, ChannelPart[]>();
  for (const part of parts) channels.set(part.channel, [...(channels.get(part.channel) ?? []), part]);
  return [...channels]
    .sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
    .map(([, some]) => sumOf(some))
    .filter(isWorthTelling);
}

/** Not a channel of which only rows are left that wait to be removed. */
function isWorthTelling(stats: ChannelStats): boolean {
  const cells = Object.keys(NONE) as StatsCell[];
  return stats.paused || stats.atLeast.length > 0 || cells.some((cell) => stats[cell] > 0);
}

function sumOf(parts: readonly ChannelPart[]): ChannelStats {
  const counts = { ...NONE };
  const atLeast = new Set<StatsCell>(parts.flatMap(({ cut }) => cut));
  for (const part of parts) {
    for (const [cell, count] of Object.entries(part.counts) as [StatsCell, number][]) counts[cell] += count;
  }
  for (const cell of Object.keys(counts) as StatsCell[]) {
    if (counts[cell] <= EXACT) continue;
    counts[cell] = EXACT;
    atLeast.add(cell);
  }
  const ages = parts.flatMap(({ oldestReadyMs }) => oldestReadyMs ?? []);
  return {
    channel: parts[0]!.channel,
    paused: parts.some(({ paused }) => paused),
    ...counts,
    atLeast: [...atLeast].sort(),
    oldestReadyMs: ages.length === 0 ? null : Math.max(...ages),
    unknownNames: [...new Set(parts.flatMap(({ unknownNames = [] }) => unknownNames))].sort(),
  };
}
