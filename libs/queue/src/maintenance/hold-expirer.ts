import { type FreedLaneRow, type LaneName } from '../statements/lanes.js';
import { repairLanes } from '../statements/mend-lanes.js';
import { expireHolds, HOLDS_PER_EXPIRY } from '../statements/reservations.js';
import { run } from '../statements/statement.js';
import { ownChannel } from '../statements/transaction.js';
import type { Transact } from './rescuer.js';

/** Removes jobs whose hold has ended, chunk by chunk, and lets the lanes go on that they held. */
export class HoldExpirer {
  constructor(
    private readonly transact: Transact,
    /** Lanes have another head now: what to wake runners with. */
    private readonly onLanes: (messages: readonly string[]) => void,
  ) {}

  /** @returns how many jobs were removed */
  async turn(): Promise<number> {
    let removed = 0;
    for (let chunk = HOLDS_PER_EXPIRY; chunk === HOLDS_PER_EXPIRY; removed += chunk) {
      const [row] = await this.transact((client) => run(client, expireHolds, {}));
      await this.freeLanes(row?.lanes ?? []);
      chunk = row?.removed ?? 0;
    }
    return removed;
  }

  /**
   * Behind the commit of the removal, and owning the claims: a claim that still saw the removed job as the head of its
   * lane has written that down by now.
   */
  private async freeLanes(lanes: readonly LaneName[]): Promise<void> {
    for (const channel of new Set(lanes.map((lane) => lane.channel))) {
      const some = lanes.filter((lane) => lane.channel === channel);
      const freed = await this.transact(async (client): Promise<FreedLaneRow[]> => {
        const [, rows] = await Promise.all([
          run(client, ownChannel, { schema: client.schema, channel }),
          run(client, repairLanes, { lanes: some }),
        ]);
        return rows;
      });
      const messages = freed.flatMap(({ message }) => message ?? []);
      if (messages.length > 0) this.onLanes(messages);
    }
  }
}
