import pg from 'pg';
import type { Payload } from '../payload.js';
import { connect } from '../server.js';

/**
 * The floor to measure against: the queue that one writes by hand in an afternoon. `UPDATE … RETURNING` with SKIP LOCKED
 * claims, one DELETE of all that has gathered settles. No retries, no fencing, no rescue, no fairness.
 */
const CREATE = `
  CREATE SCHEMA IF NOT EXISTS raw;
  CREATE TABLE IF NOT EXISTS raw.job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel text NOT NULL,
    priority smallint NOT NULL DEFAULT 0,
    run_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL DEFAULT 0,
    locked_at timestamptz,
    payload json
  );
  CREATE INDEX IF NOT EXISTS raw_job_free ON raw.job (channel, priority, run_at, id) WHERE locked_at IS NULL`;

const INSERT_MANY = `INSERT INTO raw.job (channel, payload) SELECT 'letters', value FROM json_array_elements($1::json)`;

const INSERT_ONE = `INSERT INTO raw.job (channel, payload) VALUES ('letters', $1::json)`;

/** The notification goes out with the insert's commit, in the same round trip. */
const notifying = (insert: string): string => `WITH inserted AS (${insert}) SELECT pg_notify('raw_job', 'letters')`;

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

export async function createRawTables(admin: pg.Client): Promise<void> {
  await admin.query(CREATE);
}

/** Inserts through a connection of its own; one at a time. */
export class RawSender {
  private constructor(private readonly client: pg.Client) {}

  static async open(url: string): Promise<RawSender> {
    return new RawSender(await connect(url));
  }

  async sendMany(payloads: readonly Payload[], { notify }: { notify: boolean }): Promise<void> {
    await this.insert('raw_insert_many', INSERT_MANY, JSON.stringify(payloads), notify);
  }

  async sendOne(payload: Payload, { notify }: { notify: boolean }): Promise<void> {
    await this.insert('raw_insert_one', INSERT_ONE, JSON.stringify(payload), notify);
  }

  /** The row of the application's own, and the job, in one transaction. */
  async sendWithBusiness(payload: Payload, businessInsert: string): Promise<void> {
    await this.client.query('BEGIN');
    await this.client.query(businessInsert, [payload.n]);
    await this.sendOne(payload, { notify: true });
    await this.client.query('COMMIT');
  }

  close(): Promise<void> {
    return this.client.end();
  }

  private async insert(name: string, text: string, json: string, notify: boolean): Promise<void> {
    await this.client.query(
      notify ? { name: `${name}_notify`, text: notifying(text), values: [json] } : { name, text, values: [json] },
    );
  }
}

/** Jobs that one statement claims, and jobs in hand before the claims pause. */
const BATCH = 500;
const IN_HAND = 2_000;

/** Claims and settles on two connections that overlap; a third listens. */
export class RawRunner {
  onStart: (n: number) => void = () => undefined;
  private readonly done: string[] = [];
  private inHand = 0;
  private claiming: Promise<void> | null = null;
  private settling: Promise<void> | null = null;
  private mayHaveMore = false;

  private constructor(
    private readonly claimClient: pg.Client,
    private readonly settleClient: pg.Client,
    private readonly listenClient: pg.Client,
  ) {}

  static async open(url: string): Promise<RawRunner> {
    const [claim, settle, listen] = await Promise.all([connect(url), connect(url), connect(url)]);
    const runner = new RawRunner(claim, settle, listen);
    listen.on('notification', () => runner.wake());
    await listen.query('LISTEN raw_job');
    return runner;
  }

  wake(): void {
    this.mayHaveMore = true;
    this.claiming ??= this.claimAll().finally(() => (this.claiming = null));
  }

  /** Resolves when nothing is being claimed or settled. */
  async idle(): Promise<void> {
    while (this.claiming !== null || this.settling !== null) await Promise.all([this.claiming, this.settling]);
  }

  async close(): Promise<void> {
    await this.idle();
    await Promise.all([this.claimClient.end(), this.settleClient.end(), this.listenClient.end()]);
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
    await this.handle(payload);
    this.done.push(id);
    this.settling ??= this.settleAll().finally(() => (this.settling = null));
  }

  private async handle(payload: Payload): Promise<void> {
    this.onStart(payload.n);
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
