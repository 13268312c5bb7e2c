import {
  DatabaseUnavailableError,
  QueueError,
  TransactionAbortedError,
  TransactionConflictError,
} from '../job/errors.js';

/** Classes 08 (connection), 53 (resources), 57P (operator intervention) and errors of the socket itself. */
const UNAVAILABLE = /^(08|53|57P|ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|ENOENT)/;

/** Serialization failure, deadlock, lock not available. */
const CONFLICT = /^(40001|40P01|55P03)/;

/** These, and statement timeout, read-only server. */
const RETRYABLE = /^(40001|40P01|55P03|57014|25006)/;

/** What pg says without a code when a connection ends under a statement. */
const CONNECTION_ENDED =
  /^(Connection terminated|Client has encountered a connection error|Client was closed|Query read timeout|timeout expired)/;

export function sqlStateOf(error: unknown): string {
  const { code, driverError } = (error ?? {}) as { code?: string | number; driverError?: { code?: string } };
  return String(driverError?.code ?? code ?? '');
}

export function isUnavailable(error: unknown): boolean {
  if (error instanceof DatabaseUnavailableError) return true;
  if (error instanceof AggregateError) return error.errors.some(isUnavailable);
  return UNAVAILABLE.test(sqlStateOf(error)) || (error instanceof Error && CONNECTION_ENDED.test(error.message));
}

/** Another row has the key by now; of a constraint, where one is named. */
export const isUniqueViolation = (error: unknown, constraint?: string): boolean =>
  sqlStateOf(error) === '23505' && [undefined, (error as { constraint?: string }).constraint].includes(constraint);

/** Whether the same statement may succeed when it is sent again. */
export function isRetryable(error: unknown): boolean {
  return isUnavailable(error) || RETRYABLE.test(sqlStateOf(error instanceof QueueError ? error.cause : error));
}

/** Our own error for what a user can act on; anything else stays as it is. */
export function asQueueError(error: unknown): unknown {
  if (error instanceof QueueError) return error;
  if (isUnavailable(error)) return new DatabaseUnavailableError({ cause: error });
  if (CONFLICT.test(sqlStateOf(error))) return new TransactionConflictError({ cause: error });
  if (sqlStateOf(error) === '25P02') return new TransactionAbortedError('spawn', { cause: error });
  return error;
}
