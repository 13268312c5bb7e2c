import { messageOf } from '../job/errors.js';

/** What is kept of an error with the job. */
export const MAX_ERROR_BYTES = 8_192;

/**
 * The text of what a handler threw: its stack, which begins with name and message, and its causes. At most 8 KiB of
 * UTF-8, well-formed and without NUL, which Postgres cannot store.
 */
export function errorText(thrown: unknown): string {
  const text = textOf(thrown).replaceAll('\0', '').toWellFormed();
  const bytes = Buffer.from(text);
  if (bytes.length <= MAX_ERROR_BYTES) return text;
  return `${bytes
    .subarray(0, MAX_ERROR_BYTES - 8)
    .toString()
    .replace(/\uFFFD+$/, '')}…`;
}

/** Whatever was thrown has a text: a getter that throws must not keep a job from being settled. */
function textOf(thrown: unknown): string {
  try {
    return withCauses(thrown, 0);
  } catch {
    return 'The handler threw something that cannot be shown.';
  }
}

function withCauses(thrown: unknown, depth: number): string {
  const text = String(thrown instanceof Error && thrown.stack ? thrown.stack : messageOf(thrown));
  const cause = thrown instanceof Error ? thrown.cause : undefined;
  return cause === undefined || depth === 4 ? text : `${text}\nCaused by: ${withCauses(cause, depth + 1)}`;
}
