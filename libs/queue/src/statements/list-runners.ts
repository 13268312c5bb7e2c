import { leasedJobs } from './leased-jobs.js';
import { defineStatement } from './statement.js';

/** A process that runs jobs, as it has entered itself. */
export interface RunnerRecord {
  /** Another one at every start of the process. */
  readonly id: string;
  /** The `runnerId` of its module, `null` when it has none. */
  readonly name: string | null;
  /** Name of the machine. */
  readonly host: string;
  /** Its process there. */
  readonly pid: number;
  /** Version of nestmq. */
  readonly version: string | null;
  /** When it entered. */
  readonly startedAt: Date;
  /** Its last heartbeat. */
  readonly beatAt: Date;
  /** `stopping`: it shuts down; `dead`: it gave no sign for longer than `leaseMs`, and its jobs are rescued. */
  readonly state: 'alive' | 'stopping' | 'dead';
  /** How many jobs it runs at once at most. */
  readonly concurrency: number | null;
  /** Channels that it serves, `null`: every one. */
  readonly channels: readonly string[] | null;
  /** Names of the jobs that it has a handler for. */
  readonly names: readonly string[];
  /** Jobs that are leased to it now: those that run, and those taken ahead. */
  readonly running: number;
}

/** All runners, the longest there first. Reads the leases, of which there are a few for each runner. Indexes `runner_pkey`, `job_pkey`, `lane_pkey`. */
export const listRunners = defineStatement<Record<string, never>, RunnerRecord>({
  name: 'list_runners_v1',
  text: (schema) => `
  WITH leased AS MATERIALIZED (${leasedJobs(schema)}
  )
  SELECT id, name, host, pid, version, started_at, beat_at,
    CASE WHEN dead_at IS NOT NULL THEN 'dead' WHEN stopping THEN 'stopping' ELSE 'alive' END,
    concurrency, to_json(channels), to_json(names), (
      SELECT count(*) FROM leased WHERE leased.runner_id = runner.id
    )
  FROM ${schema}.runner
  ORDER BY started_at, id`,
  values: () => [],
  row: ([id, name, host, pid, version, startedAt, beatAt, state, concurrency, channels, names, running]) => ({
    id: id as string,
    name: name as string | null,
    host: host as string,
    pid: pid as number,
    version: version as string | null,
    startedAt: startedAt as Date,
    beatAt: beatAt as Date,
    state: state as RunnerRecord['state'],
    concurrency: concurrency as number | null,
    channels: channels as string[] | null,
    names: names as string[],
    running: Number(running),
  }),
});

/** A runner of the same name that is not known to be dead. */
export interface Incarnation {
  readonly id: string;
  readonly beat: number;
  readonly process: string | null;
}

/** Runners that have a name, but for one. Index `runner_pkey`. */
export const findIncarnations = defineStatement<{ name: string; runner: string }, Incarnation>({
  name: 'find_incarnations_v1',
  text: (schema) => `
  SELECT id, beat, process FROM ${schema}.runner WHERE name = $1 AND id <> $2 AND dead_at IS NULL ORDER BY id`,
  values: ({ name, runner }) => [name, runner],
  row: ([id, beat, process]) => ({ id: id as string, beat: Number(beat), process: process as string | null }),
});
