// What the proof rests on, each with the place that makes it so: the checker has to notice when it is gone.

/** A change of one place of the source that takes a protection out. */
export interface Mutant {
  readonly name: string;
  /** Every one of them stands exactly once in its file. */
  readonly patches: readonly Patch[];
  /** Arguments of `npm run history`, or a test, which must fail; the first that does is enough. */
  readonly proofs: readonly Proof[];
}

export interface Patch {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export type Proof =
  | { readonly history: readonly string[] }
  /** `file` as jest is given it, and the name of the test. */
  | { readonly test: readonly [file: string, name: string] };

const STATEMENTS = 'libs/queue/src/statements';
const QUIET = ['--no-faults', '--seconds', '20', '--drain-seconds', '40'] as const;
/** Nothing is found by polling, nothing by the look around that a rescue brings. */
const UNPOLLED = [
  ...QUIET,
  '--poll-ms',
  '60000',
  '--stall-seconds',
  '10',
  '--runners',
  '2',
  '--live-jobs',
  '8',
  '--deadly',
  '1000000',
];

const noLock: Patch = {
  file: `${STATEMENTS}/transaction.ts`,
  find: 'return `SELECT pg_advisory_xact_lock(${lockKey(schema, channel)})`;',
  replace: 'return `SELECT ${lockKey(schema, channel)}`;',
};

export const MUTANTS: readonly Mutant[] = [
  {
    name: 'the fence',
    patches: [
      {
        file: `${STATEMENTS}/run-fence.ts`,
        find: '\n      AND job.run = done.run\n      AND EXISTS (SELECT FROM held_lease WHERE held_lease.number = done.lease)',
        replace: '',
      },
    ],
    proofs: [{ history: ['--seconds', '60', '--lanes', 'none'] }],
  },
  {
    name: 'the run in the fence',
    patches: [{ file: `${STATEMENTS}/run-fence.ts`, find: '\n      AND job.run = done.run', replace: '' }],
    proofs: [{ test: ['test/settle.e2e-spec.ts', 'that waited for a rescuer deletes nothing of the next runner'] }],
  },
  {
    name: 'the lease in the fence',
    patches: [
      {
        file: `${STATEMENTS}/run-fence.ts`,
        find: '\n      AND EXISTS (SELECT FROM held_lease WHERE held_lease.number = done.lease)',
        replace: '',
      },
    ],
    proofs: [{ test: ['test/settle.e2e-spec.ts', 'refuses a runner that carries the number of a lease'] }],
  },
  {
    name: 'the mutual exclusion of claims of jobs',
    patches: [noLock],
    proofs: [{ history: [...QUIET, '--lanes', 'none'] }],
  },
  {
    name: 'the mutual exclusion of claims of lanes',
    patches: [
      noLock,
      {
        file: `${STATEMENTS}/claim-lanes.ts`,
        find: 'WHERE lane.used_at = excluded.used_at',
        replace: 'WHERE true',
      },
    ],
    proofs: [{ history: [...QUIET, '--lanes', 'few'] }],
  },
  {
    name: 'the row of a lane as it was read',
    patches: [
      {
        file: `${STATEMENTS}/claim-lanes.ts`,
        find: 'WHERE lane.used_at = excluded.used_at',
        replace: 'WHERE lane.runner_id IS NULL AND lane.last_seq = excluded.last_seq',
      },
    ],
    proofs: [{ test: ['test/lanes-races.e2e-spec.ts', 'does not write down the lane of that one as it was'] }],
  },
  {
    name: 'the number that a lane has come to when it ends with its lease',
    patches: [
      {
        file: `${STATEMENTS}/lanes.ts`,
        find: 'THEN ${lane}.last_seq ELSE greatest(${lane}.last_seq, ${lane}.leased_seq) END',
        replace: 'THEN ${lane}.last_seq ELSE ${lane}.last_seq END',
      },
    ],
    proofs: [{ test: ['test/lanes-statements.e2e-spec.ts', 'is claimed by the next job, which has the next number'] }],
  },
  {
    name: 'the lease as the word about a lane',
    patches: [
      {
        file: `${STATEMENTS}/claim-lanes.ts`,
        find: '          ${isFree(schema)}\n',
        replace: '          true\n',
      },
    ],
    proofs: [{ history: [...QUIET, '--lanes', 'few'] }],
  },
  {
    name: 'the head rule',
    patches: [
      {
        file: `${STATEMENTS}/claim-lanes.ts`,
        find: 'ORDER BY seq, position\n          LIMIT ${RUN}',
        replace: 'ORDER BY due_at LIMIT ${RUN}',
      },
    ],
    proofs: [{ history: [...QUIET, '--lanes', 'few'] }],
  },
  {
    name: 'the wait for a head that is not due',
    patches: [
      {
        file: `${STATEMENTS}/claim-lanes.ts`,
        find: 'due_at <= statement_timestamp() AND held_until IS NULL AND NOT suspect AND name',
        replace: 'held_until IS NULL AND NOT suspect AND name',
      },
    ],
    proofs: [
      { test: ['test/lanes-retries.e2e-spec.ts', 'holds its lane until it is due, however long the others are due'] },
    ],
  },
  {
    name: 'the recorded start of jobs',
    patches: [
      { file: `${STATEMENTS}/claim-jobs.ts`, find: 'least(jobs, ${SLOTS}), hi_due_at', replace: '0, hi_due_at' },
    ],
    proofs: [{ history: [...QUIET, '--lanes', 'none', '--deadly', '50'] }],
  },
  {
    name: 'the recorded start of suspects',
    patches: [
      {
        file: `${STATEMENTS}/claim-suspect.ts`,
        find: 'THEN ARRAY[given_seq] END, 1, due_at',
        replace: 'THEN ARRAY[given_seq] END, 0, due_at',
      },
    ],
    proofs: [{ history: [...QUIET, '--lanes', 'none', '--deadly', '50'] }],
  },
  {
    name: 'the recorded start of heads of lanes',
    patches: [
      {
        file: `${STATEMENTS}/claim-lanes.ts`,
        find: 'count(*) FILTER (WHERE starts) AS started',
        replace: '0 AS started',
      },
    ],
    proofs: [{ history: [...QUIET, '--lanes', 'few', '--deadly', '30'] }],
  },
  {
    name: 'the lane’s owner, when it is extended',
    patches: [
      {
        file: `${STATEMENTS}/extend-lane.ts`,
        find: 'AND runner_id = ${RUNNER}::bigint AND lease = ${LEASE}::integer\n',
        replace: '\n',
      },
    ],
    proofs: [{ test: ['test/lanes-extended.e2e-spec.ts', 'is none, and writes nothing'] }],
  },
  {
    name: 'the lease’s row, where a lane is extended',
    patches: [
      {
        file: `${STATEMENTS}/extend-lane.ts`,
        find: 'job_ids = job_ids[first:] || ids,',
        replace: 'job_ids = job_ids[first:],',
      },
    ],
    proofs: [{ test: ['test/lanes-extended.e2e-spec.ts', 'comes back whole, in its order'] }],
  },
  {
    name: 'the second look after a late commit',
    patches: [
      {
        file: 'libs/queue/src/claim/feed.ts',
        find: 'if (this.lookAgainFrom === null || comparePositions(from, this.lookAgainFrom) < 0) this.lookAgainFrom = from;',
        replace: 'void from;',
      },
    ],
    proofs: [{ history: [...UNPOLLED, '--lanes', 'none'] }],
  },
  {
    name: 'the second look at a lane that has come to rest',
    patches: [
      {
        file: 'libs/queue/src/settle/resting-lanes.ts',
        find: 'const lanes = this.lanes;',
        replace: 'const lanes = [] as LaneName[];\n    this.lanes = [];',
      },
    ],
    proofs: [
      { test: ['test/lanes-rest.e2e-spec.ts', 'is found behind that without a poll'] },
      { history: [...UNPOLLED, '--lanes', 'many'] },
    ],
  },
];
