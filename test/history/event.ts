// What the processes of a run did, each with its place in the order of the database. A log is one event a line, as JSON.

/** Names one run of a job: the fence that its settlement has to pass. */
export interface RunKey {
  readonly id: string;
  /** The job's stamp. */
  readonly run: number;
  readonly runner: string;
  readonly lease: number;
}

/** A snapshot as `pg_current_snapshot()` writes it: `xmin:xmax:xip,…`. It tells which transactions had committed. */
export type Snapshot = string;

/**
 * `tick`: number of a sequence of the database, taken while the event happened. Who got a higher one asked later. A
 * transaction has committed before an event when its `xid` is visible in the event's `snapshot`, and not otherwise.
 */
export type Event = { readonly tick: number } & (
  SpawnEvent | HandlerEvent | SettlementEvent | { readonly type: 'fault'; readonly kind: string; readonly pid: number }
);

type SpawnEvent =
  /** A call of spawn or spawnMany is about to begin. Calls of one transaction have the order of their ticks. */
  | { readonly type: 'call'; readonly call: string; readonly transaction: string; readonly snapshot: Snapshot }
  /** A job of a call, written by the transaction that spawned it: what rolled back is not in the log. */
  | {
      readonly type: 'spawned';
      readonly id: string;
      readonly call: string;
      /** Place within the call. */
      readonly index: number;
      readonly xid: number;
      /** Name of the lane of an ordered job, `null` for all others. */
      readonly lane: string | null;
      /** `null`: no limit. */
      readonly maxAttempts: number | null;
    }
  /** How a transaction ended, as its spawner was told. None when the spawner never heard. */
  | {
      readonly type: 'transaction';
      readonly transaction: string;
      readonly outcome: 'committed' | 'rolled back';
      readonly ids: readonly string[];
    };

type HandlerEvent =
  /** First thing that a handler does. */
  | ({
      readonly type: 'start';
      readonly attempt: number;
      readonly seq: number | null;
      readonly pid: number;
      readonly snapshot: Snapshot;
    } & RunKey)
  /** Last thing that it does. */
  | ({ readonly type: 'end'; readonly how: 'returned' | 'threw' } & RunKey)
  /** Written by the transaction in which the handler has completed its job: what rolled back is not in the log. */
  | ({ readonly type: 'effect'; readonly xid: number } & RunKey);

type SettlementEvent =
  | {
      /** Told again of a lease that is extended: with the jobs that are left, and the new ones. */
      readonly type: 'leased';
      readonly runner: string;
      readonly lease: number;
      readonly jobs: readonly { readonly id: string; readonly run: number }[];
    }
  | { readonly type: 'unleased'; readonly runner: string; readonly lease: number; readonly xid: number }
  /** A job was put back, by its runner or by a rescuer: this run of it is over. `lapsed`: its lease had an end, which had passed. */
  | {
      readonly type: 'requeued';
      readonly id: string;
      readonly run: number;
      readonly xid: number;
      readonly lapsed?: boolean;
    }
  /** The end of a job. */
  | {
      readonly type: 'settled';
      readonly id: string;
      readonly run: number;
      readonly outcome: 'completed' | 'dead';
      readonly seq: number | null;
      readonly xid: number;
      readonly snapshot: Snapshot;
    }
  /** A runner has announced that it shuts down: what it still has in hand is not counted when it has to leave it. */
  | { readonly type: 'stopping'; readonly runner: string }
  /** A runner was declared dead, or took its leave. */
  | { readonly type: 'gone'; readonly runner: string };

export type EventOf<Type extends Event['type']> = Extract<Event, { type: Type }>;

/** Whether a transaction had committed when the snapshot was taken. */
export function sees(snapshot: Snapshot, xid: number): boolean {
  const [xmin, xmax, running] = snapshot.split(':') as [string, string, string];
  if (xid < Number(xmin)) return true;
  if (xid >= Number(xmax)) return false;
  return !running.split(',').includes(String(xid));
}

/** Lowest xid that a snapshot cannot see for certain. */
export const horizonOf = (snapshot: Snapshot): number => Number(snapshot.split(':')[1]);

export const parseLog = (text: string): Event[] =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Event);
