import { describe, expect, it } from '@jest/globals';
import type { Demand } from '../claim/claimer.js';
import { ClaimLoop, type ClaimLoopParts } from './claim-loop.js';

/** A loop whose process has so much room; answers what it claims. */
function loopWith(room: { limit: number }): { loop: ClaimLoop; claims: number[] } {
  const claims: number[] = [];
  const parts = {
    membership: { trusted: true, id: '1' },
    runs: {
      demand: () => ({ limit: room.limit, slots: room.limit, run: 1 }),
      makeRoomForSuspect: () => false,
      rest: () => undefined,
      accept: () => Promise.resolve(),
    },
    feeds: { needSlot: () => false, hasWork: () => true, msUntilDue: () => null },
    claimer: {
      claim: ({ limit }: Demand) => {
        claims.push(limit);
        room.limit = 0;
        return Promise.resolve([]);
      },
    },
    looked: () => undefined,
    backlog: () => 0,
  } as unknown as ClaimLoopParts;
  return { loop: new ClaimLoop(parts), claims };
}

/** What was to be done behind this turn of the event loop has been done. */
const nextTurn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

describe('ClaimLoop', () => {
  it('claims once for all the room that is left in one turn of the event loop', async () => {
    const room = { limit: 0 };
    const { loop, claims } = loopWith(room);
    loop.start();
    for (const wave of [32, 16]) {
      for (let ended = 0; ended < wave; ended++) {
        room.limit += 1;
        loop.wakeSoon();
        await Promise.resolve(); // other code runs between two ends
      }
      await nextTurn();
      await nextTurn();
    }
    loop.stop();
    await loop.ended();
    expect(claims).toEqual([32, 16]);
  });
});
