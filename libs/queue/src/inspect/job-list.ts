import { checkKnown } from '../job/check-known.js';
import { InvalidOptionsError } from '../job/errors.js';
import type { JobId, JobState } from '../job/job.js';
import { checkInteger, checkKey, checkName } from '../job/names.js';
import {
  findFinishedJobs,
  findLiveJobs,
  findRunningJobs,
  JOBS_PER_LOOK,
  type FindJobsParams,
  type FoundJobsRow,
} from '../statements/find-jobs.js';
import { getJobs, type JobRecord } from '../statements/inspect-jobs.js';
import { run, type SqlClient } from '../statements/statement.js';

/** Which jobs `queue.list` lists: those that fit everything that is given. */
export interface JobFilter {
  /** In one of these states. Default: any, live and finished. */
  state?: JobState | readonly JobState[];
  /** Of this channel. */
  channel?: string;
  /** Of the handler with this name. */
  name?: string;
  /** With this key; `''`: without one. */
  key?: string;
  /** Spawned before this time. */
  before?: Date;
  /** Spawned at this time or later. */
  after?: Date;
}

/** Which page of them. */
export interface ListJobsOptions {
  /** How many at most, 1 to 1 000. Default 100. */
  limit?: number;
  /** The `next` of the page before. */
  after?: string;
}

/** A page of jobs, the last spawned first. */
export interface JobPage {
  /** The jobs. */
  readonly jobs: readonly JobRecord[];
  /** Where the next page begins, `null` at the end. A page before the end may have fewer jobs than asked for, or none. */
  readonly next: string | null;
}

const LIVE: readonly JobState[] = ['held', 'waiting', 'running'];
const FINISHED: readonly JobState[] = ['completed', 'cancelled', 'dead', 'reprocessing', 'resolved', 'discarded'];
const STATES: readonly JobState[] = [...LIVE, ...FINISHED];

const MAX_PAGE = 1_000;
const DEFAULT_PAGE = 100;

/** Looks for one page at most: a filter that fits next to nothing answers a short page, and where to go on. */
const MOST_LOOKS = 10;

/** Above every id. */
const TOP = '9223372036854775807';

/** What `queue.list` was asked, checked. */
export interface JobListQuery {
  readonly find: Omit<FindJobsParams, 'below'>;
  readonly limit: number;
  readonly below: JobId;
}

/** @throws {InvalidOptionsError} naming the field */
export function checkList(filter: JobFilter = {}, options: ListJobsOptions = {}): JobListQuery {
  checkKnown(filter, 'filter', ['state', 'channel', 'name', 'key', 'before', 'after']);
  checkKnown(options, 'options', ['limit', 'after']);
  const { state, channel, name, key, before, after } = filter;
  const limit = checkInteger(options.limit ?? DEFAULT_PAGE, 'limit', 1, MAX_PAGE);
  const isFiltered = Object.values(filter).some((value) => value !== undefined);
  const find = {
    states: state === undefined ? STATES : checkStates(state),
    channel: channel === undefined ? null : checkName(channel, 'channel'),
    name: name === undefined ? null : checkName(name, 'name'),
    key: key === undefined ? null : checkKey(key, 'key'),
    before: before === undefined ? null : checkDate(before, 'before'),
    since: after === undefined ? null : checkDate(after, 'after'),
    window: isFiltered ? JOBS_PER_LOOK : limit + 1,
    limit: limit + 1,
    rare: state !== undefined || channel !== undefined,
  };
  return { find, limit, below: options.after === undefined ? TOP : checkCursor(options.after) };
}

/** Of one moment, when the client is in a transaction with one snapshot. */
export async function listJobs(client: SqlClient, { find, limit, below }: JobListQuery): Promise<JobPage> {
  const ids: JobId[] = [];
  let next: JobId | null = below;
  for (let looks = 0; looks < MOST_LOOKS && next !== null && ids.length < limit; looks++) {
    const page = pageOf(await look(client, { ...find, below: next }), limit - ids.length);
    ids.push(...page.ids);
    next = page.next;
  }
  const jobs = ids.length === 0 ? [] : await run(client, getJobs, { ids });
  const places = new Map(ids.map((id, place) => [id, place]));
  return { jobs: [...jobs].sort((a, b) => places.get(a.id)! - places.get(b.id)!), next };
}

/** Live and finished jobs stand apart: each in its order. */
async function look(client: SqlClient, find: FindJobsParams): Promise<FoundJobsRow[]> {
  const live = find.states.filter((state) => LIVE.includes(state));
  const finished = find.states.filter((state) => FINISHED.includes(state));
  const findLive = live.every((state) => state === 'running') ? findRunningJobs : findLiveJobs;
  const rows: FoundJobsRow[] = [];
  if (live.length > 0) {
    rows.push(...(await run(client, findLive, { ...find, states: live, rare: find.channel !== null })));
  }
  if (finished.length > 0) rows.push(...(await run(client, findFinishedJobs, { ...find, states: finished })));
  return rows;
}

/** Below the highest place to which one of the looks has come, the other one may know of more than this one. */
function pageOf(rows: readonly FoundJobsRow[], limit: number): { readonly ids: JobId[]; readonly next: JobId | null } {
  const floors = rows.flatMap(({ floor }) => floor ?? []).sort(newestFirst);
  const floor = floors[0] ?? null;
  const ids = rows
    .flatMap((row) => row.ids)
    .sort(newestFirst)
    .filter((id) => floor === null || BigInt(id) >= BigInt(floor));
  return ids.length > limit ? { ids: ids.slice(0, limit), next: ids[limit - 1]! } : { ids, next: floor };
}

function newestFirst(a: JobId, b: JobId): number {
  return BigInt(a) < BigInt(b) ? 1 : BigInt(a) > BigInt(b) ? -1 : 0;
}

function checkStates(given: unknown): readonly JobState[] {
  const states: readonly unknown[] = Array.isArray(given) ? given : [given];
  const wrong = states.find((state) => !STATES.includes(state as JobState));
  if (wrong !== undefined || states.length === 0) {
    const known = STATES.map((state) => `"${state}"`).join(', ');
    throw new InvalidOptionsError('state', wrong, `Give one or more of ${known}.`);
  }
  return states as readonly JobState[];
}

function checkDate(value: unknown, option: string): Date {
  if (value instanceof Date && !Number.isNaN(value.getTime())) return value;
  throw new InvalidOptionsError(option, value, 'Give a Date.');
}

function checkCursor(cursor: unknown): JobId {
  if (typeof cursor === 'string' && /^\d{1,18}$/.test(cursor)) return cursor;
  throw new InvalidOptionsError('after', cursor, 'Give the `next` of the page before.');
}
