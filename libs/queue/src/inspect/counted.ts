import { countJobs, EXACT, type Count, type StatsCell } from '../statements/count-channels.js';
import { countLanes, type LaneCounts } from '../statements/count-lanes.js';
import type { FoundChannel } from '../statements/find-channels.js';
import { run, type SqlClient } from '../statements/statement.js';

/** Jobs of each state and channel that are counted in any case, where several channels are read. */
const LEAST = 100;

/** Jobs beyond those that are counted in one call, where several channels are read: shared by the states that have more. */
const SHARED = 10_000;

/** Lanes are stepped through, which takes as long as to count so many jobs. */
const JOBS_PER_LANE = 10;

/** The counts of one channel. */
export interface Counted {
  readonly counts: Readonly<Record<StatsCell, number>>;
  /** Of which there may be more. */
  readonly cut: ReadonlySet<StatsCell>;
  /** Of its lanes. */
  readonly oldestReadyMs: number | null;
  readonly unknownNames: readonly string[];
}

const NONE: Readonly<Record<StatsCell, number>> = {
  ...{ scheduled: 0, ready: 0, blocked: 0, retrying: 0, held: 0, running: 0, dead: 0 },
};

/**
 * Counts what channels have. One channel's counts are exact up to 10 000 each. With more of them it would take too long, so each is
 * counted a little, and then those that have more share what is left.
 *
 * @param bounded `false`: up to 10 000 whatever the number of channels
 */
export async function countChannels(
  client: SqlClient,
  channels: readonly FoundChannel[],
  names: readonly string[],
  bounded: boolean,
): Promise<Counted[]> {
  if (!bounded || channels.length < 2) return countUpTo(client, channels, names, EXACT);
  const counted = await countUpTo(client, channels, names, LEAST);
  const limit = limitFor(counted.reduce((sum, { cut }) => sum + cut.size, 0));
  if (limit === LEAST) return counted;
  const more = channels.filter((_, index) => counted[index]!.cut.size > 0);
  const recounted = await countUpTo(client, more, names, limit);
  return channels.map((channel, index) => recounted[more.indexOf(channel)] ?? counted[index]!);
}

/** Up to where so many counts go, of those that have more than the least. To count anew is for twice as many at least. */
export function limitFor(counts: number): number {
  const limit = counts === 0 ? 0 : Math.min(EXACT, Math.floor(SHARED / counts));
  return limit < 2 * LEAST ? LEAST : limit;
}

async function countUpTo(
  client: SqlClient,
  channels: readonly FoundChannel[],
  names: readonly string[],
  limit: number,
): Promise<Counted[]> {
  if (channels.length === 0) return [];
  const { nowMicros } = channels[0]!;
  const counts = channels.flatMap(countsOf);
  const jobs = await run(client, countJobs, { counts, limit, nowMicros });
  const withLanes = channels.filter(({ has }) => has.lanes).map(({ channel }) => channel);
  const steps = Math.ceil(limit / JOBS_PER_LANE);
  const params = { names, channels: withLanes, jobs: limit + steps, lanes: steps, nowMicros };
  const ofLanes = withLanes.length === 0 ? [] : await run(client, countLanes, params);
  const found = new Map(channels.map((channel) => [channel.channel, new Tally(channel, limit)]));
  for (const { index, jobs: count } of jobs) found.get(counts[index]!.channel)!.add(counts[index]!, count);
  for (const lanes of ofLanes) found.get(lanes.channel)!.addLanes(lanes);
  return [...found.values()].map((tally) => tally.end());
}

/** What is to be counted of a channel, apart from its lanes. */
function countsOf({ channel, feeds, has }: FoundChannel): Count[] {
  const count = (cell: Count['cell'], priority = 0, less = 0): Count => ({ channel, cell, priority, less });
  return [
    ...feeds.map(({ priority, running }) => count('ready', priority, running)),
    ...(feeds.length > 0 ? [count('scheduled'), count('retrying')] : []),
    ...(has.held ? [count('held')] : []),
    ...(has.dead ? [count('dead')] : []),
  ];
}

/** Adds up what stands in one channel. */
class Tally {
  private readonly counts = { ...NONE };
  private readonly cut = new Set<StatsCell>();
  private lanes: Pick<LaneCounts, 'oldestReadyMs' | 'unknownNames'> = { oldestReadyMs: null, unknownNames: [] };

  constructor(
    { counts, suspectsCut }: FoundChannel,
    private readonly limit: number,
  ) {
    Object.assign(this.counts, counts);
    if (suspectsCut) for (const cell of ['ready', 'scheduled', 'retrying'] as const) this.cut.add(cell);
  }

  add({ cell, less }: Count, jobs: number): void {
    this.counts[cell] += Math.max(0, jobs - less);
  }

  addLanes({ counts, cut, ...rest }: LaneCounts): void {
    for (const [cell, count] of Object.entries(counts) as [StatsCell, number][]) this.counts[cell] += count;
    for (const cell of cut) this.cut.add(cell);
    this.lanes = rest;
  }

  end(): Counted {
    const { counts, cut, limit } = this;
    for (const cell of Object.keys(counts) as StatsCell[]) {
      // What runs is read whole.
      if (cell === 'running' || counts[cell] <= limit) continue;
      counts[cell] = limit;
      cut.add(cell);
    }
    return { counts, cut, ...this.lanes };
  }
}
