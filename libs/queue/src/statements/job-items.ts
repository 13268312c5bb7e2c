import type { ArrayFormat } from './array-format.js';
import type { NewJob } from './new-job.js';
import { listOf, timeOf, type Statement } from './statement.js';

/** A job as it is sent: with an id where that was drawn before. */
export type JobItem = NewJob & { readonly id?: string };

/**
 * How a statement takes its jobs: rows `item` with the columns below and `ordinal`, the job's place. The parameters are
 * those from number `first` on.
 */
interface JobItems {
  readonly name: string;
  /** There is one. */
  readonly alone: boolean;
  rows(first: number): string;
  /** With the columns of idempotency keys. */
  keyedRows(first: number): string;
  /** The same, where keys are all that is asked for: may be without what only the job's row is to have. */
  keys(first: number): string;
  /** Array of the idempotency keys. */
  keyList(first: number): string;
  values(jobs: readonly JobItem[], arrays: ArrayFormat): unknown[];
  keyedValues(jobs: readonly JobItem[], arrays: ArrayFormat): unknown[];
}

type Columns = readonly (readonly [name: string, type: string])[];

/** What jobs of one call mostly have in common, as {@link headOf} tells it. */
const HEAD: Columns = [
  ['c', 'text'],
  ['n', 'text'],
  ['p', 'smallint'],
  ['a', 'integer'],
  ['h', 'bigint'],
  ['b', 'json'],
  ['d', 'bigint'],
  ['t', 'bigint'],
  ['u', 'bigint'],
  ['o', 'boolean'],
  ['e', 'bigint'],
  ['s', 'boolean'],
];

/** What each has for itself: key, payload, bytes and metadata. */
const OWN: Columns = [
  ['k', 'text'],
  ['j', 'text'],
  ['x', 'bytea'],
  ['m', 'text'],
];

/** Idempotency key, hash of the content, and an id that was drawn before. */
const KEYED: Columns = [
  ['i', 'text'],
  ['g', 'text'],
  ['given', 'bigint'],
];

/** Columns of `job`, in the order of {@link itemColumns}. */
export const COLUMNS =
  'id, position, channel, key, name, priority, max_attempts, policy_id, backoff, due_at, held_until, payload, payload_bytes, metadata';

/**
 * What an item and its `id` become. An ordered job's position is its id. The type `json` keeps a payload to the last
 * digit, whatever escapes stand in it.
 */
export const itemColumns = (
  now: string,
): string => `id, CASE WHEN o THEN id END, c, coalesce(k, ''), n, coalesce(p, 0), a, h, b,
      CASE WHEN d IS NULL AND t IS NULL THEN ${now}
        ELSE greatest(${now} + coalesce(d, 0) * interval '1 millisecond', ${timeOf('t')}) END,
      ${now} + u * interval '1 millisecond',
      j::json, x, m::json`;

/** The same statement for one job, for several that are alike, and for any: which it is, the jobs tell. */
export function forItems<Params extends { readonly jobs: readonly JobItem[] }, Row>(
  define: (items: JobItems) => Statement<Params, Row>,
): Statement<Params, Row> {
  const [one, alike, any] = [define(oneItem), define(alikeItems), define(anyItems)];
  return {
    query: (client, params) => {
      const { jobs } = params;
      const [first] = jobs;
      if (jobs.length === 1) return one.query(client, params);
      return (jobs.every((job) => isAlike(first!, job)) ? alike : any).query(client, params);
    },
    rows: any.rows,
  };
}

const scalars = (first: number, columns: Columns): string =>
  columns.map(([name, type], index) => `$${first + index}::${type} AS ${name}`).join(', ');

const lists = (first: number, columns: Columns): string =>
  columns.map(([, type], index) => `$${first + index}::${type}[]`).join(', ');

const namesOf = (columns: Columns): string => columns.map(([name]) => name).join(', ');

// ── one job ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A parameter for each column: nothing to take apart, and a plan of few nodes. */
const oneItem: JobItems = {
  name: '1',
  alone: true,
  rows: (first) => oneRow(first, [...HEAD, ...OWN]),
  keyedRows: (first) => oneRow(first, [...HEAD, ...OWN, ...KEYED]),
  keys: (first) => oneRow(first, [...HEAD, ...OWN, ...KEYED]),
  keyList: (first) => `ARRAY[$${first + HEAD.length + OWN.length}::text]`,
  values: (jobs, arrays) => jobs.flatMap((job) => [...Object.values(headOf(job)), ...ownOf(job, arrays)]),
  keyedValues: (jobs, arrays) =>
    jobs.flatMap((job) => [...Object.values(headOf(job)), ...ownOf(job, arrays), ...keyedOf(job)]),
};

const oneRow = (first: number, columns: Columns): string => `(SELECT ${scalars(first, columns)}, 1 AS ordinal) AS item`;

const ownOf = ({ key, payload, bytes, metadata }: JobItem, arrays: ArrayFormat): unknown[] => [
  ...[key, payload, arrays.alone(bytes), metadata],
];

const keyedOf = ({ idempotency, id }: JobItem): unknown[] => [idempotency?.key, idempotency?.hash, id];

// ── several, alike ──────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * What they have in common once, and an array of each column that is each one's own, empty where none has such a thing.
 * The rows come in their order, unsorted, which payloads need not go through a sort for.
 */
