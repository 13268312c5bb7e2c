import pg from 'pg';
import { forkProcess, type Child } from '../../support/fork.js';
import { pause } from '../../support/pace.js';
import { until } from '../../support/until.js';
import { check } from '../check.js';
import type { Event } from '../event.js';
import { historyOf } from '../history.js';
import { booted, Fleet } from './fleet.js';
import { EventLog } from './log.js';
import { Random } from './random.js';
import { figuresOf, type Round } from './report.js';
import type { Settings } from './settings.js';
import { installWitness, readLog } from './witness.js';

const LANES = { one: 1, few: 4, many: 200, none: 0 } as const;
const LIVE_JOBS = { one: 600, few: 300, many: 1_500, none: 300 } as const;

/** One round in a migrated database that is empty: load and faults, then quiet, then the verdict. */
export async function playRound(url: string, settings: Settings): Promise<Round & { readonly events: Event[] }> {
  const began = performance.now();
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await installWitness(client);
  const log = new EventLog(url);
  const fleet = new Fleet(url, settings, log);
  const random = new Random(settings.seed);
  let spawners: Child[] = [];
  try {
    spawners = startSpawners(url, settings, random);
    await Promise.all([fleet.start(), ...spawners.map(booted)]);
    let harming = settings.faults;
    const harm = fleet.harm(random, () => harming);
    await pause(settings.seconds * 1_000);
    for (const spawner of spawners) spawner.send('stop');
    await Promise.all(spawners.map((spawner) => spawner.exit()));
    harming = false;
    await harm;
    const end = await drain(client, settings);
    await fleet.stop();
    const events = await readLog(client);
    const history = historyOf(events);
    const violations = check(history, {
      strict: settings.runs === 1 && settings.batch === 1,
      batches: settings.batch > 1,
      complete: end !== 'cut off',
    });
    const seconds = (performance.now() - began) / 1_000;
    return { ...round(settings, fleet), seconds, end, figures: figuresOf(events, history), violations, events };
  } finally {
    await Promise.all([...spawners.map((spawner) => spawner.kill()), fleet.abandon()]);
    await log.end();
    await client.end();
  }
}

const round = ({ seed }: Settings, { faults }: Fleet): Pick<Round, 'seed' | 'faults'> => ({ seed, faults });

function startSpawners(url: string, { spawners, lanes, liveJobs, deadly, smooth }: Settings, random: Random): Child[] {
  return Array.from({ length: spawners }, () => {
    const env = {
      ...{ URL: url, LANES: String(LANES[lanes]), SEED: String(random.between(0, 2 ** 31)) },
      ...{ LIVE_JOBS: String(liveJobs ?? LIVE_JOBS[lanes]), DEADLY: String(1 / deadly), SMOOTH: smooth ? '1' : '' },
    };
    return forkProcess('history-spawner.ts', env);
  });
}

/** Waits until no job is left, as long as anything moves. */
async function drain(client: pg.Client, { stallSeconds, drainSeconds }: Settings): Promise<Round['end']> {
  const deadline = performance.now() + drainSeconds * 1_000;
  let moved = { at: performance.now(), tick: '' };
  const end = async (): Promise<Round['end'] | undefined> => {
    const { rows } = await client.query<{ live: string; tick: string }>(
      `SELECT (SELECT count(*) FROM nestmq.job) AS live, (SELECT last_value FROM history.tick) AS tick`,
    );
    const [{ live, tick } = { live: '', tick: '' }] = rows;
    if (live === '0') return 'drained';
    const now = performance.now();
    if (tick !== moved.tick) moved = { at: now, tick };
    if (now - moved.at > stallSeconds * 1_000) return 'stalled';
    return now > deadline ? 'cut off' : undefined;
  };
  const found = await until(end, { what: 'every job has ended', timeoutMs: drainSeconds * 1_000 + 60_000 });
  if (found === 'stalled') await describeStall(client);
  return found;
}

/** What one has to know of a queue that stands still. */
async function describeStall(client: pg.Client): Promise<void> {
  for (const table of ['nestmq.lane', 'nestmq.lease', 'nestmq.runner', 'nestmq.job']) {
    const { rows } = await client.query<object>(
      `SELECT to_jsonb(one) - 'payload' AS row, clock_timestamp() AS now FROM ${table} AS one LIMIT 20`,
    );
    console.log(`${table}:\n${rows.map((row) => JSON.stringify(row)).join('\n')}`);
  }
}
