import pg from 'pg';
import { SYNC, UnreadStatement, type PreparedNames } from './unread-statement.js';

/** The part of pg's connection that sends messages; pg's own `Query` is written against it, in every copy of pg. */
interface PgConnection extends PreparedNames {
  readonly stream: { readonly writable: boolean; cork?(): void; uncork?(): void; write(bytes: Buffer): boolean };
  sync(): void;
}

/** A query of pg, as it is while it is sent and answered. */
interface PgQuery {
  readonly name?: string;
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

/** Which of the statements of a bundle the answer is wanted of: of the others only whether they have failed. */
interface Wanted {
  /** `null`: of none, only which command the last one has been to the server. */
  readonly place: number | null;
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
  { place, values }: Wanted,
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

type Statement = PgQuery | UnreadStatement;

const isRead = (statement: Statement): statement is PgQuery => !(statement instanceof UnreadStatement);

/** Plain text would not be seen by the server any more behind a statement that has failed: everything is prepared. */
function makeRead(query: Query, values: readonly unknown[] | undefined): PgQuery {
  const made = new pg.Query(query as never, values as never) as unknown as PgQuery;
  made.queryMode = 'extended';
  return made;
}

function makeUnread(query: Query): UnreadStatement {
  if (typeof query === 'string') return new UnreadStatement(undefined, query);
  return new UnreadStatement(query.name, query.text, query.values);
}

/** For `client.query`, which takes any object with a `submit`, as it takes the one of pg-cursor. */
export class QueryBundle {
  done = 0;
  /** Set by pg too, which wraps it where queries have a time limit. */
  callback: Callback = () => undefined;
  private readonly statements: Statement[];
  private readonly wanted: PgQuery | null;
  private readonly last: Statement;

  constructor(queries: readonly Query[], place: number | null, values: readonly unknown[] | undefined) {
    this.wanted = place === null ? null : makeRead(queries[place]!, values);
    this.statements = queries.map((query, index) => (index === place ? this.wanted! : makeUnread(query)));
    this.last = this.statements.at(-1)!;
    if (this.wanted !== null) this.wanted.callback = (error, result) => this.callback(error, result);
  }

  /** Before all the others, as long as nothing is sent. */
  prepend(query: Query): void {
    this.statements.unshift(makeUnread(query));
  }

  /** @param result the answer to the last one */
  answer(result: unknown): unknown {
    return this.wanted === null || this.wanted === this.last ? result : this.wanted._result;
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
    return this.wanted?._result;
  }

  get binary(): boolean {
    return this.wanted?.binary ?? false;
  }

  set binary(binary: boolean) {
    if (this.wanted !== null) this.wanted.binary = binary;
  }

  private get current(): Statement {
    return this.statements[this.done] ?? this.last;
  }

  /** The one whose answer is being read, if it is to be. */
  private get read(): PgQuery | null {
    const { current } = this;
    return isRead(current) ? current : null;
  }

  submit(connection: PgConnection): Error | null {
    const { stream } = connection;
    if (this.wanted === null) {
      if (stream.writable) stream.write(this.bytesOf(this.statements, connection));
      return null;
    }
    const place = this.statements.indexOf(this.wanted);
    const behind = this.statements.slice(place + 1);
    stream.cork?.();
    try {
      if (place > 0 && stream.writable) stream.write(this.bytesOf(this.statements.slice(0, place), connection));
      // It ends with a Sync, which makes one of them all when it is the last.
      const refused = this.wanted.submit(behind.length === 0 ? connection : withoutSync(connection));
      if (refused !== null && place === 0) return refused;
      if (refused !== null) connection.sync();
      else if (behind.length > 0 && stream.writable) stream.write(this.bytesOf(behind, connection));
      return refused;
    } finally {
      stream.uncork?.();
    }
  }

  handleRowDescription(message: unknown): void {
    this.read?.handleRowDescription(message);
  }

  handleDataRow(message: unknown): void {
    this.read?.handleDataRow(message);
  }

  handlePortalSuspended(connection: PgConnection): void {
    this.read?.handlePortalSuspended(connection);
  }

  handleEmptyQuery(connection: PgConnection): void {
    this.read?.handleEmptyQuery(connection);
  }

  handleCommandComplete(message: { text: string }, connection: PgConnection): void {
    const { current } = this;
    if (isRead(current)) current.handleCommandComplete(message, connection);
    else current.command = message.text;
    if (current !== this.last) this.done += 1;
  }

  handleCopyInResponse(connection: PgConnection): void {
    this.read?.handleCopyInResponse(connection);
  }

  handleCopyData(message: unknown, connection: PgConnection): void {
    this.read?.handleCopyData(message, connection);
  }

  handleError(error: unknown, connection: PgConnection): void {
    // What stands behind the failed one was not even parsed.
    for (const { name } of this.statements) if (name !== undefined) delete connection.submittedNamedStatements?.[name];
    this.callback(error);
  }

  handleReadyForQuery(connection: PgConnection): void {
    // Whatever pg could not read of the rows is told by its query.
    if (this.wanted !== null) this.wanted.handleReadyForQuery(connection);
    else this.callback(null, { command: (this.last as UnreadStatement).command });
  }

  /** In one piece, which costs less than a piece for each message. With a Sync where they are the end. */
  private bytesOf(statements: readonly Statement[], connection: PgConnection): Buffer {
    const messages: Buffer[] = [];
    for (const statement of statements) if (!isRead(statement)) statement.addTo(messages, connection);
    if (statements.at(-1) === this.last) messages.push(SYNC);
    return Buffer.concat(messages);
  }
}

/** As seen by the one query of pg that is not the last of a bundle. */
function withoutSync(connection: PgConnection): PgConnection {
  return Object.create(connection, { sync: { value: () => undefined } }) as PgConnection;
}
