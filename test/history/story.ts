import { check } from './check.js';
import type { Event, RunKey, Snapshot } from './event.js';
import { historyOf } from './history.js';
import type { Promises } from './rules/violation.js';

type Distribute<T> = T extends unknown ? Omit<T, 'tick'> : never;

interface Held {
  run: number;
  runner: string;
  lease: number;
}

/** Tells a history step by step, as the processes of a run would have logged it: for the tests of the checker. */
export class Story {
  private events: Event[] = [];
  private tick = 0;
  private nextXid = 100;
  private nextLease = 1;
  private readonly open = new Set<number>();
  private readonly stamps = new Map<string, number>();
  private readonly attempts = new Map<string, number>();
  private readonly seqs = new Map<string, number>();
  private readonly held = new Map<string, Held>();

  /** Any event; a step that no runner would take. */
  log(event: Distribute<Event>): this {
    this.events.push({ tick: ++this.tick, ...event } as Event);
    return this;
  }

  /** Takes the last events of a type away: what a process that was killed did not get to. */
  forget(matches: (event: Event) => boolean): this {
    this.events = this.events.filter((event) => !matches(event));
    return this;
  }

  begin(): Transaction {
    const xid = this.nextXid++;
    this.open.add(xid);
    return new Transaction(this, xid, (outcome, ids) => {
      this.open.delete(xid);
      if (outcome === 'rolled back') this.forget((event) => 'xid' in event && event.xid === xid);
      this.log({ type: 'transaction', transaction: `t${xid}`, outcome, ids });
    });
  }

  /** A transaction of its own for the jobs. */
  spawn(ids: readonly string[], options?: SpawnedOptions): this {
    const transaction = this.begin();
    transaction.spawn(ids, options);
    transaction.commit();
    return this;
  }

  lease(runner: string, ids: readonly string[]): this {
    const lease = this.nextLease++;
    const jobs = ids.map((id) => ({ id, run: this.stamps.get(id) ?? 0 }));
    for (const { id, run } of jobs) this.held.set(id, { run, runner, lease });
    return this.log({ type: 'leased', runner, lease, jobs });
  }

  start(id: string, { seq, ...others }: { seq?: number; attempt?: number } & Partial<RunKey> = {}): this {
    const attempt = others.attempt ?? (this.attempts.get(id) ?? 0) + 1;
    this.attempts.set(id, attempt);
    if (seq !== undefined) this.seqs.set(id, seq);
    const key = { ...this.key(id), ...others };
    return this.log({ type: 'start', ...key, attempt, seq: seq ?? null, pid: 1, snapshot: this.snapshot() });
  }

  end(id: string, how: 'returned' | 'threw' = 'returned', key: Partial<RunKey> = {}): this {
    return this.log({ type: 'end', ...this.key(id), ...key, how });
  }

  /** The settler writes the end of a job, with its lease. */
  settle(id: string, outcome: 'completed' | 'dead' = 'completed', key: Partial<RunKey> = {}): this {
    const xid = this.nextXid++;
    return this.settled(id, outcome, xid, key).unlease(id, xid);
  }

  settled(id: string, outcome: 'completed' | 'dead', xid: number, key: Partial<RunKey> = {}): this {
    const { run } = { ...this.key(id), ...key };
    const seq = this.seqs.get(id) ?? null;
    this.nextXid = Math.max(this.nextXid, xid + 1);
    return this.log({ type: 'settled', id, run, outcome, seq, xid, snapshot: this.snapshot(xid) });
  }

  unlease(id: string, xid = this.nextXid++): this {
    const { runner, lease } = this.key(id);
    if (this.events.some((event) => event.type === 'unleased' && event.runner === runner && event.lease === lease))
      return this;
    return this.log({ type: 'unleased', runner, lease, xid });
  }

  /** A handler completes its job in its own transaction. */
  effect(id: string, key: Partial<RunKey> = {}): this {
    const xid = this.nextXid++;
    this.log({ type: 'effect', ...this.key(id), ...key, xid });
    return this.settled(id, 'completed', xid, key);
  }

  /** The settler, or a rescuer, puts a job back. */
  requeue(id: string): this {
    const { run } = this.key(id);
    this.stamps.set(id, run + 1);
    const xid = this.nextXid++;
    return this.log({ type: 'requeued', id, run, xid }).unlease(id, xid);
  }

  gone(runner: string): this {
    return this.log({ type: 'gone', runner });
  }

  /** A whole run, as it should be. */
  run(id: string, { runner = 'r1', ...options }: { runner?: string; seq?: number } = {}): this {
    return this.lease(runner, [id]).start(id, options).end(id).settle(id);
  }

  /** One that throws. */
  fail(id: string, { runner = 'r1', ...options }: { runner?: string; seq?: number } = {}): this {
    return this.lease(runner, [id]).start(id, options).end(id, 'threw').requeue(id);
  }

  key(id: string): RunKey {
    const held = this.held.get(id) ?? { run: 0, runner: 'r1', lease: 0 };
    return { id, ...held };
  }

  snapshot(own?: number): Snapshot {
    const running = [...this.open].filter((xid) => xid !== own);
    return `${Math.min(this.nextXid, ...running)}:${this.nextXid}:${running.join(',')}`;
  }

  /** The log so far. */
  told(): readonly Event[] {
    return this.events;
  }

  /** Names of the rules that it breaks. */
  broken(promises: Partial<Promises> = {}): string[] {
    const violations = check(historyOf(this.events), { strict: true, complete: true, ...promises });
    return [...new Set(violations.map(({ rule }) => rule))];
  }
}

interface SpawnedOptions {
  lane?: string;
  maxAttempts?: number;
}

class Transaction {
  private calls = 0;
  private readonly ids: string[] = [];

  constructor(
    private readonly story: Story,
    private readonly xid: number,
    private readonly ended: (outcome: 'committed' | 'rolled back', ids: readonly string[]) => void,
  ) {}

  /** One call of spawnMany. */
  spawn(ids: readonly string[], { lane, maxAttempts = 3 }: SpawnedOptions = {}): this {
    const call = `c${this.xid}.${this.calls++}`;
    const { story, xid } = this;
    story.log({ type: 'call', call, transaction: `t${xid}`, snapshot: story.snapshot(xid) });
    for (const [index, id] of ids.entries()) {
      story.log({ type: 'spawned', id, call, index, xid, lane: lane ?? null, maxAttempts });
      this.ids.push(id);
    }
    return this;
  }

  commit(): void {
    this.ended('committed', this.ids);
  }

  rollback(): void {
    this.ended('rolled back', this.ids);
  }
}
