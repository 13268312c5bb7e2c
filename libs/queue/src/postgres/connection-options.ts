import type { ClientConfig } from 'pg';
import type { DataSource } from 'typeorm';
import { InvalidOptionsError, UnsupportedDataSourceError, describe } from '../job/errors.js';

/** What TypeORM's Postgres driver keeps of its pool: the options that every connection of the application is made with. */
interface PostgresPool {
  options: ClientConfig & Record<string, unknown>;
}

/** Fields of a pool's options that mean nothing to a single connection. */
const POOL_ONLY = [
  'max',
  'min',
  'poolSize',
  'idleTimeoutMillis',
  'maxUses',
  'maxLifetimeSeconds',
  'allowExitOnIdle',
  'Client',
  'Promise',
  'log',
  'pipeline',
  'query_timeout',
  'statement_timeout',
  'binary',
];

/**
 * The options for connections of our own, the same as the application's pool has, so that a second set of credentials
 * is never needed. A function as password is kept: it is asked anew for every connection.
 *
 * @throws {UnsupportedDataSourceError} when the DataSource is not a PostgreSQL one
 */
export function connectionOptionsOf(dataSource: DataSource): ClientConfig {
  if (dataSource?.options?.type !== 'postgres') {
    throw new UnsupportedDataSourceError(String(dataSource?.options?.type ?? describe(dataSource)));
  }
  const { master } = dataSource.driver as unknown as { master?: PostgresPool };
  if (master === undefined) {
    throw new InvalidOptionsError(
      'dataSource',
      'a DataSource without a pool',
      'Call its initialize() before the application is made.',
    );
  }
  const options: Record<string, unknown> = { ...master.options };
  for (const field of POOL_ONLY) delete options[field];
  // Pools hide the password from enumeration, so that it is not logged by accident.
  if (master.options.password !== undefined) options['password'] = master.options.password;
  return { ...options, keepAlive: true, keepAliveInitialDelayMillis: 5_000, connectionTimeoutMillis: 10_000 };
}

/** The options for LISTEN past a pooler. What the URL does not say, such as `ssl`, is as for the other connections. */
export function listenOptionsOf(options: ClientConfig, listenUrl: string | null): ClientConfig {
  return listenUrl === null ? options : { ...options, connectionString: listenUrl };
}
