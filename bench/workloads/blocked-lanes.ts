import { setTimeout as sleep } from 'node:timers/promises';
import { CHANNEL, Letters, startApplication, type BenchApplication } from '../nestmq/application.js';
import { clockMs } from '../measure/clock.js';
import { payloadOf } from '../load/jobs.js';
import type { Payload } from '../systems/system.js';
import type { Sample } from '../report/rows.js';
import type { BenchDatabase } from '../servers/postgres.js';
import { countClaims, resetCounts } from '../measure/statements-counted.js';
import { percentilesOf } from '../measure/statistics.js';
import type { Bench, Workload } from '../workload.js';

/** How the heads of the lanes in front are blocked; a second job of each lane is due. SQL of name, attempt, seq, due time and end of the hold. */
const SCENES: readonly (readonly [name: string, head: string | null])[] = [
  ['behind none', null],
  [
    'behind lanes whose heads wait for a retry',
    `'Letters.send', 1, 1, clock_timestamp() + interval '1 day', NULL::timestamptz`,
  ],
  ['behind lanes whose heads nobody knows', `'Letters.unknown', 0, NULL::bigint, clock_timestamp(), NULL::timestamptz`],
  [
    'behind lanes whose heads are held',
    `'Letters.send', 0, NULL::bigint, clock_timestamp(), clock_timestamp() + interval '1 day'`,
  ],
];

/** The subject of a letter whose first run shall fail. */
const FAILING = 'once more';

const BACKOFF_MS = 300;

/** At most so many samples, and one for so many lanes: a poll ends the wait for a notification that was lost, after seconds. */
const SAMPLES = {
  told: { most: 50, lanes: 1 },
  lost: { most: 3, lanes: 5_000 },
  retried: { most: 5, lanes: 1_000 },
} as const;

/** How a lane becomes ready. Answers when it did. */
type Way = (stage: Stage, n: number) => Promise<number>;

const WAYS: Record<keyof typeof SAMPLES, readonly [name: string, way: Way]> = {
  told: ['told by NOTIFY', spawnElsewhere],
  lost: ['its notification lost', insertSilently],
  retried: ['by the end of a backoff', failOnce],
};

/** What is there while one scene is measured. */
interface Stage {
  readonly database: BenchDatabase;
  /** The runner. */
  readonly app: BenchApplication;
  /** Its notifications go through the database. */
  readonly sender: BenchApplication;
  /** Resolves with the time of this start. */
  readonly started: (n: number, attempt: number) => Promise<number>;
}

export const blockedLanes: Workload = {
  name: 'blocked-lanes',
  description: 'claims, and time, until a lane that becomes ready starts: behind 20 000 blocked lanes, and behind none',
  defaultRepeat: 1,
  async run(bench) {
    const { settings } = bench;
    const database = await bench.createQueueDatabase({ countStatements: true });
    const sender = await startApplication(database.url, { runner: false });
    const samples = new Map<string, Sample[]>();
    for (let turn = 0; turn < bench.repeat; turn++) {
      for (const [scene, head] of SCENES) {
        const taken = await playScene({ database, sender }, head, settings.jobs ?? 20_000);
        for (const [way, sample] of taken) {
          const name = `${way}, ${scene}`;
          samples.set(name, [...(samples.get(name) ?? []), sample]);
        }
      }
    }
    report(bench, samples);
    await sender.close();
    await database.drop();
  },
};

function report(bench: Bench, samples: ReadonlyMap<string, readonly Sample[]>): void {
  for (const [name, runs] of samples) bench.report({ workload: bench.workload, name, system: 'nestmq', samples: runs });
}

/** A runner of its own for each scene: what it remembers of the lanes of another one helps it nothing. */
async function playScene(
  { database, sender }: Pick<Stage, 'database' | 'sender'>,
  head: string | null,
  lanes: number,
): Promise<[way: string, Sample][]> {
  await database.admin.query('TRUNCATE nestmq.job, nestmq.lane');
  await database.admin.query('VACUUM nestmq.lease');
  if (head !== null) await block(database, head, lanes);
  const app = await startApplication(database.url);
  const stage = { database, app, sender, started: watchStarts(app) };
  if (head !== null) await allSeen(database, lanes);
  const samples: [string, Sample][] = [];
  let n = 0;
  for (const [kind, [name, way]] of Object.entries(WAYS)) {
    const wanted = SAMPLES[kind as keyof typeof WAYS];
    const count = Math.min(wanted.most, Math.ceil(lanes / wanted.lanes));
    samples.push([name, await sampleWay(stage, way, n, count)]);
    n += count;
  }
  await app.close();
  return samples;
}

