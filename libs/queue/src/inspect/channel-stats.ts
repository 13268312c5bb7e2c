import type { CountParams, StatsCell } from '../statements/count-channels.js';
import { findChannels, type FoundChannel } from '../statements/find-channels.js';
import { run, type SqlClient } from '../statements/statement.js';
import { countChannels, type Counted } from './counted.js';

/** What stands in one channel. Counts are exact up to a bound, 10 000 where one channel is read. */
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

/**
 * Of one moment, when the client is in a transaction with one snapshot.
 *
 * @param bounded `true`: at a cost that is bounded, whatever the number of jobs; `false`: up to 10 000 of each state and channel
 */
export async function readStats(client: SqlClient, params: CountParams, bounded: boolean): Promise<ChannelStats[]> {
  const found = await run(client, findChannels, params);
  const counted = await countChannels(client, found, params.names, bounded);
  return found
    .map((channel, index) => statsOf(channel, counted[index]!))
    .filter(isWorthTelling)
    .sort((a, b) => Buffer.compare(Buffer.from(a.channel), Buffer.from(b.channel)));
}

function statsOf(found: FoundChannel, { counts, cut, oldestReadyMs, unknownNames }: Counted): ChannelStats {
  const ages = [found.oldestReadyMs ?? [], oldestReadyMs ?? []].flat();
  return {
    channel: found.channel,
    paused: found.paused,
    ...counts,
    atLeast: [...cut].sort(),
    oldestReadyMs: ages.length === 0 ? null : Math.max(...ages),
    unknownNames: [...new Set([...found.unknownNames, ...unknownNames])].sort(),
  };
}

/** Not a channel of which only rows are left that wait to be removed. */
function isWorthTelling({ scheduled, ready, blocked, retrying, held, running, dead, ...stats }: ChannelStats): boolean {
  return stats.paused || stats.atLeast.length > 0 || scheduled + ready + blocked + retrying + held + running + dead > 0;
}
