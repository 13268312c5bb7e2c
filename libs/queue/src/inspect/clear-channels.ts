import { ChannelBusyError } from '../job/control-errors.js';
import { clearJobs, type ClearedRow, type ClearParams } from '../statements/clear-jobs.js';
import { repairChannels } from '../statements/mend-lanes.js';
import { run, type SqlClient } from '../statements/statement.js';
import { beginOwningAll } from '../statements/transaction.js';

/** Options of `queue.clear` and `queue.clearAll`. */
export interface ClearOptions {
  /** `true`: leave the jobs that are running, and clear the others. Default `false`: refuse, and clear nothing. */
  keepRunning?: boolean;
}

export interface ClearPorts {
  readonly schema: string;
  readonly wake: (messages: readonly string[]) => void;
  readonly write: <T>(work: (client: SqlClient) => Promise<T>, begin: string) => Promise<T>;
}

/** What one statement deletes: claims of these channels wait for it. */
const CHUNK = 5_000;

/** Channels that one transaction owns: each is a lock in a table that the whole server shares. */
const CHANNELS_AT_ONCE = 100;

/**
 * Deletes the free jobs of some channels and answers their number.
 *
 * The first transaction looks whether anything runs, in all of them, and deletes the first chunk. Between two chunks
 * runners may claim: those jobs are theirs, and stay.
 *
 * @throws {ChannelBusyError} when something runs; nothing was deleted
 */
export async function clearChannels(
  { schema, write, wake }: ClearPorts,
  channels: readonly string[],
  { keepRunning = false }: ClearOptions,
): Promise<number> {
  const all = [...new Set(channels)];
  let idle = keepRunning ? [] : all;
  let upTo: string | null = null;
  let total = 0;
  for (let from = 0; from < all.length; from += CHANNELS_AT_ONCE) {
    const group = all.slice(from, from + CHANNELS_AT_ONCE);
    const start = beginOwningAll(schema, ...group);
    let row: ClearedRow;
    do {
      const params: ClearParams = { channels: group, idle, upTo, limit: CHUNK };
      const [cleared, lanes] = await write(
        (client) => Promise.all([run(client, clearJobs, params), run(client, repairChannels, { channels: group })]),
        start,
      );
      [row] = cleared as [ClearedRow];
      const messages = lanes.flatMap(({ message }) => message ?? []);
      if (row.busy.length > 0) throw new ChannelBusyError(row.busy, row.running);
      if (messages.length > 0) wake(messages);
      ({ upTo } = row);
      idle = [];
      total += row.cleared;
      // A whole chunk of locked rows: what has them in hand may take its time.
    } while (row.found === CHUNK && row.cleared > 0);
  }
  return total;
}
