import { Logger } from '@nestjs/common';
import { describe, expect, it } from '@jest/globals';
import type { SqlClient } from '../statements/statement.js';
import { Upkeep } from './upkeep.js';

/** What is asked of the server, and how to answer its sweeps. */
interface Server {
  readonly asked: ('survey' | 'sweep')[];
  readonly sweeps: (() => void)[];
  readonly client: SqlClient;
}

const SURVEYED = ['1', null, null, null, null, null, null, null, null, false, false, null, true];

/** It has ordered jobs, in less than one window of lanes. */
function serverWithLanes(): Server {
  const server = { asked: [] as Server['asked'], sweeps: [] as Server['sweeps'] };
  const query: SqlClient['query'] = ({ name = '' }) => {
    if (name.includes('survey_feeds')) {
      server.asked.push('survey');
      return Promise.resolve({ rows: [SURVEYED] });
    }
    server.asked.push('sweep');
    return new Promise((resolve) => server.sweeps.push(() => resolve({ rows: [[null, null, null]] })));
  };
  return { ...server, client: { schema: 'nestmq', namedStatements: true, query } };
}

const never = { pollMs: 3_600_000, rescueMs: 3_600_000, pruneEveryMs: 3_600_000 };
const params = { arrivals: [], names: [], groups: [], groupChannels: [], channels: null };

/** What was to be done behind this turn of the event loop has been done. */
const nextTurn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

async function turnsUntil(holds: () => boolean): Promise<void> {
  while (!holds()) await nextTurn();
}

describe('Upkeep', () => {
  it('sweeps once more when it is to catch up while a sweep is under way', async () => {
    const { asked, sweeps, client } = serverWithLanes();
    const upkeep = new Upkeep(
      { ...never, instance: 'default', survey: () => ({ params, found: () => undefined }), arriving: () => false },
      (work) => work(client),
      { lanesFreed: () => undefined, rescue: () => Promise.resolve() },
      new Logger(),
      null,
    );
    upkeep.start();
    upkeep.catchUp();
    await turnsUntil(() => sweeps.length === 1);
    upkeep.catchUp();
    sweeps[0]!();
    await turnsUntil(() => sweeps.length === 2);
    expect(asked).toEqual(['survey', 'sweep', 'survey', 'sweep']);
    sweeps[1]!();
    await Promise.all([upkeep.poll.stop(), upkeep.rescue.stop(), upkeep.prune.stop()]);
  });
});
