import { countUpTo, type StatsCell } from './count-channels.js';
import { unknownName } from './find-channels.js';
import { inArrivals } from './job-columns.js';
import { defineStatement, timeOf } from './statement.js';

export interface CountLanesParams {
  /** Names that this application handles; those that living runners tell of are added. */
  readonly names: readonly string[];
  readonly channels: readonly string[];
  /** Ordered jobs of a channel that are looked at one by one. */
  readonly jobs: number;
  /** Lanes that are looked at where there are more jobs. */
  readonly lanes: number;
  readonly nowMicros: string;
}

/** Counts of the ordered jobs of a channel. */
export interface LaneCounts {
  readonly channel: string;
  readonly counts: Partial<Record<StatsCell, number>>;
  /** Of which there may be more. */
  readonly cut: readonly StatsCell[];
  readonly oldestReadyMs: number | null;
  readonly unknownNames: readonly string[];
}

const HEAD = 'id, run, key, due_at, attempt, name, held_until';

const NOW = timeOf('$5');

/** What a head waits for; `none`: it is held, or a dead job blocks its lane. */
const stateOfHead = (schema: string): string => `CASE
      WHEN (id, run) IN (SELECT id, run FROM leased) THEN 'running'
      WHEN held_until IS NOT NULL OR (
        SELECT true FROM ${schema}.lane WHERE lane.channel = asked.channel AND lane.key = head.key AND lane.blocked_by IS NOT NULL LIMIT 1
      ) THEN 'none'
      WHEN due_at <= ${NOW} THEN 'ready'
      WHEN attempt = 0 THEN 'scheduled'
      ELSE 'retrying' END`;

/** Of jobs with the state of those among them that are heads. */
const tally = (schema: string, jobs: string): string => `
      count(*) FILTER (WHERE state = 'running') AS running,
      count(*) FILTER (WHERE state = 'ready') AS ready,
      count(*) FILTER (WHERE state = 'scheduled') AS scheduled,
      count(*) FILTER (WHERE state = 'retrying') AS retrying,
      date_part('epoch', ${NOW} - min(due_at) FILTER (WHERE state = 'ready')) * 1000 AS oldest,
      (SELECT json_agg(name) FROM (
        SELECT DISTINCT name FROM ${jobs} WHERE state <> 'running' AND held_until IS NULL AND ${unknownName(schema)}
      ) AS few) AS unknown
    FROM ${jobs}
    LIMIT 1`;

/**
 * Ordered jobs: the heads of a channel's lanes are ready, scheduled, waiting for a retry or running; what stands behind
 * them, or behind a dead job, is blocked. A few are looked at one by one. Of more, `job_arrival` tells how many there are, and a
 * loose walk of `job_lane` goes from head to head; where there are too many lanes for that, the first few jobs are looked at after
 * all, for how many stand behind others. Indexes also `lane_blocked`, `lane_pkey`, `lease_pkey`.
 */
