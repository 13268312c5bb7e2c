import { Logger } from '@nestjs/common';
import { describe, expect, it } from '@jest/globals';
import type { SqlClient } from '../statements/statement.js';
import { Upkeep } from './upkeep.js';

/** What is asked of the server, and how to answer its sweeps. */
interface Server {
  /** Whether it has ordered jobs, in less than one window of lanes. */
  ordered: boolean;
  readonly asked: ('survey' | 'sweep')[];
  readonly sweeps: (() => void)[];
  readonly client: SqlClient;
}

const SURVEYED = ['1', null, null, null, null, null, null, null, null, false, false, null];

function serverOf(): Server {
  const query: SqlClient['query'] = ({ name = '' }) => {
    if (name.includes('survey_feeds')) {
      server.asked.push('survey');
      return Promise.resolve({ rows: [[...SURVEYED, server.ordered]] });
    }
    server.asked.push('sweep');
    return new Promise((resolve) => server.sweeps.push(() => resolve({ rows: [[null, null, null]] })));
  };
  const client = { schema: 'nestmq', namedStatements: true, query };
  const server: Server = { ordered: true, asked: [], sweeps: [], client };
  return server;
}

const never = { pollMs: 3_600_000, rescueMs: 3_600_000, pruneEveryMs: 3_600_000 };
const params = { arrivals: [], names: [], groups: [], groupChannels: [], channels: null };

/** Its turns come when they are asked for only. */
function upkeepOf({ client }: Server, found = (): void => undefined): Upkeep {
  return new Upkeep(
    { ...never, instance: 'default', survey: () => ({ params, found }), arriving: () => false },
    (work) => work(client),
    { lanesFreed: () => undefined, rescue: () => Promise.resolve(undefined) },
    new Logger(),
    null,
  );
}

async function stop({ poll, rescue, prune }: Upkeep): Promise<void> {
  await Promise.all([poll.stop(), rescue.stop(), prune.stop()]);
}

/** What was to be done behind this turn of the event loop has been done. */
const nextTurn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

async function turnsUntil(holds: () => boolean): Promise<void> {
  while (!holds()) await nextTurn();
}

describe('Upkeep', () => {
  it('sweeps once more when it is to catch up while a sweep is under way', async () => {
    const server = serverOf();
    const { asked, sweeps } = server;
    const upkeep = upkeepOf(server);
    upkeep.start();
    upkeep.catchUp();
    await turnsUntil(() => sweeps.length === 1);
    upkeep.catchUp();
    sweeps[0]!();
    await turnsUntil(() => sweeps.length === 2);
    expect(asked).toEqual(['survey', 'sweep', 'survey', 'sweep']);
    sweeps[1]!();
    await stop(upkeep);
  });

  it('sweeps when it is to catch up while a survey is under way that finds no lanes', async () => {
    const server = serverOf();
    const { asked, sweeps } = server;
    server.ordered = false;
    const upkeep: Upkeep = upkeepOf(server, () => {
      if (server.ordered) return;
      server.ordered = true;
      upkeep.catchUp();
    });
    upkeep.start();
    upkeep.catchUp();
    await turnsUntil(() => sweeps.length === 1);
    expect(asked).toEqual(['survey', 'survey', 'sweep']);
    sweeps[0]!();
    await stop(upkeep);
  });
});
