import type pg from 'pg';
import type { Position } from '../../libs/queue/src/job/job.js';

const RUNNER = '1001';

/** Jobs of a lease. */
const LEASED = 400;

/** What a runner knows when it asks. */
export interface FilledTables {
  readonly runner: string;
  /** Jobs of its lease with number 1. */
  readonly held: readonly string[];
  /** Where its last claim ended. */
  readonly position: Position;
  /** Lanes that it has leased, with the number of the lease. */
  readonly lanes: readonly { readonly key: string; readonly lease: number }[];
  /** Behind the ordered jobs of blocked lanes. */
  readonly arrivals: Position;
}

const FINISHED = 1_000_000;
const LIVE = 100_000;

/** Lanes of `READY_JOBS` each whose turn it is, lanes whose dead head waits for a person, and lanes that nobody knows of. */
const [READY, BLOCKED, NEW] = [1_000, 20_000, 5_000];

const READY_JOBS = 20;

/** Jobs of one lane. */
const LONG = 10_000;

/** Lanes of which the runner has the first job. */
const LEASED_LANES = 32;

/**
 * A queue in the middle of its work. Of the live jobs 60 000 are in one channel, due; the others in 40 channels, a
 * quarter with keys, a quarter due in the future. 20 leases of 400 are held by two runners, and a dead one has left
 * 10 suspects. In a channel of their own there are lanes, most of them blocked, and a long one.
 */
export async function fillTables(admin: pg.Client): Promise<FilledTables> {
  for (const table of ['job', 'lane', 'lease', 'finished_job', 'runner'])
    await admin.query(`ALTER TABLE nestmq.${table} SET (autovacuum_enabled = off)`); // it would ANALYZE too early
  await admin.query(`
    INSERT INTO nestmq.job (channel, key, name, due_at, suspect, payload)
    SELECT
      CASE WHEN n <= 60000 THEN 'letters' ELSE 'channel ' || n % 40 END,
      CASE WHEN n > 60000 AND n % 4 = 0 THEN 'key ' || n % 500 ELSE '' END,
      'Letters.send',
      clock_timestamp() + CASE WHEN n > 60000 AND n % 4 = 1 THEN interval '1 hour' ELSE interval '-1 hour' END
        + n * interval '1 microsecond',
      n > ${LIVE} - 10,
      json_build_object('n', n, 'to', 'somebody@example.org')
    FROM generate_series(1, ${LIVE}) AS n`);
  await admin.query(`
    INSERT INTO nestmq.finished_job
      (id, state, attempt, priority, due_at, created_at, finished_at, delete_at, channel, key, name, payload)
    SELECT
      n + 1000000, CASE WHEN n % 1000 = 0 THEN 'dead' ELSE 'completed' END, 1, 0, at, at, at,
      CASE WHEN n % 1000 <> 0 THEN at + interval '30 days' END,
      'channel ' || n % 40, '', 'Letters.send', json_build_object('n', n)
    FROM generate_series(1, ${FINISHED}) AS n, LATERAL (SELECT clock_timestamp() - n * interval '3 seconds' AS at) AS time`);
  await admin.query(`INSERT INTO nestmq.runner (id, host, pid) VALUES (${RUNNER}, 'here', 1), (1002, 'there', 2)`);
  await admin.query(`
    INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, started, hi_due_at, hi_id)
    SELECT
      ${RUNNER} + number % 2, number / 2 + 1, 'letters', 0, array_agg(id ORDER BY id), array_agg(run ORDER BY id), 32,
      max(due_at), max(id)
    FROM (SELECT *, ((id - 1) / ${LEASED})::integer AS number FROM nestmq.job WHERE id <= 8000) AS leased
    GROUP BY number`);
  const { rows } = await admin.query<{ micros: string; id: string }>(
    `SELECT (extract(epoch FROM hi_due_at) * 1000000)::bigint AS micros, hi_id AS id FROM nestmq.lease ORDER BY hi_due_at DESC LIMIT 1`,
  );
  const [last] = rows;
  const lanes = await fillLanes(admin);
  return {
    runner: RUNNER,
    held: Array.from({ length: LEASED }, (_, index) => String(index + 1)),
    position: { micros: Number(last!.micros), id: last!.id },
    ...lanes,
  };
}

/** Ordered jobs in the order blocked, ready, long, leased, new: what a claim of arrivals meets first is not for it. */
async function fillLanes(admin: pg.Client): Promise<Pick<FilledTables, 'lanes' | 'arrivals'>> {
  await insertOrdered(admin, 'blocked', BLOCKED, 2);
  await insertOrdered(admin, 'ready', READY, READY_JOBS);
  await insertOrdered(admin, 'long', 1, LONG);
  await insertOrdered(admin, 'leased', LEASED_LANES, READY_JOBS);
  const { rows } = await admin.query<{ micros: string; id: string }>(
    `SELECT (extract(epoch FROM due_at) * 1000000)::bigint AS micros, id FROM nestmq.job WHERE position IS NOT NULL ORDER BY due_at DESC, id DESC LIMIT 1`,
  );
  await insertOrdered(admin, 'new', NEW, 1);
  await admin.query(`
    INSERT INTO nestmq.lane (channel, key, name, last_seq, blocked_by, runner_id, lease, head_position, ready_at)
    SELECT
      channel, key, name, CASE WHEN key LIKE 'leased%' THEN 0 ELSE 7 END,
      CASE WHEN key LIKE 'blocked%' THEN 1 END,
      CASE WHEN key LIKE 'leased%' THEN ${RUNNER} END, CASE WHEN key LIKE 'leased%' THEN 500 END,
      CASE WHEN key ~ '^(ready|long)' THEN min(position) END, CASE WHEN key ~ '^(ready|long)' THEN min(due_at) END
    FROM nestmq.job
    WHERE position IS NOT NULL AND key NOT LIKE 'new%'
    GROUP BY channel, key, name`);
  await admin.query(`
    INSERT INTO nestmq.lease (runner_id, number, channel, priority, job_ids, runs, keys, seqs, started, hi_due_at, hi_id)
    SELECT ${RUNNER}, 500, channel, 0, array_agg(id), array_agg(run), array_agg(key), array_agg(1), 32, 'epoch', 0
    FROM (SELECT DISTINCT ON (key) * FROM nestmq.job WHERE key LIKE 'leased%' ORDER BY key, position) AS head
    GROUP BY channel`);
  return {
    lanes: Array.from({ length: LEASED_LANES }, (_, index) => ({ key: `leased ${index}`, lease: 500 })),
    arrivals: { micros: Number(rows[0]!.micros), id: rows[0]!.id },
  };
}

async function insertOrdered(admin: pg.Client, key: string, lanes: number, jobsOfEach: number): Promise<void> {
  await admin.query(
    `INSERT INTO nestmq.job (id, position, channel, key, name, due_at, payload)
    SELECT id, id, 'orders', $1 || ' ' || n % $2::integer, 'Letters.send', clock_timestamp() - interval '1 minute',
      json_build_object('n', n, 'to', 'somebody@example.org')
    FROM (SELECT nextval('nestmq.job_id_seq') AS id, n FROM generate_series(0, $2::integer * $3::integer - 1) AS n) AS job`,
    [key, lanes, jobsOfEach],
  );
}
