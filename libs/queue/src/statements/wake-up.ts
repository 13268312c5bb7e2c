import type { Position } from '../job/job.js';
import { defineStatement, micros } from './statement.js';

/** What a notification tells: the lowest place at which something became free. A hint only: polling finds it anyway. */
export type WakeUp =
  | {
      readonly kind: 'jobs';
      readonly position: Position;
      readonly priority: number;
      readonly channel: string;
      readonly keyed: boolean;
      /** Of the job at that place; others may have come with it. */
      readonly name: string;
    }
  /** A channel was resumed, or jobs came back as suspects: look everywhere. */
  | { readonly kind: 'survey' }
  /** The listener's own, to see whether notifications arrive. */
  | { readonly kind: 'probe'; readonly token: string };

export const SURVEY_MESSAGE = '["survey"]';

export const probeMessage = (token: string): string => JSON.stringify(['probe', token]);

/** The message about a row with the columns due_at, id, priority, channel, key and name. Well below the 8 000 bytes that a notification may have. */
export const wakeUpMessage = `json_build_array(${micros('due_at')}, id::text, priority, channel, key <> '', name)::text`;

/** Reads a message; `undefined` when somebody else wrote it. */
export function parseWakeUp(message: string): WakeUp | undefined {
  let parts: unknown;
  try {
    parts = JSON.parse(message);
  } catch {
    return undefined;
  }
  if (!Array.isArray(parts)) return undefined;
  const [first, second] = parts as unknown[];
  if (first === 'survey') return { kind: 'survey' };
  if (first === 'probe' && typeof second === 'string') return { kind: 'probe', token: second };
  return parseJobs(parts);
}

function parseJobs([micros, id, priority, channel, keyed, name]: unknown[]): WakeUp | undefined {
  if (!Number.isSafeInteger(micros) || !Number.isSafeInteger(priority)) return undefined;
  if (typeof id !== 'string' || !/^\d{1,19}$/.test(id)) return undefined;
  if (typeof channel !== 'string' || typeof keyed !== 'boolean' || typeof name !== 'string') return undefined;
  const position = { micros: micros as number, id };
  return { kind: 'jobs', position, priority: priority as number, channel, keyed, name };
}

/** One name a schema, so that a long job channel can never exceed what Postgres allows. */
export const notifyChannelOf = (schema: string): string => `${schema}_wake_up`;

/** Sends wake-ups. Never part of a transaction that writes: NOTIFY locks the whole cluster until that is durable. */
export const notify = defineStatement<{ notifyChannel: string; messages: readonly string[] }, number>({
  name: 'notify_v1',
  text: () => `SELECT count(pg_notify($1, message)) FROM unnest($2::text[]) AS message`,
  values: ({ notifyChannel, messages }) => [notifyChannel, messages],
  row: ([count]) => Number(count),
});
