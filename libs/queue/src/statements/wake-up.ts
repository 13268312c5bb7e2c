import type { JobId, Position } from '../job/job.js';
import { defineStatement, micros } from './statement.js';

/**
 * Streams of a channel, each with places of its own: `jobs` without order, `arrivals` of ordered jobs that have never
 * started, and `lanes` whose next job's time is known.
 */
export type Stream = 'jobs' | 'arrivals' | 'lanes';

/** What a notification tells: the lowest place at which something became free. A hint only: polling finds it anyway. */
export type WakeUp =
  | {
      readonly kind: 'jobs';
      readonly position: Position;
      readonly priority: number;
      readonly channel: string;
      /** Which stream of the channel it stands in. */
      readonly stream: Stream;
      readonly keyed: boolean;
      /** Of the job at that place; others may have come with it. */
      readonly name: string;
    }
  /** A channel was resumed, or jobs came back as suspects: look everywhere. */
  | { readonly kind: 'survey' }
  /** Running jobs are to stop: whoever has them. */
  | { readonly kind: 'cancel'; readonly ids: readonly JobId[]; readonly reason: string | null }
  /** A suspect has become the head of its lane. */
  | { readonly kind: 'suspects' }
  /** The listener's own, to see whether notifications arrive. */
  | { readonly kind: 'probe'; readonly token: string };

export const SURVEY_MESSAGE = '["survey"]';

export const SUSPECTS_MESSAGE = '["suspects"]';

export const probeMessage = (token: string): string => JSON.stringify(['probe', token]);

/** Ids that one message names: with the longest reason it stays within what a notification may have. */
const IDS_PER_MESSAGE = 50;

/** What tells the runners of running jobs that are to stop. */
export function cancelMessages(ids: readonly JobId[], reason: string | null): string[] {
  return Array.from({ length: Math.ceil(ids.length / IDS_PER_MESSAGE) }, (_, index) =>
    JSON.stringify(['cancel', reason, ...ids.slice(index * IDS_PER_MESSAGE, (index + 1) * IDS_PER_MESSAGE)]),
  );
}

/** How a message names the stream: 0 jobs without a key, 1 jobs with one, 2 arrivals, 3 lanes. */
const STREAMS = ['jobs', 'jobs', 'arrivals', 'lanes'] as const satisfies readonly Stream[];

/**
 * The message about a job, from a row with the columns due_at, id, priority, channel, key, name, and ordered where that is not
 * told by an expression. Well below the 8 000 bytes that a notification may have.
 */
export const wakeUpMessage = (ordered = 'ordered'): string =>
  `json_build_array(${micros('due_at')}, id::text, priority, channel, CASE WHEN ${ordered} THEN 2 WHEN key = '' THEN 0 ELSE 1 END, name)::text`;

/**
 * The message about a lane, from a row of it: when it is ready, or that its head is a suspect, or held; null when it is
 * idle, or blocked.
 */
export const laneMessage = (lane: string): string =>
  `CASE WHEN ${lane}.ready_at IS NOT NULL THEN json_build_array(${micros(`${lane}.ready_at`)}, ${lane}.head_position::text, ${lane}.priority, ${lane}.channel, 3, ${lane}.name)::text WHEN ${lane}.head_position IS NOT NULL THEN '${SUSPECTS_MESSAGE}' END`;

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
  if (first === 'survey' || first === 'suspects') return { kind: first };
  if (first === 'cancel') return parseCancel(parts);
  if (first === 'probe' && typeof second === 'string') return { kind: 'probe', token: second };
  return parseJobs(parts);
}

function parseCancel([, reason, ...ids]: unknown[]): WakeUp | undefined {
  if (reason !== null && typeof reason !== 'string') return undefined;
  return ids.every((id) => typeof id === 'string') ? { kind: 'cancel', ids, reason } : undefined;
}

function parseJobs([micros, id, priority, channel, code, name]: unknown[]): WakeUp | undefined {
  if (!Number.isSafeInteger(micros) || !Number.isSafeInteger(priority)) return undefined;
  if (typeof id !== 'string' || !/^\d{1,19}$/.test(id)) return undefined;
  const stream = STREAMS[code as number];
  if (typeof channel !== 'string' || stream === undefined || typeof name !== 'string') return undefined;
  const position = { micros: micros as number, id };
  return { kind: 'jobs', position, priority: priority as number, channel, stream, keyed: code === 1, name };
}

/** One name a schema, so that a long job channel can never exceed what Postgres allows. */
export const notifyChannelOf = (schema: string): string => `${schema}_wake_up`;

export const listen = (schema: string): string => `LISTEN "${notifyChannelOf(schema)}"`;
export const unlisten = (schema: string): string => `UNLISTEN "${notifyChannelOf(schema)}"`;

/** Sends wake-ups. Never part of a transaction that writes: NOTIFY locks the whole cluster until that is durable. */
export const notify = defineStatement<{ notifyChannel: string; messages: readonly string[] }, number>({
  name: 'notify_v1',
  text: () => `SELECT count(pg_notify($1, message)) FROM unnest($2::text[]) AS message`,
  values: ({ notifyChannel, messages }) => [notifyChannel, messages],
  row: ([count]) => Number(count),
});