export const countLanes = defineStatement<CountLanesParams, LaneCounts>({
  name: 'count_lanes_v1',
  text: (schema) => `
  WITH leased AS MATERIALIZED (
    SELECT held.id, held.run
    FROM ${schema}.lease CROSS JOIN LATERAL unnest(lease.job_ids, lease.runs, lease.keys) AS held (id, run, key)
    WHERE lease.keys IS NOT NULL AND EXISTS (
      SELECT FROM ${schema}.lane
      WHERE lane.channel = lease.channel AND lane.key = held.key AND lane.runner_id = lease.runner_id AND lane.lease = lease.number
    )
  )
  SELECT asked.channel, arrivals.jobs,
    seen.jobs, seen.unheld, seen.running, seen.ready, seen.scheduled, seen.retrying, seen.oldest, seen.unknown,
    walked.lanes, walked.running, walked.ready, walked.scheduled, walked.retrying, walked.oldest, walked.unknown
  FROM unnest($2::text[]) AS asked (channel)
  CROSS JOIN LATERAL (
    SELECT ${countUpTo(`SELECT FROM ${schema}.job WHERE job.channel = asked.channel AND ${inArrivals}`, '$3::bigint + 1')} AS jobs
    OFFSET 0
  ) AS arrivals
  CROSS JOIN LATERAL (
    WITH RECURSIVE head AS (
      (SELECT 1 AS step, ${HEAD}
        FROM ${schema}.job
        WHERE job.channel = asked.channel AND position IS NOT NULL AND arrivals.jobs > $3::bigint
        ORDER BY key, seq, position
        LIMIT 1)
      UNION ALL
      SELECT head.step + 1, next.*
      FROM head CROSS JOIN LATERAL (
        SELECT ${HEAD}
        FROM ${schema}.job
        WHERE job.channel = asked.channel AND position IS NOT NULL AND job.key > head.key
        ORDER BY key, seq, position
        LIMIT 1
      ) AS next
      WHERE head.step <= $4::bigint
    ), told AS MATERIALIZED (
      SELECT due_at, name, held_until, ${stateOfHead(schema)} AS state FROM head
    )
    SELECT count(*) AS lanes, ${tally(schema, 'told')}
  ) AS walked
  CROSS JOIN LATERAL (
    WITH job AS MATERIALIZED (
      SELECT due_at, name, held_until, CASE WHEN is_head THEN ${stateOfHead(schema)} END AS state
      FROM (
        SELECT *, key IS DISTINCT FROM lag(key) OVER (ORDER BY key, seq, position) AS is_head
        FROM (
          SELECT ${HEAD}, seq, position
          FROM ${schema}.job
          WHERE job.channel = asked.channel AND position IS NOT NULL AND (arrivals.jobs <= $3::bigint OR walked.lanes > $4::bigint)
          ORDER BY key, seq, position
          LIMIT $3::bigint + 1
        ) AS first
      ) AS head
    )
    SELECT count(*) AS jobs, count(*) FILTER (WHERE held_until IS NULL) AS unheld, ${tally(schema, 'job')}
  ) AS seen`,
  values: ({ names, channels, jobs, lanes, nowMicros }) => [names, channels, jobs, lanes, nowMicros],
  row: ([channel, arrivals, jobs, unheld, ...columns], params) => {
    const seen = headsOf(columns.slice(0, 6));
    const [lanes, ...ofWalked] = columns.slice(6);
    const walked = headsOf(ofWalked);
    const isMany = Number(arrivals) > params.jobs;
    return {
      channel: channel as string,
      ...(isMany && Number(lanes) <= params.lanes
        ? together(walked, Number(arrivals), ['blocked'])
        : together(seen, Number(unheld), isMany || Number(jobs) > params.jobs ? OF_LANES : [], walked)),
    };
  },
});

const OF_LANES: readonly StatsCell[] = ['ready', 'scheduled', 'retrying', 'blocked'];

interface Heads {
  readonly running: number;
  readonly ready: number;
  readonly scheduled: number;
  readonly retrying: number;
  readonly oldestReadyMs: number | null;
  readonly unknownNames: readonly string[];
}

function headsOf([running, ready, scheduled, retrying, oldest, unknown]: unknown[]): Heads {
  return {
    running: Number(running),
    ready: Number(ready),
    scheduled: Number(scheduled),
    retrying: Number(retrying),
    oldestReadyMs: oldest as number | null,
    unknownNames: (unknown as string[] | null) ?? [],
  };
}

/**
 * @param free jobs that are not held, these heads among them
 * @param more other heads of the same lanes, where neither is all of them
 */
function together(first: Heads, free: number, cut: readonly StatsCell[], more = first): Omit<LaneCounts, 'channel'> {
  const { running, ready, scheduled, retrying } = first;
  const ages = [first, more].flatMap(({ oldestReadyMs }) => oldestReadyMs ?? []);
  return {
    counts: {
      ready: Math.max(ready, more.ready),
      scheduled: Math.max(scheduled, more.scheduled),
      retrying: Math.max(retrying, more.retrying),
      blocked: Math.max(0, free - running - ready - scheduled - retrying),
    },
    cut,
    oldestReadyMs: ages.length === 0 ? null : Math.max(...ages),
    unknownNames: [...first.unknownNames, ...more.unknownNames],
  };
}