async function sampleWay(stage: Stage, way: Way, first: number, count: number): Promise<Sample> {
  const latencies = new Float64Array(count);
  const claims: number[] = [];
  for (let index = 0; index < count; index++) {
    await resetCounts(stage.database);
    const start = stage.started(first + index, way === failOnce ? 2 : 1);
    const readyAt = await way(stage, first + index);
    latencies[index] = (await start) - readyAt;
    claims.push((await countClaims(stage.database)).claims);
    await gone(stage, first + index);
  }
  const figures = { 'claims to the start, mean': mean(claims), 'at most': Math.max(...claims) };
  return { jobs: count, perSecond: null, latency: percentilesOf(latencies), usage: null, figures };
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

const keyOf = (n: number): string => `ready ${n}`;

async function spawnElsewhere({ sender }: Stage, n: number): Promise<number> {
  const calledAt = clockMs();
  await sender.jobs.spawn(Letters, 'send', payloadOf(n), { key: keyOf(n), ordered: true });
  return calledAt;
}

/** As a notification is lost: the row is there, and nobody was told. */
async function insertSilently({ database }: Stage, n: number): Promise<number> {
  await database.admin.query(
    `INSERT INTO nestmq.job (id, position, channel, key, name, payload)
    SELECT id, id, $1, $2, 'Letters.send', $3 FROM nextval('nestmq.job_id_seq') AS id`,
    [CHANNEL, keyOf(n), JSON.stringify(payloadOf(n))],
  );
  return clockMs();
}

/** Its first run fails. What was claimed before the end of the backoff counts as well. */
async function failOnce({ database, sender, started }: Stage, n: number): Promise<number> {
  const failed = started(n, 1);
  await sender.jobs.spawn(
    Letters,
    'send',
    { ...payloadOf(n), subject: FAILING },
    {
      ...{ key: keyOf(n), ordered: true, backoff: { type: 'fixed', base: BACKOFF_MS, jitter: 0 } },
    },
  );
  const failedAt = await failed;
  await resetCounts(database);
  return failedAt + BACKOFF_MS;
}

/** Tells of the start of a run, once; refuses a job that starts twice under one attempt. */
function watchStarts(app: BenchApplication): Stage['started'] {
  const awaited = new Map<string, (at: number) => void>();
  const seen = new Set<string>();
  app.letters.onJob = ({ payload, attempt }) => {
    const { n, subject }: Payload = payload;
    const run = `${n}/${attempt}`;
    if (seen.has(run)) throw new Error(`Job ${n} has started twice as attempt ${attempt}.`);
    seen.add(run);
    awaited.get(run)?.(clockMs());
    if (subject === FAILING && attempt === 1) throw new Error(FAILING);
  };
  return (n, attempt) => new Promise((resolve) => awaited.set(`${n}/${attempt}`, resolve));
}

/** Two jobs in each lane: the head, and one that is due. */
async function block({ admin }: BenchDatabase, head: string, lanes: number): Promise<void> {
  const insert = (facts: string): Promise<unknown> =>
    admin.query(
      `INSERT INTO nestmq.job (id, position, channel, key, name, attempt, seq, due_at, held_until, payload)
      SELECT id, id, $1, 'blocked ' || n, ${facts}, '{"n": 0}'
      FROM (SELECT nextval('nestmq.job_id_seq') AS id, n FROM generate_series(1, $2::integer) AS n) AS job`,
      [CHANNEL, lanes],
    );
  await insert(head);
  await insert(`'Letters.send', 0, NULL::bigint, clock_timestamp(), NULL::timestamptz`);
  await admin.query('VACUUM nestmq.job');
}

/** The runner has come by every blocked lane. */
async function allSeen({ admin }: BenchDatabase, lanes: number): Promise<void> {
  for (;;) {
    const { rows } = await admin.query<{ seen: number }>(
      'SELECT count(*)::integer AS seen FROM nestmq.lane WHERE head_position IS NOT NULL',
    );
    if (rows[0]!.seen >= lanes) return;
    await sleep(20);
  }
}

/** The job is settled and its lane at rest, so that none of its claims counts for the next one. */
async function gone({ database: { admin } }: Stage, n: number): Promise<void> {
  for (;;) {
    const { rowCount } = await admin.query(
      `SELECT FROM nestmq.lane
      WHERE channel = $1 AND key = $2 AND head_position IS NULL
        AND NOT EXISTS (SELECT FROM nestmq.lease WHERE lease.runner_id = lane.runner_id AND lease.number = lane.lease)`,
      [CHANNEL, keyOf(n)],
    );
    if (rowCount === 1) return;
    await sleep(5);
  }
}
