import type { Event, EventOf, RunKey } from './event.js';

/** One run of a job by a handler. */
export interface Run extends RunKey {
  readonly start: EventOf<'start'>;
  readonly end: EventOf<'end'> | null;
  readonly job: Job;
  /** Tick at which its lease was taken from it, or ended with its settlement; `Infinity`: never. */
  readonly fencedAt: number;
  /** It began when its lease was gone already: a process that was paused has not noticed yet. */
  readonly zombie: boolean;
  /** Its runner was declared dead, or left, before the run was settled. */
  readonly lostWith: EventOf<'gone'> | null;
  /** Its runner was shutting down before the run was settled. */
  readonly inShutdown: boolean;
}

/** All that is known of one job. */
export interface Job {
  readonly id: string;
  /** `null`: no committed transaction has spawned it. */
  readonly spawned: EventOf<'spawned'> | null;
  readonly call: EventOf<'call'> | null;
  /** In the order of their starts. */
  readonly runs: readonly Run[];
  readonly requeued: readonly EventOf<'requeued'>[];
  readonly settled: readonly EventOf<'settled'>[];
  readonly effects: readonly EventOf<'effect'>[];
}

export interface History {
  readonly jobs: ReadonlyMap<string, Job>;
  /** Jobs of each ordered lane that were spawned. */
  readonly lanes: ReadonlyMap<string, readonly Job[]>;
  readonly leases: ReadonlyMap<string, Lease>;
  readonly transactions: readonly EventOf<'transaction'>[];
}

export interface Lease {
  readonly leased: EventOf<'leased'>;
  readonly unleased: EventOf<'unleased'> | null;
}

export const leaseName = ({ runner, lease }: { runner: string; lease: number }): string => `${runner}/${lease}`;

const runName = (key: RunKey): string => `${key.id}/${key.run}/${leaseName(key)}`;

/** How long a run was entitled to what it did: until its handler ended or its lease was gone. */
export const validUntil = ({ end, fencedAt }: Run): number => Math.min(end?.tick ?? Infinity, fencedAt);

/** Puts the events of a log together by jobs, runs and leases. */
export function historyOf(events: readonly Event[]): History {
  const log = new Log(events.toSorted((a, b) => a.tick - b.tick));
  const jobs = new Map<string, Job>();
  for (const id of log.ids()) jobs.set(id, log.job(id));
  const lanes = new Map<string, Job[]>();
  for (const job of jobs.values()) if (job.spawned?.lane) append(lanes, job.spawned.lane, job);
  return { jobs, lanes, leases: log.leases, transactions: log.of('transaction') };
}

class Log {
  readonly leases = new Map<string, Lease>();
  private readonly byType = new Map<string, Event[]>();
  private readonly byJob = new Map<string, Event[]>();
  private readonly calls = new Map<string, EventOf<'call'>>();
  private readonly gone = new Map<string, EventOf<'gone'>>();
  private readonly stopping = new Map<string, EventOf<'stopping'>>();

  constructor(events: readonly Event[]) {
    for (const event of events) {
      append(this.byType, event.type, event);
      if ('id' in event) append(this.byJob, event.id, event);
    }
    for (const call of this.of('call')) this.calls.set(call.call, call);
    // Declared dead, then forgotten: the first counts.
    for (const gone of this.of('gone').toReversed()) this.gone.set(gone.runner, gone);
    for (const stopping of this.of('stopping')) this.stopping.set(stopping.runner, stopping);
    for (const leased of this.of('leased')) {
      const first = this.leases.get(leaseName(leased))?.leased;
      const whole = first === undefined ? leased : { ...first, jobs: [...first.jobs, ...leased.jobs] };
      this.leases.set(leaseName(leased), { leased: whole, unleased: null });
    }
    for (const unleased of this.of('unleased')) {
      const lease = this.leases.get(leaseName(unleased));
      if (lease) this.leases.set(leaseName(unleased), { ...lease, unleased });
    }
  }

  of<Type extends Event['type']>(type: Type): EventOf<Type>[] {
    return (this.byType.get(type) ?? []) as EventOf<Type>[];
  }

  ids(): Iterable<string> {
    return this.byJob.keys();
  }

  job(id: string): Job {
    const events = this.byJob.get(id) ?? [];
    const of = <Type extends Event['type']>(type: Type): EventOf<Type>[] =>
      events.filter((event): event is EventOf<Type> => event.type === type);
    const runs: Run[] = [];
    const spawned = of('spawned')[0] ?? null;
    const call = spawned && (this.calls.get(spawned.call) ?? null);
    const job = { id, spawned, call, runs, requeued: of('requeued'), settled: of('settled'), effects: of('effect') };
    const ends = new Map(of('end').map((end) => [runName(end), end]));
    for (const start of of('start')) runs.push(this.run(job, start, ends.get(runName(start)) ?? null));
    return job;
  }

  private run(job: Job, start: EventOf<'start'>, end: EventOf<'end'> | null): Run {
    const { id, run, runner, lease } = start;
    const settlements = [...job.requeued, ...job.settled].filter((settlement) => settlement.run === run);
    const unleased = this.leases.get(leaseName(start))?.unleased?.tick ?? Infinity;
    const fencedAt = Math.min(unleased, ...settlements.map(({ tick }) => tick));
    const gone = this.gone.get(runner);
    const lostWith = gone && gone.tick < fencedAt ? gone : null;
    const inShutdown = (this.stopping.get(runner)?.tick ?? Infinity) < fencedAt;
    return { id, run, runner, lease, start, end, job, fencedAt, zombie: fencedAt < start.tick, lostWith, inShutdown };
  }
}

function append<Key, Value>(map: Map<Key, Value[]>, key: Key, value: Value): void {
  const values = map.get(key);
  if (values === undefined) map.set(key, [value]);
  else values.push(value);
}
