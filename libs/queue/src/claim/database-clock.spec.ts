import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { DatabaseClock } from './database-clock.js';

/** What the monotonic clock shows, milliseconds; the server's is a million seconds ahead. */
let nowMs = 0;
const serverMicros = (): number => 1e12 + nowMs * 1_000;

beforeEach(() => {
  nowMs = 0;
  jest.spyOn(performance, 'now').mockImplementation(() => nowMs);
});

afterEach(() => {
  jest.restoreAllMocks();
});

/** The server says the time so long after it was asked, and that is read so long after it was said. */
function hear(clock: DatabaseClock, { saidAfterMs = 0, readAfterMs = 0, setBackMs = 0 } = {}): void {
  const answered = clock.ask();
  nowMs += saidAfterMs;
  const said = serverMicros() - setBackMs * 1_000;
  nowMs += readAfterMs;
  answered(said);
}

describe('DatabaseClock', () => {
  it('counts everything as due before anything was heard', () => {
    expect(new DatabaseClock().nowMicros()).toBe(Infinity);
  });

  it('goes on by the monotonic clock', () => {
    const clock = new DatabaseClock();
    hear(clock);
    nowMs += 70;
    expect(clock.nowMicros()).toBe(serverMicros());
  });

  it('is not set back by an answer that waited for the event loop', () => {
    const clock = new DatabaseClock();
    hear(clock);
    hear(clock, { readAfterMs: 1_500 });
    expect(clock.nowMicros()).toBe(serverMicros());
  });

  it('is not set ahead by one that the server was slow to give', () => {
    const clock = new DatabaseClock();
    hear(clock);
    hear(clock, { saidAfterMs: 1_500 });
    expect(clock.nowMicros()).toBe(serverMicros());
  });

  it('recovers from a first answer that was late with the next that is not', () => {
    const clock = new DatabaseClock();
    hear(clock, { readAfterMs: 1_500 });
    expect(clock.nowMicros()).toBe(serverMicros() - 1_500_000);
    hear(clock, { readAfterMs: 2 });
    expect(clock.nowMicros()).toBe(serverMicros() - 2_000);
  });

  it("follows the server's clock when that is set back, or the connection goes to another server", () => {
    const clock = new DatabaseClock();
    hear(clock);
    hear(clock, { saidAfterMs: 3, setBackMs: 60_000 });
    expect(clock.nowMicros()).toBe(serverMicros() - 60_000_000 + 3_000);
  });
});
