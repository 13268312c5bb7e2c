import type { JobId } from '../job/job.js';
import { cancelRequests, cancelRequestsOf, type CancelRequest } from './cancel-jobs.js';
import { freeLanes } from './lanes.js';
import { defineStatement } from './statement.js';

/** What a runner tells of itself when it enters the fleet. */
export interface RunnerCard {
  readonly host: string;
  readonly pid: number;
  /** Which process of which machine it is, exactly; `null` where the system does not tell. */
  readonly process: string | null;
  /** Its stable name, `null`: it has none. */
  readonly name: string | null;
  /** Version of the package. */
  readonly version: string | null;
  /** How many jobs it runs at once. */
  readonly concurrency: number;
  /** Channels that it serves, `null`: every one. */
  readonly channels: readonly string[] | null;
  /** Names that its handlers have. */
  readonly names: readonly string[];
}

export interface RegisterParams extends Pick<RunnerCard, 'host' | 'pid'>, Partial<Omit<RunnerCard, 'host' | 'pid'>> {
  readonly runner: string;
}

/**
 * Enters a runner before its first claim: leases of a runner without a row are taken for a dead one's. Sent again when its
 * answer was lost; had the runner been declared dead meanwhile, the first heartbeat tells.
 */
export const registerRunner = defineStatement<RegisterParams, true>({
  name: 'register_runner_v2',
  text: (schema) => `
  INSERT INTO ${schema}.runner (id, host, pid, process, name, version, concurrency, channels, names)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
  ON CONFLICT (id) DO UPDATE SET beat_at = clock_timestamp()
  RETURNING true`,
  values: (p) => [p.runner, p.host, p.pid, p.process, p.name, p.version, p.concurrency, p.channels, p.names ?? []],
  row: () => true,
});

export interface HeartbeatParams {
  readonly runner: string;
  /** Leases that this runner holds, or has asked for and not yet got. */
  readonly held: readonly number[];
  /** The highest number given to a lease so far. */
  readonly highest: number;
  /** Jobs whose handlers have begun. */
  readonly started: readonly JobId[];
}

export interface Peer {
  readonly id: string;
  /** Its counter. */
  readonly beat: number;
  /** How long ago its last heartbeat was, by the database's clock. */
  readonly ageMs: number;
  /** It runs the same jobs as the one that asks: it has the same names and channels, and does not stop. */
  readonly alike: boolean;
}

/** Id, counter, age and whether it is alike: `null` when the one that asks has been removed. */
type PeerTuple = [string, number, number, boolean | null];

export interface HeartbeatRow {
  /** `false`: somebody has declared this runner dead, all of its leases are lost. */
  readonly alive: boolean;
  /** Numbers of held leases that are gone. In-flight ones may be among them: they do not exist yet. */
  readonly missing: readonly number[];
  /** Leases this runner did not know of, given back: the answer to a claim was lost. */
  readonly dropped: number;
  /** Every other living runner. */
  readonly peers: readonly Peer[];
  /** Runners that are dead, or were removed, and still have leases. */
  readonly orphaned: boolean;
  /** Runs whose lease had an end of its own, which has passed. */
  readonly expired: boolean;
  /** Running jobs that are to stop, of whatever runner. */
  readonly cancelRequests: readonly CancelRequest[];
}

/**
 * Keeps every lease of a process alive with one small statement: a counter goes up. It also records which jobs have
 * started, gives back leases whose claim was answered to nobody, and brings what the process must know: lost leases and
 * the counters of the others, and running jobs that are to stop. Only numbers up to `highest` are judged, so that a list which is older than a claim
 * cannot drop that claim's lease. The first end of a lease is asked for by its order: then no statistics make the planner
 * read all jobs. Indexes `runner_pkey`, `lease_pkey`, `job_lease_end`, `job_cancel`. Modelled on the beat counters of Oban Pro's producers.
 */
