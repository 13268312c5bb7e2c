import pg from 'pg';
import type { ClientConfig } from 'pg';
import { QueueClosedError } from '../job/errors.js';
import { begin, commit } from '../statements/transaction.js';
import type { SqlClient } from '../statements/statement.js';
import { endClient } from './end-client.js';
import { pgQuery } from './pg-query.js';
import { asQueueError } from './sqlstate.js';

const ANSWER_TIMEOUT_MS = 30_000;

export interface ConnectionSettings {
  readonly options: ClientConfig;
  readonly schema: string;
  readonly namedStatements: boolean;
  /** What it is for, shown as `application_name` and in messages. */
  readonly role: string;
  /** An answer that takes longer comes from a dead connection. Default 30 s, beyond the server's own limit. */
  readonly answerTimeoutMs?: number;
  /** Called when it breaks, but not when it is closed. */
  readonly onBroken?: () => void;
}

/**
 * One connection of our own, which handlers cannot use up. It connects when first used and anew after it broke; whoever
 * uses it gets the error and decides when to try again.
 */
export class Connection {
  private client: Promise<pg.Client> | null = null;
  private closed = false;

  constructor(private readonly settings: ConnectionSettings) {}

  /**
   * Runs statements in one READ COMMITTED transaction and one round trip: everything is written before the first answer
   * is awaited, so the transaction can neither be left open by a blocked event loop nor cost a second trip.
   *
   * @param work  sends its statements at once and awaits only their answers
   * @param start statement that opens the transaction, `begin` by default
   */
  async transaction<T>(work: (client: SqlClient) => Promise<T>, start: string = begin): Promise<T> {
    return this.use(async (client) => {
      const { stream } = (client as unknown as { connection: { stream: { cork(): void; uncork(): void } } }).connection;
      stream.cork();
      const begun = client.query(start);
      const worked = work(this.sqlClient(client));
      const committed = client.query(commit);
      stream.uncork();
      const [first, second, third] = await Promise.allSettled([begun, worked, committed]);
      if (first.status === 'rejected') throw first.reason;
      if (second.status === 'rejected') throw second.reason;
      if (third.status === 'rejected') throw third.reason;
      return second.value;
    });
  }

  /** Sends single statements, each its own transaction, at the server's default isolation. */
  async use<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    if (this.closed) throw new QueueClosedError('A connection was used');
    try {
      return await work(await (this.client ??= this.connect()));
    } catch (error) {
      throw asQueueError(error);
    }
  }

  /** Waits for what is under way, then ends the connection. Later use is refused. */
  async close(): Promise<void> {
    this.closed = true;
    const client = await this.client?.catch(() => null);
    this.client = null;
    if (client) await endClient(client);
  }

  sqlClient(client: pg.Client): SqlClient {
    const { schema, namedStatements } = this.settings;
    return {
      schema,
      namedStatements,
      query: (query) => client.query<unknown[]>(pgQuery(query)),
    };
  }

  private async connect(): Promise<pg.Client> {
    const { options, role, answerTimeoutMs = ANSWER_TIMEOUT_MS } = this.settings;
    const client = new pg.Client({
      ...options,
      application_name: `nestmq ${role}`,
      pipeline: true,
      query_timeout: answerTimeoutMs,
    });
    let gone = false;
    const forget = (): void => {
      if (gone) return;
      gone = true;
      this.client = null;
      if (!this.closed) this.settings.onBroken?.();
    };
    // Without a listener an 'error' of an idle connection ends the process; the next use sees that it is gone.
    client.on('error', forget);
    client.on('end', forget);
    try {
      await client.connect();
    } catch (error) {
      forget();
      await endClient(client);
      throw error;
    }
    return client;
  }
}
