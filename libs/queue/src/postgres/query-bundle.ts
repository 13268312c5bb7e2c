import pg from 'pg';
import type { SqlQuery } from '../statements/statement.js';

/** The part of pg's connection that sends messages; pg's own `Query` is written against it, in every copy of pg. */
interface PgConnection {
  readonly stream: { cork?(): void; uncork?(): void };
  readonly parsedStatements: Record<string, string | undefined>;
  /** Since 8.19 of pg: those of which the server's answer is not there yet. */
  readonly submittedNamedStatements?: Record<string, string | undefined>;
  sync(): void;
}

/** A query of pg, as it is while it is sent and answered. */
interface SentQuery {
  readonly name?: string;
  readonly text: string;
  submit(connection: PgConnection): Error | null;
  handleCommandComplete(message: { text: string }, connection: PgConnection): void;
}

interface QueryHandlers {
  name: string | undefined;
  text: string;
  callback: (error: Error | null) => void;
}

/**
 * Several statements that a client sends at once and that the server answers together: it does none of those behind one
 * that fails. For `client.query`, which takes an object with a `submit` as it takes pg-cursor. Rows are not read.
 */
export class QueryBundle implements QueryHandlers {
  /** Set by pg too, which wraps it where queries have a time limit. */
  callback: (error: Error | null) => void;
  /** The server's word on each statement that it has done: `COMMIT`, `DELETE 1`. */
  readonly done: string[] = [];
  readonly ended: Promise<void>;
  private readonly queries: readonly SentQuery[];

  constructor(queries: readonly (SqlQuery | { readonly name?: string; readonly text: string })[]) {
    // A name, or values, make it a prepared one: only these can be sent without waiting for the one before.
    this.queries = queries.map((query) => new pg.Query({ ...query, queryMode: 'extended' } as never) as never);
    let settle!: (error: Error | null) => void;
    this.ended = new Promise((resolve, reject) => (settle = (error) => (error === null ? resolve() : reject(error))));
    this.callback = settle;
  }

  /** Of the statement that is being answered: pg notes by it what the server has parsed. */
  get name(): string | undefined {
    return this.current?.name;
  }

  get text(): string {
    return this.current?.text ?? '';
  }

  private get current(): SentQuery | undefined {
    return this.queries[this.done.length];
  }

  submit(connection: PgConnection): Error | null {
    const { stream } = connection;
    // Each query ends with a Sync: only the last one's is sent, which makes one of them all.
    const withoutSync = Object.create(connection, { sync: { value: () => undefined } }) as PgConnection;
    stream.cork?.();
    try {
      for (const [index, query] of this.queries.entries()) {
        const refused = query.submit(index === this.queries.length - 1 ? connection : withoutSync);
        if (refused === null) continue;
        if (index > 0) connection.sync();
        return refused;
      }
    } finally {
      stream.uncork?.();
    }
    return null;
  }

  handleRowDescription(): void {}

  handleDataRow(): void {}

  handleEmptyQuery(): void {}

  handlePortalSuspended(): void {}

  handleCopyInResponse(): void {}

  handleCopyData(): void {}

  handleCommandComplete({ text }: { text: string }): void {
    this.done.push(text);
  }

  handleError(error: Error, connection: PgConnection): void {
    // What stands behind the failed one was not even parsed.
    for (const { name } of this.queries) if (name !== undefined) delete connection.submittedNamedStatements?.[name];
    this.callback(error);
  }

  handleReadyForQuery(): void {
    this.callback(null);
  }
}
