import { BINARY_ARRAYS, type ArrayFormat } from './array-format.js';

/** What a statement is sent through: a connection that belongs to one schema of tables. */
export interface SqlClient {
  readonly schema: string;
  /** `false` where a pooler between us and the server cannot keep named statements. */
  readonly namedStatements: boolean;
  /** How it takes arrays; in binary by default. */
  readonly arrays?: ArrayFormat;
  query(query: SqlQuery): Promise<{ rows: unknown[][] }>;
}

export interface SqlQuery {
  readonly name?: string;
  readonly text: string;
  readonly values: unknown[];
  readonly rowMode: 'array';
  /** Columns of JSON are to be answered as the text that the server sends. */
  readonly jsonAsText?: true;
}

type StatementDefinition<Params, Row> = Reading<Params, Row> & {
  /**
   * Ends in a version, raised whenever the text changes: a server refuses a name that comes back with other text. The
   * first 22 bytes are its own, since the server cuts names after 63 and the longest schema has 40.
   */
  name: string;
  /** Planned anew each time: for what a kept plan may be wrong later, on a connection whose planner cannot be told. */
  isUnnamed?: (params: Params) => boolean;
  /** Columns of JSON are answered as text: what a handler may never read is not parsed. For connections of our own. */
  jsonAsText?: true;
  /** Constant but for the schema, which is checked as an identifier before. */
  text: (schema: string) => string;
  values: (params: Params, arrays: ArrayFormat) => unknown[];
};

/** An answer is read row by row, or as a whole where its rows belong together. */
type Reading<Params, Row> =
  { row: (columns: unknown[], params: Params) => Row } | { rows: (answer: unknown[][], params: Params) => Row[] };

export interface Statement<Params, Row> {
  query(client: SqlClient, params: Params): SqlQuery;
  rows: (answer: unknown[][], params: Params) => Row[];
}

/** Declares a statement. Its text is built once for each schema. */
export function defineStatement<Params, Row>(definition: StatementDefinition<Params, Row>): Statement<Params, Row> {
  const texts = new Map<string, string>();
  const textFor = (schema: string): string => {
    const known = texts.get(schema);
    if (known !== undefined) return known;
    const text = definition.text(schema).trim();
    texts.set(schema, text);
    return text;
  };
  return {
    rows:
      'rows' in definition
        ? definition.rows
        : (answer, params) => answer.map((columns) => definition.row(columns, params)),
    query: (client, params) => ({
      ...(client.namedStatements && !definition.isUnnamed?.(params) && { name: `${client.schema}.${definition.name}` }),
      text: textFor(client.schema),
      values: definition.values(params, client.arrays ?? BINARY_ARRAYS),
      rowMode: 'array',
      ...(definition.jsonAsText && { jsonAsText: true }),
    }),
  };
}

/** The only way to send a statement. */
export async function run<Params, Row>(
  client: SqlClient,
  statement: Statement<Params, Row>,
  params: Params,
): Promise<Row[]> {
  const { rows } = await client.query(statement.query(client, params));
  return statement.rows(rows, params);
}

/** Whole numbers as the server reads an array of them: pg would quote each by itself. */
export const listOf = (numbers: readonly (number | string)[]): string => `{${numbers.join()}}`;

/** Microseconds since 1970, exact. `extract` answers numeric, so nothing is rounded. */
export const micros = (column: string): string => `(extract(epoch FROM ${column}) * 1000000)::bigint`;

/** A time from microseconds since 1970. */
export const timeOf = (parameter: string): string =>
  `('epoch'::timestamptz + ${parameter}::bigint * interval '1 microsecond')`;
