import { beforeEach, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { JobHandler } from 'nestmq';
import { POLLING_OFF, startApp, type TestApp } from './support/app.js';
import { useDatabase } from './support/database.js';
import { untilDone } from './support/events.js';
import { useTables } from './support/tables.js';
import { until } from './support/until.js';
import { workWith } from './support/work.js';
import { startWorker } from './support/workers.js';

@Injectable()
class Mailer {
  ran = 0;

  @JobHandler('mail')
  welcome(): void {
    this.ran += 1;
  }
}

const database = useDatabase();
const tables = useTables(database);
beforeEach(() => tables.sql('DELETE FROM nestmq.job'));

const RUNNERS = 3;

/** Where tests share a slow machine jobs often wait, and a runner that is needed has no nap. */
const PATIENCE_MS = 150_000;

/** Heartbeats are frequent, so that the runners soon know each other. */
const QUEUE = { ...POLLING_OFF, leaseMs: 4_000 };

/** Connections of runners that do not listen now: that they said so is the last that they said. */
async function napping(): Promise<number[]> {
  const rows = await tables.sql<{ pid: number }>(
    `SELECT pid FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'nestmq listen' AND query LIKE 'UNLISTEN%'`,
  );
  return rows.map(({ pid }) => pid);
}

/** A fleet under a load of tiny jobs. */
class Fleet {
  private spawned = 0;
  private stopped = false;
  private readonly load: Promise<void>;

  private constructor(
    private readonly apps: readonly TestApp[],
    private readonly sender: TestApp,
  ) {
    this.load = this.spawnUntilStopped();
  }

  static async start(): Promise<Fleet> {
    const options = { url: database.url, providers: [Mailer] };
    const apps = await Promise.all(Array.from({ length: RUNNERS }, () => startApp({ ...options, queue: QUEUE })));
    return new Fleet(apps, await startApp({ ...options, queue: { runner: false } }));
  }

  get ran(): number[] {
    return this.apps.map((app) => app.get(Mailer).ran);
  }

  async spawnOne(): Promise<void> {
    await this.sender.jobs.spawn(Mailer, 'welcome', null);
    this.spawned += 1;
  }

  async untilAllRan(): Promise<void> {
    await until(() => this.ran.reduce((sum, each) => sum + each, 0) === this.spawned, { what: 'every job has run' });
  }

  async endLoad(): Promise<void> {
    this.stopped = true;
    await this.load;
    await this.untilAllRan();
  }

  /** With polling off, who does not listen runs no job any more. */
  async untilAllListen(): Promise<void> {
    const before = this.ran;
    await until(
      async () => {
        await this.spawnOne();
        await this.untilAllRan();
        return this.ran.every((ran, runner) => ran > before[runner]!);
      },
      { what: 'each runner has run a job' },
    );
    await until(async () => (await napping()).length === 0, { what: 'all of them listen' });
  }

  async close(): Promise<void> {
    this.stopped = true;
    await this.load;
    for (const app of [...this.apps, this.sender]) await app.close();
  }

  private async spawnUntilStopped(): Promise<void> {
    while (!this.stopped) await this.spawnOne();
  }
}

async function withFleet(work: (fleet: Fleet) => Promise<void>): Promise<void> {
  const fleet = await Fleet.start();
  try {
    await work(fleet);
  } finally {
    await fleet.close();
  }
}

describe('runners of tiny jobs in a busy fleet', () => {
  it('do not listen all the time, and then listen again, and lose nothing', () =>
    withFleet(async (fleet) => {
      const seen = new Set<number>();
      await until(
        async () => {
          for (const pid of await napping()) seen.add(pid);
          return seen.size === RUNNERS;
        },
        { what: 'each of them has had its nap', timeoutMs: PATIENCE_MS },
      );
      await fleet.endLoad();
      await fleet.untilAllListen();
    }));

  it('listen again on a new connection when theirs breaks meanwhile', () =>
    withFleet(async (fleet) => {
      const pid = await until(async () => (await napping())[0], {
        what: 'one of them has its nap',
        timeoutMs: PATIENCE_MS,
      });
      await tables.sql('SELECT pg_terminate_backend($1)', [pid]);
      await fleet.endLoad();
      await fleet.untilAllListen();
    }));
});

describe('processes of a busy fleet with tiny jobs', () => {
  it('that are killed one after another leave no job behind, and those that live run none twice', async () => {
    // Polling finds what nobody has heard of.
    const env = { LEASE_MS: '3000', POLL_MS: '1000', QUIET: '1' };
    const workers = await Promise.all(Array.from({ length: 4 }, () => startWorker(database.url, env)));
    const sender = await startApp({ url: database.url, providers: [workWith()], queue: { runner: false } });
    const spawned: string[] = [];
    let stopped = false;
    const load = async (): Promise<void> => {
      while (!stopped) spawned.push((await sender.jobs.spawn('work', 'end')).id);
    };
    const loads = [load(), load()];
    try {
      for (const victim of workers.slice(0, 2)) {
        await until(async () => (await napping()).length > 0, {
          what: 'one of them has its nap',
          timeoutMs: PATIENCE_MS,
        });
        await victim.kill();
      }
    } finally {
      stopped = true;
      await Promise.all(loads);
    }
    await untilDone(tables);
    const ran = (await Promise.all(workers.slice(2).map((worker) => worker.starts()))).flat().map(({ id }) => id);
    expect(ran.length).toBeGreaterThan(0);
    expect(ran.length).toBe(new Set(ran).size);
    const known = new Set(spawned);
    expect(ran.filter((id) => !known.has(id))).toEqual([]);
    await sender.close();
  });
});
