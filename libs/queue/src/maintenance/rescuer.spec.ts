import { Logger } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { SqlClient } from '../statements/statement.js';
import { Rescuer } from './rescuer.js';

let nowMs = 0;

beforeEach(() => {
  nowMs = 0;
  jest.spyOn(performance, 'now').mockImplementation(() => nowMs);
});

afterEach(() => {
  jest.restoreAllMocks();
});

/** A rescuer whose database has nothing to rescue, and how often it was asked for runs that have outlived their lease. */
function rescuerOf(): { readonly rescuer: Rescuer; readonly looks: () => number } {
  let looks = 0;
  const query: SqlClient['query'] = ({ name = '' }) => {
    if (name.includes('rescue_expired')) looks += 1;
    return Promise.resolve({ rows: [] });
  };
  const client: SqlClient = { schema: 'nestmq', namedStatements: true, query };
  const settings = { schema: 'nestmq', leaseMs: 10_000, heartbeatMs: 2_500, keepCancelledMs: 0 };
  const ignore = (): void => undefined;
  return { rescuer: new Rescuer(settings, (work) => work(client), ignore, ignore, new Logger()), looks: () => looks };
}

describe('Rescuer', () => {
  it('looks for nothing that nobody has told it of', async () => {
    const { rescuer, looks } = rescuerOf();
    expect(await rescuer.turn()).toBeUndefined();
    expect(looks()).toBe(0);
  });

  it('looks again for a run that is expected to have expired, for a while', async () => {
    const { rescuer, looks } = rescuerOf();
    rescuer.expectExpired();
    for (const ms of [0, 1_000, 1_999]) {
      nowMs = ms;
      expect(await rescuer.turn()).toBe(200);
    }
    nowMs = 2_000;
    expect(await rescuer.turn()).toBeUndefined();
    expect(looks()).toBe(3);
  });

  it('looks once for it, however late its turn comes', async () => {
    const { rescuer, looks } = rescuerOf();
    rescuer.expectExpired();
    nowMs = 60_000;
    expect(await rescuer.turn()).toBeUndefined();
    expect(looks()).toBe(1);
  });
});
