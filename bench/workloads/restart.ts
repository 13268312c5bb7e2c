import { setTimeout as sleep } from 'node:timers/promises';
import { PLAIN } from '../load/jobs.js';
import { readCounts, resetCounts } from '../measure/statements-counted.js';
import type { Part } from '../processes/player.js';
import type { Sample } from '../report/rows.js';
import type { BenchDatabase } from '../servers/postgres.js';
import { endStages, openStage, type Stage } from '../stage.js';
import { takeTurns, type Workload } from '../workload.js';

const PROCESSES = 20;

/** Long enough for what is done now and then to come round: a herd that starts together also polls together. */
const SECONDS = 30;

const LOOK_EVERY_MS = 250;

export const restart: Workload = {
  name: 'restart',
  description: `${PROCESSES} processes start at the same moment, with nothing to do: what they ask of the server in ${SECONDS} seconds`,
  defaultRepeat: 1,
  async run(bench) {
    const { settings } = bench;
    for (const entry of bench.systems.filter(({ server }) => server === 'postgres')) {
      const workers = Math.min(PROCESSES, settings.processes);
      const stage = await openStage(bench, entry, { workers, countStatements: true });
      await takeTurns(bench, [
        {
          system: entry.name,
          name: `${workers} processes`,
          run: (measured) => startTogether(stage, Math.min(settings.seconds ?? SECONDS, measured ? Infinity : 1)),
        },
      ]);
      await endStages([stage]);
    }
  },
};

async function startTogether({ database, workers }: Stage, seconds: number): Promise<Sample> {
  const part: Part = { shape: PLAIN, ordered: false, work: { kind: 'plain', takesMs: 0 } };
  await resetCounts(database!);
  const ended = performance.now() + seconds * 1_000;
  const opened = Promise.all(workers.map(({ player }) => player.open(part)));
  const seen: Moment[] = [await look(database!)];
  while (performance.now() < ended) {
    await sleep(LOOK_EVERY_MS);
    seen.push(await look(database!));
  }
  await opened;
  await Promise.all(workers.map(({ player }) => player.close()));
  return {
    jobs: 0,
    perSecond: null,
    latency: null,
    usage: null,
    figures: {
      'statements a process': seen.at(-1)!.statements / workers.length,
      'most in a second': busiestSecond(seen),
      'most backends at work': Math.max(...seen.map(({ active }) => active)),
      'most in a second, from the 10th on': busiestSecond(seen.filter(({ at }) => at >= seen[0]!.at + 10_000)),
    },
  };
}

interface Moment {
  readonly at: number;
  /** Since the start. */
  readonly statements: number;
  /** Backends that run a statement, or wait for a lock. */
  readonly active: number;
}

async function look(database: BenchDatabase): Promise<Moment> {
  const { working } = await readCounts(database);
  const { rows } = await database.admin.query<{ active: number }>(
    `SELECT count(*)::int AS active FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active' AND query !~ 'pg_stat_statements'`,
  );
  return { at: performance.now(), statements: working, active: rows[0]!.active };
}

function busiestSecond(seen: readonly Moment[]): number {
  const counts = seen.map(({ at, statements }) => {
    const before = seen.findLast((earlier) => earlier.at <= at - 1_000);
    return before === undefined ? 0 : ((statements - before.statements) * 1_000) / (at - before.at);
  });
  return Math.max(0, ...counts);
}
