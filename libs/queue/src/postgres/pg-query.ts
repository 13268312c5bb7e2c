import pg from 'pg';
import type { SqlQuery } from '../statements/statement.js';

/** pg's own way to read types, whatever the application's connections have, but for JSON, which stays as it is. */
const JSON_AS_TEXT: pg.CustomTypesConfig = {
  getTypeParser: (id, format) =>
    id === pg.types.builtins.JSON ? (text: string) => text : pg.types.getTypeParser(id, format),
};

/** A query as pg takes it. */
export const pgQuery = (query: SqlQuery): SqlQuery & Pick<pg.QueryConfig, 'types'> =>
  query.jsonAsText ? { ...query, types: JSON_AS_TEXT } : query;
