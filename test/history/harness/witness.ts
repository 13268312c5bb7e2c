import type pg from 'pg';
import type { Event, EventOf } from '../event.js';

/** What is written down of a change, and when. */
interface Witness {
  readonly type: string;
  readonly of: string;
  readonly when?: string;
  /** Arguments of `jsonb_build_object`. */
  readonly facts: string;
}

const LEASED = {
  type: 'leased',
  facts: `'runner', NEW.runner_id::text, 'lease', NEW.number, 'jobs',
      (SELECT jsonb_agg(jsonb_build_object('id', id::text, 'run', run)) FROM unnest(NEW.job_ids, NEW.runs) AS job (id, run))`,
} as const;

const WITNESSES: readonly Witness[] = [
  {
    type: 'spawned',
    of: 'INSERT ON nestmq.job',
    facts: `'id', NEW.id::text, 'call', NEW.payload->>'call', 'index', (NEW.payload->>'index')::integer,
      'lane', CASE WHEN NEW.position IS NOT NULL THEN NEW.channel || '/' || NEW.key END, 'maxAttempts', NEW.max_attempts`,
  },
  {
    type: 'requeued',
    of: 'UPDATE ON nestmq.job',
    when: 'OLD.run <> NEW.run',
    facts: `'id', OLD.id::text, 'run', OLD.run, 'lapsed', coalesce(OLD.lease_ends_at <= clock_timestamp(), false)`,
  },
  { type: 'deleted', of: 'DELETE ON nestmq.job', facts: `'id', OLD.id::text, 'run', OLD.run, 'seq', OLD.seq` },
  {
    type: 'finished',
    of: 'INSERT ON nestmq.finished_job',
    facts: `'id', NEW.id::text, 'state', NEW.state, 'seq', NEW.seq`,
  },
  { ...LEASED, of: 'INSERT ON nestmq.lease' },
  { ...LEASED, of: 'UPDATE OF job_ids ON nestmq.lease' },
  {
    type: 'unleased',
    of: 'DELETE ON nestmq.lease',
    facts: `'runner', OLD.runner_id::text, 'lease', OLD.number`,
  },
  {
    type: 'stopping',
    of: 'UPDATE ON nestmq.runner',
    when: 'NEW.stopping AND NOT OLD.stopping',
    facts: `'runner', NEW.id::text`,
  },
  {
    type: 'gone',
    of: 'UPDATE ON nestmq.runner',
    when: 'OLD.dead_at IS NULL AND NEW.dead_at IS NOT NULL',
    facts: `'runner', NEW.id::text`,
  },
  {
    type: 'gone',
    of: 'DELETE ON nestmq.runner',
    when: 'OLD.dead_at IS NULL',
    facts: `'runner', OLD.id::text`,
  },
];

/**
 * Makes the log of a run, in the database that the run is about, so that every event has its place in the order of that
 * one. What the queue's own transactions do is written down by triggers: it is in the log when they commit, and only then.
 */
export async function installWitness(client: pg.Client): Promise<void> {
  await client.query(`
    CREATE SCHEMA history;
    CREATE SEQUENCE history.tick;
    CREATE TABLE history.event (
      tick bigint NOT NULL DEFAULT nextval('history.tick'),
      xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
      snapshot text NOT NULL DEFAULT pg_current_snapshot()::text,
      type text NOT NULL,
      facts jsonb NOT NULL
    );
  `);
  for (const [index, witness] of WITNESSES.entries()) await client.query(triggerOf(witness, `witness_${index}`));
}

const triggerOf = ({ type, of, when, facts }: Witness, name: string): string => `
  CREATE FUNCTION history.${name}() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    INSERT INTO history.event (type, facts) VALUES ('${type}', jsonb_build_object(${facts}));
    RETURN NULL;
  END $$;
  CREATE TRIGGER ${name} AFTER ${of} FOR EACH ROW ${when ? `WHEN (${when})` : ''} EXECUTE FUNCTION history.${name}();
`;

/** What a process writes down itself, each by a transaction of its own. */
export const LOG = 'INSERT INTO history.event (type, facts) VALUES ($1, $2)';

interface Row {
  readonly tick: string;
  readonly xid: string;
  readonly snapshot: string;
  readonly type: string;
  readonly facts: Record<string, unknown>;
}

/** Rows of one answer. */
const CHUNK = 20_000;

/** Types whose place among transactions the rules ask for, and what of it. */
const WITH_XID: ReadonlySet<string> = new Set(['spawned', 'effect', 'unleased', 'requeued', 'settled']);
const WITH_SNAPSHOT: ReadonlySet<string> = new Set(['call', 'start', 'settled']);

/** Reads the log, in order. */
export async function readLog(client: pg.Client): Promise<Event[]> {
  const finished = new Map<string, { state: string; seq: number | null }>();
  const dead = await client.query<Row>(`SELECT xid, facts FROM history.event WHERE type = 'finished'`);
  for (const { xid, facts } of dead.rows) finished.set(`${xid}/${String(facts['id'])}`, facts as never);
  await client.query('CREATE INDEX IF NOT EXISTS event_tick ON history.event (tick)');
  const events: Event[] = [];
  for (let after = '0'; ;) {
    const { rows } = await client.query<Row>(
      `SELECT tick, xid, snapshot, type, facts FROM history.event WHERE tick > $1 ORDER BY tick LIMIT ${CHUNK}`,
      [after],
    );
    for (const row of rows) if (row.type !== 'finished') events.push(eventOf(row, finished));
    if (rows.length < CHUNK) return events;
    after = rows.at(-1)!.tick;
  }
}

function eventOf(row: Row, finished: ReadonlyMap<string, { state: string; seq: number | null }>): Event {
  const type = row.type === 'deleted' ? 'settled' : row.type;
  return {
    tick: Number(row.tick),
    type,
    ...(row.type === 'deleted' ? settled(row, finished) : row.facts),
    ...(WITH_XID.has(type) && { xid: Number(row.xid) }),
    ...(WITH_SNAPSHOT.has(type) && { snapshot: row.snapshot }),
  } as Event;
}

/** A job that has left its table: kept by the same transaction as what it became, or completed and not kept. */
function settled(
  { xid, facts }: Row,
  finished: ReadonlyMap<string, { state: string; seq: number | null }>,
): Pick<EventOf<'settled'>, 'outcome' | 'seq'> {
  const kept = finished.get(`${xid}/${String(facts['id'])}`);
  const seq = (facts['seq'] ?? kept?.seq ?? null) as number | null;
  return { ...facts, outcome: kept?.state === 'dead' ? 'dead' : 'completed', seq };
}
