import { expireHolds, HOLDS_PER_EXPIRY } from '../statements/reservations.js';
import { run } from '../statements/statement.js';
import type { Transact } from './rescuer.js';

/** Removes jobs whose hold has ended, chunk by chunk. */
export class HoldExpirer {
  constructor(private readonly transact: Transact) {}

  /** @returns how many jobs were removed */
  async turn(): Promise<number> {
    let removed = 0;
    for (let chunk = HOLDS_PER_EXPIRY; chunk === HOLDS_PER_EXPIRY; removed += chunk) {
      [chunk = 0] = await this.transact((client) => run(client, expireHolds, {}));
    }
    return removed;
  }
}
