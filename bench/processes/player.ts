import { setTimeout as sleep } from 'node:timers/promises';
import { BacklogLimit } from '../load/backlog-limit.js';
import { jobOf, jobsFrom, keyOf, namesOf, PLAIN, type Shape } from '../load/jobs.js';
import { offerInBulk, offerSteadily, type BulkTerms, type Offered, type SteadyTerms } from '../load/offer.js';
import { repeatCalls, type Called, type CallTerms } from '../load/repeat-calls.js';
import { clockMs } from '../measure/clock.js';
import { RunLog, type RunCounts } from '../measure/run-log.js';
import type { Client, Place, Query, System, Work } from '../systems/system.js';
import type { Told } from './remote.js';

/** What a process is to do with the jobs of its system. */
export interface Part {
  readonly shape: Shape;
  readonly ordered: boolean;
  /** `null`: it only sends. */
  readonly work: { readonly kind: Work['kind']; readonly takesMs: number } | null;
}

/** Jobs of which the process that sends is told in one message, and how soon: each wakes two other processes. */
const TOLD_TOGETHER = 200;
const TOLD_WITHIN_MS = 20;

/** The number of a job that only asks whether somebody works. */
const PING = -1;

const BUSINESS_INSERT = 'INSERT INTO business (n) VALUES ($1)';

/** Jobs that a batch handler gets at most. */
export const BATCH = 100;

/** Steps that a handler writes down in the workload of checkpoints. */
export const STEPS = 20;

/** One process of one system, that does what the bench asks of it. All systems are measured by the same lines. */
export class Player {
  private client: Client | null = null;
  private shape = PLAIN;
  private ordered = false;
  private log = new RunLog(0);
  private cpuAtFirst = 0;
  private pinged = 0;
  /** Jobs that have begun since the last message. */
  private untold = 0;
  private tellTimer: NodeJS.Timeout | undefined;
  private limit = new BacklogLimit(0);

  private place: Place = { postgres: '', redis: null };

  constructor(private readonly system: System) {}

  moveTo(place: Place): void {
    this.place = place;
  }

  install(): Promise<void> {
    return this.system.install(this.place);
  }

  async open({ shape, ordered, work }: Part): Promise<void> {
    this.shape = shape;
    this.ordered = ordered;
    this.pinged = 0;
    const use = { names: namesOf(shape), ordered, work: work && this.workOf(work) };
    this.client = await this.system.open(this.place, use);
  }

  async close(): Promise<void> {
    await this.client?.close();
    this.client = null;
  }

  /**
   * Forgets what ran before.
   *
   * @param inOrder jobs of one key have to start in the order of their numbers
   */
  expect(capacity: number, inOrder: Shape | null = null): void {
    this.log = new RunLog(capacity, inOrder && ((n) => keyOf(n, inOrder)));
    this.cpuAtFirst = 0;
  }

  /** Sends jobs numbered from `first`, in calls of `perCall`: four at a time, where their order does not matter. */
  async sendAll(first: number, count: number, perCall: number): Promise<void> {
    const end = first + count;
    let next = first;
    const caller = async (): Promise<void> => {
      while (next < end) {
        const size = Math.min(perCall, end - next);
        const jobs = jobsFrom(next, size, this.shape);
        next += size;
        await this.opened.sendMany(jobs);
      }
    };
    await Promise.all(Array.from({ length: this.ordered ? 1 : 4 }, caller));
  }

  /** One call after the other. Answers the seconds it took. */
  async sendInTurn(count: number, perCall: number): Promise<number> {
    const calls = Array.from({ length: Math.ceil(count / perCall) }, (_, call) =>
      jobsFrom(call * perCall, Math.min(perCall, count - call * perCall), this.shape),
    );
    const startedAt = performance.now();
    for (const jobs of calls) await this.opened.sendMany(jobs);
    return (performance.now() - startedAt) / 1_000;
  }

  callRepeatedly(terms: CallTerms): Promise<Called> {
    return repeatCalls(terms, (n) => this.opened.send(jobOf(n, this.shape)));
  }

  /** Each call is a transaction of the application's: a row of its own, and the job. */
  callInTransactions(terms: CallTerms): Promise<Called> {
    const { transactions } = this.opened;
    if (transactions === null) throw new Error('This system does not send in transactions.');
    return repeatCalls(terms, (n) =>
      transactions.run(async (manager) => {
        await manager.query(BUSINESS_INSERT, [n]);
        await transactions.send(manager, jobOf(n, this.shape));
      }),
    );
  }

  offerInBulk(terms: BulkTerms): Promise<Offered> {
    this.limit = new BacklogLimit(terms.backlog);
    return offerInBulk(terms, this.limit, (first, count) => this.opened.sendMany(jobsFrom(first, count, this.shape)));
  }

