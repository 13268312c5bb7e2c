import pg from 'pg';
import { OwnTransactions } from './transactions.js';
import { POOL_SIZE, type Client, type Payload, type System, type Work } from './system.js';

/**
 * The limit to measure against: the queue that one writes by hand in an afternoon. `UPDATE … RETURNING` with SKIP LOCKED
 * claims, one DELETE of all that has gathered settles. No retries, no fencing, no rescue, no fairness.
 */
const CREATE = `
  CREATE SCHEMA raw;
  CREATE TABLE raw.job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel text NOT NULL,
    priority smallint NOT NULL DEFAULT 0,
    run_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL DEFAULT 0,
    locked_at timestamptz,
    payload json
  );
  CREATE INDEX raw_job_free ON raw.job (channel, priority, run_at, id) WHERE locked_at IS NULL`;

/** The notification goes out with the insert's commit, in the same round trip. */
const notifying = (insert: string): string => `WITH inserted AS (${insert}) SELECT pg_notify('raw_job', 'letters')`;

const INSERT_MANY = {
  name: 'raw_insert_many',
  text: notifying(`
    INSERT INTO raw.job (channel, payload, run_at)
    SELECT 'letters', value -> 'payload', clock_timestamp() + (value ->> 'delaySeconds')::float * interval '1 second'
    FROM json_array_elements($1::json)`),
};

const INSERT_ONE = {
  name: 'raw_insert_one',
  text: notifying(`INSERT INTO raw.job (channel, payload) VALUES ('letters', $1::json)`),
};

const CLAIM = {
  name: 'raw_claim',
  text: `
  UPDATE raw.job SET locked_at = clock_timestamp(), attempts = attempts + 1
  WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM raw.job
    WHERE channel = 'letters' AND priority = 0 AND run_at <= statement_timestamp() AND locked_at IS NULL
    ORDER BY run_at, id
    LIMIT $1
    FOR UPDATE SKIP LOCKED
  ))
  RETURNING id, payload`,
};

const SETTLE = { name: 'raw_settle', text: `DELETE FROM raw.job WHERE id = ANY ($1::bigint[])` };

export const rawSql: System = {
  install: async ({ postgres }) => {
    const client = await connect(postgres);
    await client.query(CREATE);
    await client.end();
  },

  open: async ({ postgres }, { work }): Promise<Client> => {
    const pool = new pg.Pool({ connectionString: postgres, max: POOL_SIZE });
    const transactions = new OwnTransactions(postgres, (manager, { payload }) =>
      manager.query(INSERT_ONE.text, [JSON.stringify(payload)]),
    );
    const runner = work && (await RawRunner.open(postgres, work));
    return {
      send: ({ payload }) => pool.query({ ...INSERT_ONE, values: [JSON.stringify(payload)] }),
      sendMany: (jobs) => pool.query({ ...INSERT_MANY, values: [JSON.stringify(jobs)] }),
      transactions,
      countUnfinished: async () => {
        const { rows } = await pool.query<{ count: number }>('SELECT count(*)::int AS count FROM raw.job');
        return rows[0]!.count;
      },
      clear: async () => void (await pool.query('TRUNCATE raw.job')),
      close: async () => {
        await runner?.close();
        await Promise.all([pool.end(), transactions.close()]);
      },
    };
  },
};

async function connect(connectionString: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString });
  await client.connect();
  return client;
}

/** Jobs that one statement claims, and jobs in hand before the claims pause. */
const BATCH = 500;
const IN_HAND = 2_000;

/** For handlers that write. */
const CONNECTIONS = 8;

/** Claims and settles on two connections that overlap; a third listens. */
class RawRunner {
  private readonly done: string[] = [];
  private inHand = 0;
  private claiming: Promise<void> | null = null;
  private settling: Promise<void> | null = null;
  private mayHaveMore = false;

  private constructor(
    private readonly does: Work,
    private readonly pool: pg.Pool,
    private readonly claimClient: pg.Client,
    private readonly settleClient: pg.Client,
    private readonly listenClient: pg.Client,
  ) {}

  static async open(url: string, work: Work): Promise<RawRunner> {
    const [claim, settle, listen] = await Promise.all([connect(url), connect(url), connect(url)]);
    const pool = new pg.Pool({ connectionString: url, max: CONNECTIONS });
    const runner = new RawRunner(work, pool, claim, settle, listen);
    listen.on('notification', () => runner.wake());
    await listen.query('LISTEN raw_job');
    runner.wake();
    return runner;
  }

  /** Ends when nothing is being claimed or settled. */
  async close(): Promise<void> {
    while (this.claiming !== null || this.settling !== null) await Promise.all([this.claiming, this.settling]);
    await Promise.all([this.pool.end(), this.claimClient.end(), this.settleClient.end(), this.listenClient.end()]);
  }

  private wake(): void {
    this.mayHaveMore = true;
    this.claiming ??= this.claimAll().finally(() => (this.claiming = null));
  }

  private async claimAll(): Promise<void> {
    while (this.mayHaveMore && this.inHand < IN_HAND) {
      this.mayHaveMore = false;
      const { rows } = await this.claimClient.query<{ id: string; payload: Payload }>({ ...CLAIM, values: [BATCH] });
      this.mayHaveMore ||= rows.length === BATCH;
      this.inHand += rows.length;
      for (const { id, payload } of rows) void this.work(id, payload);
    }
  }

  private async work(id: string, payload: Payload): Promise<void> {
    switch (this.does.kind) {
      case 'plain':
        await this.does.run(payload.n);
        break;
      case 'transactional':
        return this.workInTransaction(id, payload, this.does);
      default:
        throw new Error(`The raw queue has no ${this.does.kind}.`);
    }
    this.done.push(id);
    this.settling ??= this.settleAll().finally(() => (this.settling = null));
  }

  private async workInTransaction(id: string, { n }: Payload, does: Work & { kind: 'transactional' }): Promise<void> {
    const client = await this.pool.connect();
    await client.query('BEGIN');
    await does.run(n, (text, values) => client.query(text, values));
    await client.query({ ...SETTLE, values: [[id]] });
    await client.query('COMMIT');
    client.release();
    this.inHand -= 1;
    if (this.mayHaveMore) this.wake();
  }

  private async settleAll(): Promise<void> {
    await Promise.resolve(); // handlers that end in the same turn go together
    while (this.done.length > 0) {
      const ids = this.done.splice(0);
      await this.settleClient.query({ ...SETTLE, values: [ids] });
      this.inHand -= ids.length;
      if (this.mayHaveMore) this.wake();
    }
  }
}