const alikeItems: JobItems = {
  name: 's',
  alone: false,
  rows: (first) => alikeRows(first, first + HEAD.length, OWN),
  keyedRows: (first) => alikeRows(first, first + HEAD.length, [...OWN, ...KEYED]),
  keys: (first) => alikeRows(first, first + HEAD.length + OWN.length, KEYED),
  keyList: (first) => `$${first + HEAD.length + OWN.length}::text[]`,
  values: (jobs, arrays) => [...Object.values(headOf(jobs[0]!)), ...ownArrays(jobs, arrays)],
  keyedValues: (jobs, arrays) => [...alikeItems.values(jobs, arrays), ...keyedArrays(jobs, arrays)],
};

const alikeRows = (head: number, first: number, columns: Columns): string => `(
        SELECT ${scalars(head, HEAD)}, own.*
        FROM unnest(${lists(first, columns)}) WITH ORDINALITY AS own (${namesOf(columns)}, ordinal)
      ) AS item`;

/** Whether they have the same head, as jobs of one call mostly have: told without writing it. */
function isAlike(a: NewJob, b: NewJob): boolean {
  return (
    a.channel === b.channel &&
    a.name === b.name &&
    a.priority === b.priority &&
    a.maxAttempts === b.maxAttempts &&
    a.policyId === b.policyId &&
    a.backoff === b.backoff &&
    a.delayMs === b.delayMs &&
    a.runAtMs === b.runAtMs &&
    a.holdMs === b.holdMs &&
    a.ordered === b.ordered &&
    a.idempotency?.lastsMs === b.idempotency?.lastsMs &&
    a.idempotency?.strict === b.idempotency?.strict
  );
}

const ownArrays = (jobs: readonly JobItem[], arrays: ArrayFormat): unknown[] => [
  arrays.texts(jobs.some(({ key }) => key !== '') ? jobs.map(({ key }) => key) : []),
  arrays.texts(jobs.map(({ payload }) => payload)),
  arrays.bytes(jobs.some(({ bytes }) => bytes !== null) ? jobs.map(({ bytes }) => bytes) : []),
  arrays.texts(jobs.some(({ metadata }) => metadata !== null) ? jobs.map(({ metadata }) => metadata) : []),
];

const keyedArrays = (jobs: readonly JobItem[], arrays: ArrayFormat): unknown[] => [
  arrays.texts(jobs.map(({ idempotency }) => idempotency?.key ?? null)),
  arrays.texts(jobs.some(isHashed) ? jobs.map(({ idempotency }) => idempotency?.hash ?? null) : []),
  listOf(jobs.flatMap(({ id }) => id ?? [])),
];

const isHashed = ({ idempotency }: JobItem): boolean => idempotency !== null && idempotency.hash !== null;

// ── several, of different heads ─────────────────────────────────────────────────────────────────────────────────────

/** The same, but for the heads: each once, as JSON, and a number of one for each job. */
const anyItems: JobItems = {
  name: 'n',
  alone: false,
  rows: (first) => anyRows(first, first + 2, OWN),
  keyedRows: (first) => anyRows(first, first + 2, [...OWN, ...KEYED]),
  keys: (first) => anyRows(first, first + 2 + OWN.length, KEYED),
  keyList: (first) => `$${first + 2 + OWN.length}::text[]`,
  values: (jobs, arrays) => {
    const { heads, numbers } = headsOf(jobs);
    return [heads, arrays.integers(numbers), ...ownArrays(jobs, arrays)];
  },
  keyedValues: (jobs, arrays) => [...anyItems.values(jobs, arrays), ...keyedArrays(jobs, arrays)],
};

const anyRows = (heads: number, first: number, columns: Columns): string => `(
        SELECT *
        FROM unnest($${heads + 1}::integer[], ${lists(first, columns)})
          WITH ORDINALITY AS own (head, ${namesOf(columns)}, ordinal)
        JOIN ROWS FROM (json_to_recordset($${heads}) AS (${HEAD.map((column) => column.join(' ')).join(', ')}))
          WITH ORDINALITY AS shared (${namesOf(HEAD)}, head) USING (head)
      ) AS item`;

/** The heads as JSON, and the number of each job's, from 1. */
function headsOf(jobs: readonly JobItem[]): { heads: string; numbers: number[] } {
  const heads = new Map<string, number>();
  const numbers: number[] = [];
  for (const [index, job] of jobs.entries()) {
    const before = jobs[index - 1];
    const isLikeBefore = before !== undefined && isAlike(before, job);
    numbers.push(isLikeBefore ? numbers[index - 1]! : numberOf(heads, JSON.stringify(headOf(job))));
  }
  return { heads: `[${[...heads.keys()].join()}]`, numbers };
}

function numberOf(heads: Map<string, number>, head: string): number {
  const number = heads.get(head) ?? heads.size + 1;
  heads.set(head, number);
  return number;
}

/** Values of {@link HEAD}, in its order; `undefined`, which JSON leaves out, where nothing is to be said. */
function headOf(job: NewJob): Record<string, unknown> {
  const lastsMs = job.idempotency?.lastsMs;
  return {
    c: job.channel,
    n: job.name,
    p: job.priority === 0 ? undefined : job.priority,
    a: job.maxAttempts ?? undefined,
    h: job.policyId ?? undefined,
    b: job.backoff ?? undefined,
    d: job.delayMs === 0 ? undefined : job.delayMs,
    t: job.runAtMs === null ? undefined : job.runAtMs * 1_000,
    u: job.holdMs ?? undefined,
    o: job.ordered || undefined,
    e: lastsMs === Infinity ? -1 : (lastsMs ?? undefined),
    s: job.idempotency?.strict || undefined,
  };
}
