import { setTimeout as sleep } from 'node:timers/promises';
import { PLAIN } from '../load/jobs.js';
import { readCounts, resetCounts } from '../measure/statements-counted.js';
import type { Part } from '../processes/player.js';
import type { Sample } from '../report/rows.js';
import { endStages, openStage, type Stage } from '../stage.js';
import { takeTurns, type Workload } from '../workload.js';

const PROCESSES = 20;

export const idle: Workload = {
  name: 'idle',
  description: `what ${PROCESSES} processes without work ask of the server, a second`,
  defaultRepeat: 1,
  async run(bench) {
    const { settings } = bench;
    for (const entry of bench.systems) {
      const workers = Math.min(PROCESSES, settings.processes);
      const stage = await openStage(bench, entry, { workers, countStatements: true });
      const part: Part = { shape: PLAIN, ordered: false, work: { kind: 'plain', takesMs: 0 } };
      await Promise.all(stage.workers.map(({ player }) => player.open(part)));
      await takeTurns(bench, [
        {
          system: entry.name,
          name: `${workers} processes`,
          run: (measured) => watch(stage, Math.min(settings.seconds ?? 20, measured ? Infinity : 5)),
        },
      ]);
      await endStages([stage]);
    }
  },
};

async function watch(stage: Stage, seconds: number): Promise<Sample> {
  const { database } = stage;
  if (database !== null) await resetCounts(database);
  const stop = await stage.startMeter();
  await sleep(seconds * 1_000);
  const { nodeMicros, serverMicros, walBytes } = await stop();
  return {
    jobs: 0,
    perSecond: null,
    latency: null,
    usage: null,
    figures: {
      ...(database && (await statementsOf(stage, seconds))),
      'Node CPU ms': nodeMicros / 1_000 / seconds,
      ...(serverMicros !== null && { 'server CPU ms': serverMicros / 1_000 / seconds }),
      ...(walBytes !== null && { 'WAL bytes': walBytes / seconds }),
    },
  };
}

async function statementsOf({ database }: Stage, seconds: number): Promise<Record<string, number>> {
  const { working, framing, transactions } = await readCounts(database!);
  const { rows } = await database!.admin.query<{ count: number }>(
    'SELECT count(*)::int AS count FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()',
  );
  return {
    statements: working / seconds,
    'BEGIN, SET, COMMIT': framing / seconds,
    transactions: transactions / seconds,
    connections: rows[0]!.count,
  };
}
