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

export const MUTANTS: readonly Mutant[] = [
  {
    name: 'the fence: the stamp of the run',
    patches: [{ file: `${STATEMENTS}/settle-jobs.ts`, find: '\n      AND job.run = done.run', replace: '' }],
    proofs: [{ history: ['--seconds', '60', '--lanes', 'none'] }],
  },
  {
    name: 'the fence: the stamp of the run and the lease',
    patches: [
      {
        file: `${STATEMENTS}/settle-jobs.ts`,
        find: '\n      AND job.run = done.run\n      AND EXISTS (SELECT FROM held_lease WHERE held_lease.number = done.lease)',
        replace: '',
      },
    ],
    proofs: [{ history: ['--seconds', '60', '--lanes', 'none'] }],
  },
  {
    name: 'the mutual exclusion of claims',
    patches: [
      {
        file: `${STATEMENTS}/transaction.ts`,
        find: '`${begin}; SELECT pg_advisory_xact_lock(${lockKey(schema, channel)})`',
        replace: '`${begin}; SELECT ${lockKey(schema, channel)}`',
      },
    ],
    proofs: [{ history: ['--seconds', '20', '--lanes', 'none', '--no-faults'] }],
  },
  {
    name: 'the recorded start of last attempts',
    patches: [
      {
        file: `${STATEMENTS}/claim-jobs.ts`,
        find: 'least(jobs, ${SLOTS}), hi_due_at',
        replace: '0, hi_due_at',
      },
    ],
    proofs: [{ history: ['--seconds', '20', '--lanes', 'none', '--no-faults', '--deadly', '100'] }],
  },
  {
    name: 'the recorded start of suspects',
    patches: [
      {
        file: `${STATEMENTS}/claim-jobs.ts`,
        find: 'ARRAY[id], ARRAY[run], 1, due_at, id FROM free',
        replace: 'ARRAY[id], ARRAY[run], 0, due_at, id FROM free',
      },
    ],
    proofs: [{ history: ['--seconds', '20', '--lanes', 'none', '--no-faults', '--deadly', '100'] }],
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
    proofs: [{ history: ['--seconds', '20', '--lanes', 'none', '--no-faults', '--poll-ms', '60000'] }],
  },
];