  offerSteadily(terms: SteadyTerms): Promise<Offered> {
    return offerSteadily(terms, (n) => this.opened.send(jobOf(n, this.shape)));
  }

  begun(count: number): void {
    this.limit.leave(count);
  }

  /** Sends one job. Answers when it was about to. */
  async sendOne(n: number): Promise<number> {
    const calledAt = clockMs();
    await this.opened.send(jobOf(n, this.shape));
    return calledAt;
  }

  /** Sends jobs of no account, and waits until somebody has run them. */
  async ping(count: number): Promise<void> {
    await this.opened.sendMany(Array.from({ length: count }, () => jobOf(PING, this.shape)));
    await this.untilFinished();
  }

  /** How many of them it has run. */
  pings(): number {
    return this.pinged;
  }

  /** Answers when job n started, which is the next one. */
  async untilNext(n: number): Promise<number> {
    await this.log.reached(n + 1);
    return this.log.startedAt[n]!;
  }

  /** Sends jobs to itself, one at a time. Answers their milliseconds until the handler. */
  async sampleHere(samples: number, seconds: number): Promise<Float64Array> {
    const until = clockMs() + seconds * 1_000;
    const latencies: number[] = [];
    for (let n = 0; n < samples && clockMs() < until; n++) {
      const calledAt = await this.sendOne(n);
      latencies.push((await this.untilNext(n)) - calledAt);
      await pause();
    }
    return Float64Array.from(latencies);
  }

  /** Answers when the first job began, and what this process had used of the CPU by then. */
  async untilFirst(): Promise<{ startedAt: number; cpuMicros: number }> {
    await this.log.reached(1);
    return { startedAt: this.log.startedAt.find((at) => at > 0)!, cpuMicros: this.cpuAtFirst };
  }

  /** Answers when it was reached. */
  async untilRun(count: number): Promise<number> {
    await this.log.reached(count);
    return clockMs();
  }

  ran(): number {
    return this.log.count;
  }

  runs(): RunCounts {
    return this.log.runs;
  }

  starts(): Float64Array {
    return this.log.startedAt;
  }

  /** Answers when the last job was seen to be finished: before the question that found none. */
  async untilFinished(): Promise<number> {
    for (const until = clockMs() + 60_000; clockMs() < until;) {
      const askedAt = clockMs();
      if ((await this.opened.countUnfinished()) === 0) return askedAt;
    }
    throw new Error('Jobs whose handlers have ended are unfinished for a minute.');
  }

  countUnfinished(): Promise<number> {
    return this.opened.countUnfinished();
  }

  clear(): Promise<void> {
    return this.opened.clear();
  }

  cpuMicros(): number {
    return cpuMicros();
  }

  private get opened(): Client {
    if (this.client === null) throw new Error('The player is not open.');
    return this.client;
  }

  private start(n: number): void {
    if (n === PING) return void (this.pinged += 1);
    if (this.log.count === 0) this.cpuAtFirst = cpuMicros();
    this.log.add(n);
    this.untold += 1;
    if (this.untold >= TOLD_TOGETHER) this.tell();
    else this.tellTimer ??= setTimeout(() => this.tell(), TOLD_WITHIN_MS);
  }

  private tell(): void {
    clearTimeout(this.tellTimer);
    this.tellTimer = undefined;
    if (process.connected) process.send!({ told: 'begun', value: this.untold } satisfies Told);
    this.untold = 0;
  }

  private workOf({ kind, takesMs }: NonNullable<Part['work']>): Work {
    if (kind === 'plain') {
      const run = async (n: number): Promise<void> => {
        this.start(n);
        if (takesMs > 0) await sleep(takesMs);
      };
      return { kind, run };
    }
    if (kind === 'transactional') {
      const run = async (n: number, query: Query): Promise<void> => {
        await query(BUSINESS_INSERT, [n]);
        this.start(n);
      };
      return { kind, run };
    }
    if (kind === 'batch') {
      const run = async (numbers: readonly number[]): Promise<void> => {
        for (const n of numbers) this.start(n);
      };
      return { kind, size: BATCH, run };
    }
    if (kind === 'transactional batch') {
      const run = async (numbers: readonly number[], query: Query): Promise<void> => {
        await query('INSERT INTO business (n) SELECT unnest($1::bigint[])', [numbers]);
        for (const n of numbers) this.start(n);
      };
      return { kind, size: BATCH, run };
    }
    const run = async (n: number, checkpoint: (step: number) => Promise<unknown>): Promise<void> => {
      this.start(n);
      for (let step = 0; step < STEPS; step++) await checkpoint(step);
    };
    return { kind, run };
  }
}

function cpuMicros(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

/** The settlement is over by then, and no rhythm can fall into step with a timer. */
export const pause = (): Promise<void> => sleep(2 + Math.random() * 4);
