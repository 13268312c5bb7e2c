import pg from 'pg';

/** The part of pg's connection that sends messages; pg's own `Query` is written against it, in every copy of pg. */
interface PgConnection {
  readonly stream: { cork?(): void; uncork?(): void };
  /** Those of which the server's answer is not there yet. */
  readonly submittedNamedStatements?: Record<string, string | undefined>;
  sync(): void;
}

/** A query of pg, as it is while it is sent and answered. */
interface PgQuery {
  name?: string;
  queryMode: string;
  readonly text: string;
  readonly _result: unknown;
  binary: boolean;
  callback: Callback;
  submit(connection: PgConnection): Error | null;
  handleRowDescription(message: unknown): void;
  handleDataRow(message: unknown): void;
  handlePortalSuspended(connection: PgConnection): void;
  handleEmptyQuery(connection: PgConnection): void;
  handleCommandComplete(message: unknown, connection: PgConnection): void;
  handleCopyInResponse(connection: PgConnection): void;
  handleCopyData(message: unknown, connection: PgConnection): void;
  handleReadyForQuery(connection: PgConnection): void;
}

type Callback = (error: unknown, result?: unknown) => void;

/** What `client.query` takes beside its values. */
export type Query = string | { readonly name?: string; readonly text: string; readonly values?: readonly unknown[] };

/** A client of pg, whichever copy of pg it is of. */
export interface QueryingClient {
  query(query: unknown, ...more: unknown[]): unknown;
}

/** Which of the statements of a bundle the answer is wanted of: the last one by default. */
interface Wanted {
  readonly place?: number;
  /** Of that one. */
  readonly values?: readonly unknown[];
}

/** Not with the native client, and not where the connection is pipelined anyway. */
export function canBundle(client: { readonly pipeline?: boolean; readonly connection?: { readonly bind?: unknown } }) {
  return client.pipeline !== true && typeof client.connection?.bind === 'function';
}

/**
 * Sends several statements at once, none a list of them in one text, which the server answers together: it does none of
 * those behind one that fails.
 *
 * @returns the answer to the one that is wanted, as `client.query` would answer it
 * @throws {BundleError} whose `cause` is the error of the statement that has failed
 */
export async function sendTogether<T>(
  client: QueryingClient,
  queries: readonly Query[],
  { place = queries.length - 1, values }: Wanted = {},
): Promise<T> {
  const bundle = new QueryBundle(queries, place, values);
  return new Promise<T>((resolve, reject) => {
    bundle.callback = (error, result) => {
      if (error === null) resolve(bundle.answer(result) as T);
      else reject(new BundleError(bundle.done, error));
    };
    client.query(bundle);
  });
}

/** One of the statements of a bundle has failed. */
export class BundleError extends Error {
  constructor(
    /** How many were done before. */
    readonly done: number,
    override readonly cause: unknown,
  ) {
    super('a statement has failed', { cause });
  }
}

/** Plain text would not be seen by the server any more behind a statement that has failed: everything is prepared. */
function make(query: Query, values: readonly unknown[] | undefined): PgQuery {
  const made = new pg.Query(query as never, values as never) as unknown as PgQuery;
  made.queryMode = 'extended';
  return made;
}

/** The same, without the price that pg takes for an object. */
function makeUnread(query: Query): PgQuery {
  if (typeof query === 'string') return make(query, undefined);
  const made = make(query.text, query.values);
  if (query.name !== undefined) made.name = query.name;
  return made;
}

/** For `client.query`, which takes any object with a `submit`, as it takes the one of pg-cursor. */
export class QueryBundle {
  done = 0;
  /** Set by pg too, which wraps it where queries have a time limit. */
  callback: Callback = () => undefined;
  private readonly queries: PgQuery[];
  private readonly wanted: PgQuery;
  private readonly last: PgQuery;

  constructor(queries: readonly Query[], place: number, values: readonly unknown[] | undefined) {
    this.queries = queries.map((query, index) => (index === place ? make(query, values) : makeUnread(query)));
    this.wanted = this.queries[place]!;
    this.last = this.queries.at(-1)!;
    this.last.callback = (error, result) => this.callback(error, result);
  }

  /** Before all the others, as long as nothing is sent. */
  prepend(query: Query): void {
    this.queries.unshift(makeUnread(query));
  }

  /** @param result the answer to the last one */
  answer(result: unknown): unknown {
    return this.wanted === this.last ? result : this.wanted._result;
  }

  /** Of the statement that is being answered: pg notes by it what the server has parsed. */
  get name(): string | undefined {
    return this.current.name;
  }

  get text(): string {
    return this.current.text;
  }

  /** pg puts its own way to read types into it. */
  get _result(): unknown {
    return this.wanted._result;
  }

  get binary(): boolean {
    return this.wanted.binary;
  }

  set binary(binary: boolean) {
    this.wanted.binary = binary;
  }

  private get current(): PgQuery {
    return this.queries[this.done] ?? this.last;
  }

  submit(connection: PgConnection): Error | null {
    const { stream } = connection;
    // Each query ends with a Sync: only the last one's is sent, which makes one of them all.
    const withoutSync = Object.create(connection, { sync: { value: () => undefined } }) as PgConnection;
    stream.cork?.();
    try {
      for (const query of this.queries) {
        const refused = query.submit(query === this.last ? connection : withoutSync);
        if (refused === null) continue;
        if (query !== this.queries[0]) connection.sync();
        return refused;
      }
    } finally {
      stream.uncork?.();
    }
    return null;
  }

  handleRowDescription(message: unknown): void {
    this.current.handleRowDescription(message);
  }

  handleDataRow(message: unknown): void {
    this.current.handleDataRow(message);
  }

  handlePortalSuspended(connection: PgConnection): void {
    this.current.handlePortalSuspended(connection);
  }

  handleEmptyQuery(connection: PgConnection): void {
    this.current.handleEmptyQuery(connection);
  }

  handleCommandComplete(message: unknown, connection: PgConnection): void {
    this.current.handleCommandComplete(message, connection);
    if (this.current !== this.last) this.done += 1;
  }

  handleCopyInResponse(connection: PgConnection): void {
    this.current.handleCopyInResponse(connection);
  }

  handleCopyData(message: unknown, connection: PgConnection): void {
    this.current.handleCopyData(message, connection);
  }

  handleError(error: unknown, connection: PgConnection): void {
    // What stands behind the failed one was not even parsed.
    for (const { name } of this.queries) if (name !== undefined) delete connection.submittedNamedStatements?.[name];
    this.callback(error);
  }

  handleReadyForQuery(connection: PgConnection): void {
    this.last.handleReadyForQuery(connection);
  }
}