export const heartbeat = defineStatement<HeartbeatParams, HeartbeatRow>({
  name: 'heartbeat_v5',
  text: (schema) => `
  WITH me AS (
    UPDATE ${schema}.runner
    SET beat = beat + 1, beat_at = clock_timestamp(), running = $4::bigint[]
    WHERE id = $1 AND dead_at IS NULL
    RETURNING id
  ), dropped AS (
    DELETE FROM ${schema}.lease
    WHERE runner_id = $1 AND number <= $3 AND number <> ALL ($2::integer[])
    RETURNING runner_id, number, channel, keys
  ), dropped_lane AS (
    SELECT DISTINCT channel, key, runner_id, number AS lease, NULL::bigint AS last_seq, NULL::bigint AS blocker
    FROM dropped, unnest(keys) AS key
  ), freed AS (${freeLanes(schema, 'dropped_lane')}
  )
  SELECT
    EXISTS (SELECT FROM me),
    (SELECT json_agg(held) FROM unnest($2::integer[]) AS held
      WHERE NOT EXISTS (SELECT FROM ${schema}.lease WHERE runner_id = $1 AND number = held)),
    (SELECT count(*) FROM dropped),
    (SELECT json_agg(json_build_array(
        peer.id::text, peer.beat, date_part('epoch', clock_timestamp() - peer.beat_at) * 1000,
        NOT peer.stopping AND peer.names = own.names AND peer.channels IS NOT DISTINCT FROM own.channels
      ))
      FROM ${schema}.runner AS peer LEFT JOIN ${schema}.runner AS own ON own.id = $1
      WHERE peer.id <> $1 AND peer.dead_at IS NULL),
    EXISTS (
      SELECT FROM ${schema}.lease
      WHERE runner_id <> $1
        AND NOT EXISTS (SELECT FROM ${schema}.runner WHERE runner.id = lease.runner_id AND dead_at IS NULL)
    ),
    (SELECT lease_ends_at <= statement_timestamp() FROM ${schema}.job WHERE lease_ends_at IS NOT NULL ORDER BY lease_ends_at LIMIT 1),
    (${cancelRequests(schema)})`,
  values: ({ runner, held, highest, started }) => [runner, held, highest, started],
  row: ([alive, missing, dropped, peers, orphaned, expired, requests]) => ({
    alive: alive as boolean,
    missing: (missing as number[] | null) ?? [],
    dropped: Number(dropped),
    peers: ((peers as PeerTuple[] | null) ?? []).map(([id, beat, ageMs, alike]) => ({
      id,
      beat,
      ageMs,
      alike: alike === true,
    })),
    orphaned: orphaned as boolean,
    expired: expired === true,
    cancelRequests: cancelRequestsOf(requests),
  }),
});

/** Declares a runner dead whose counter has stood still. A beat in the meantime wins: the counter is another one then. */
export const declareDead = defineStatement<{ runner: string; beat: number }, true>({
  name: 'declare_dead_v1',
  text: (schema) => `
  UPDATE ${schema}.runner SET dead_at = clock_timestamp()
  WHERE id = $1 AND beat = $2 AND dead_at IS NULL
  RETURNING true`,
  values: ({ runner, beat }) => [runner, beat],
  row: () => true,
});

/** Marks the start of a shutdown: what does not end in time gets its attempt back from the rescuer. */
export const markStopping = defineStatement<{ runner: string }, true>({
  name: 'mark_stopping_v1',
  text: (schema) => `UPDATE ${schema}.runner SET stopping = true WHERE id = $1 RETURNING true`,
  values: ({ runner }) => [runner],
  row: () => true,
});

/** Removes a runner that has gone and left no lease, and dead ones whose leases are all rescued. */
export const forgetRunners = defineStatement<{ runner: string | null }, string>({
  name: 'forget_runners_v1',
  text: (schema) => `
  DELETE FROM ${schema}.runner
  WHERE (id = $1 OR dead_at IS NOT NULL)
    AND NOT EXISTS (SELECT FROM ${schema}.lease WHERE lease.runner_id = runner.id)
  RETURNING id`,
  values: ({ runner }) => [runner],
  row: ([id]) => id as string,
});
