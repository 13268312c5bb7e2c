import { describe, expect, it } from '@jest/globals';
import type { Demand } from '../claim/claimer.js';
import type { ClaimedJob } from '../job/job.js';
import { ClaimLoop, type ClaimLoopParts } from './claim-loop.js';

interface Looped {
  readonly loop: ClaimLoop;
  readonly claims: number[];
  /** For how long what each of its looks has found had been due. */
  readonly looks: (number | null)[];
  /** What it has said of each claim by the time its jobs were taken. */
  readonly said: { readonly accepted: boolean; readonly claiming: boolean }[];
}

/** A loop whose process has so much room; answers what it claims. */
function loopWith(
  room: { limit: number },
  jobs: () => ClaimedJob[] = () => [],
  others: { readonly [Part in 'runs' | 'feeds' | 'claimer']?: object } = {},
): Looped {
  const claims: number[] = [];
  const looks: (number | null)[] = [];
  const said: { readonly accepted: boolean; readonly claiming: boolean }[] = [];
  let accepted = false;
  const parts = {
    membership: { trusted: true, id: '1' },
    runs: {
      demand: () => ({ limit: room.limit, slots: room.limit, run: 1 }),
      makeRoomForSuspect: () => false,
      rest: () => undefined,
      accept: () => {
        said.push({ accepted, claiming: loop.claiming });
        accepted = false;
        return Promise.resolve();
      },
      ...others.runs,
    },
    feeds: {
      ...{ needSlot: () => false, hasWork: () => true, msUntilDue: () => null, clock: { nowMicros: () => 50_000 } },
      ...others.feeds,
    },
    claimer: {
      claim: ({ limit }: Demand) => {
        claims.push(limit);
        room.limit = 0;
        return Promise.resolve(jobs());
      },
      ...others.claimer,
    },
    accepted: () => (accepted = true),
    look: () => (waitedMs: number | null) => void looks.push(waitedMs),
    backlog: () => 0,
  } as unknown as ClaimLoopParts;
  const loop = new ClaimLoop(parts);
  return { loop, claims, looks, said };
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

  it('says of each claim for how long the first job had been due, and nothing where it makes none', async () => {
    const room = { limit: 1 };
    const found = [[], [20_000, 10_000].map((dueAtMicros) => ({ runner: '1', dueAtMicros }) as ClaimedJob)];
    const { loop, looks } = loopWith(room, () => found.shift() ?? []);
    loop.start();
    await nextTurn();
    loop.wake(); // there is no room
    await nextTurn();
    expect(looks).toEqual([null]);
    room.limit = 1;
    loop.wake();
    await nextTurn();
    loop.stop();
    await loop.ended();
    expect(looks).toEqual([null, 40]);
  });

  it('says before it takes what it has claimed that there is something to run, and until then that it claims', async () => {
    const room = { limit: 1 };
    const found = [[{ runner: '1', dueAtMicros: 1 } as ClaimedJob], []];
    const { loop, said } = loopWith(room, () => found.shift() ?? []);
    expect(loop.claiming).toBe(false);
    loop.start();
    await nextTurn();
    expect(loop.claiming).toBe(false);
    room.limit = 1;
    loop.wake();
    await nextTurn();
    loop.stop();
    await loop.ended();
    expect(said).toEqual([
      { accepted: true, claiming: true },
      { accepted: false, claiming: true },
    ]);
  });

  it('asks again for suspects when a handler has got room while it asked', async () => {
    let room = false;
    const asked: boolean[] = [];
    const answers: (() => void)[] = [];
    const { loop } = loopWith({ limit: 0 }, () => [], {
      runs: { makeRoomForSuspect: () => true, endReservation: () => undefined, startReady: () => undefined },
      feeds: { haveRoom: () => room },
      claimer: {
        claimSuspect: () => {
          asked.push(room);
          return new Promise<undefined>((resolve) => answers.push(() => resolve(undefined)));
        },
      },
    });
    loop.start();
    await nextTurn();
    room = true;
    loop.runEnded();
    loop.wake();
    answers[0]!();
    await nextTurn();
    expect(asked).toEqual([false, true]);
    loop.stop();
    answers[1]!();
    await loop.ended();
  });
});
