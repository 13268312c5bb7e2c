import { Worker } from 'node:worker_threads';
import type { Logger } from '@nestjs/common';
import type { ClientConfig } from 'pg';
import { messageOf } from '../job/errors.js';
import type { LeaseBook, LeaseReport } from '../job/lease-book.js';
import { RetryDelay } from '../job/retry-delay.js';
import { heartbeat, type HeartbeatRow } from '../statements/runners.js';
import { beginPlain, commit } from '../statements/transaction.js';

export interface LeaseKeeperSettings {
  readonly schema: string;
  readonly options: ClientConfig;
  readonly leaseMs: number;
  readonly heartbeatMs: number;
  readonly blockedLimitMs: number;
}

/** What the heartbeats tell the runner. */
export interface LeaseKeeperEvents {
  /** One went through. */
  beaten(row: HeartbeatRow): void;
  /** These leases are gone: other runners may have their jobs. */
  lost(leases: readonly number[]): void;
  /** Somebody has declared this process dead: everything is lost, under this id. */
  declaredDead(): void;
  /** The event loop stood still so long. */
  blocked(blockedMs: number): void;
}

type WorkerMessage =
  | { type: 'ask'; at: number }
  | { type: 'ask-password' }
  | { type: 'beaten'; columns: unknown[]; report: LeaseReport & { runner: string }; at: number }
  | { type: 'failed'; message: string }
  | { type: 'gave-up'; blockedMs: number };

/** An event loop that takes longer to answer its own thread is worth a warning. */
const BLOCKED_MS = 1_000;

/** Keeps the leases of this process alive, off the event loop, and tells when they are lost. */
export class LeaseKeeper {
  private worker: Worker | null = null;
  private beatenAt = Number.NEGATIVE_INFINITY;
  private stopped = false;
  private readonly waiting: (() => void)[] = [];
  private readonly delay = new RetryDelay({ minMs: 500, maxMs: 60_000 });
  private restartTimer: NodeJS.Timeout | undefined;

  constructor(
    private readonly settings: LeaseKeeperSettings,
    private readonly book: LeaseBook,
    /** `null` while the runner is not registered: there is nothing to keep alive. */
    private readonly runnerId: () => string | null,
    private readonly events: LeaseKeeperEvents,
    private readonly logger: Logger,
  ) {}

  start(): void {
    const { options, heartbeatMs, blockedLimitMs, leaseMs, schema } = this.settings;
    const { password, ...rest } = options;
    const asksForPassword = typeof password === 'function';
    const client = { schema, namedStatements: false, query: () => Promise.reject(new Error('not used')) };
    const { text } = heartbeat.query(client, { runner: '0', held: [], highest: 0, started: [] });
    this.worker = new Worker(new URL('./heartbeat.worker.js', import.meta.url), {
      name: 'nestmq heartbeat',
      workerData: {
        options: withoutFunctions(asksForPassword || password === undefined ? rest : { ...rest, password }),
        asksForPassword,
        begin: beginPlain,
        text,
        commit,
        intervalMs: heartbeatMs,
        blockedLimitMs,
        answerTimeoutMs: Math.max(1_000, leaseMs / 2),
      },
    });
    this.worker.on('message', (message: WorkerMessage) => this.receive(message));
    this.worker.on('error', (error) => this.restart(error));
  }

  /**
   * Whether the last heartbeat is young enough to start a job on. After an outage this process may have been declared
   * dead: then it asks before it starts anything.
   */
  get trusted(): boolean {
    return performance.now() - this.beatenAt < this.settings.leaseMs * 0.6;
  }

  /** Sends a heartbeat now and waits until one was answered, whatever the answer. */
  async beat(): Promise<void> {
    if (this.stopped) return;
    const done = new Promise<void>((resolve) => this.waiting.push(resolve));
    this.worker?.postMessage({ type: 'beat' });
    await done;
  }

  /** Nobody shall wait for a heartbeat any more: the process stops. */
  release(): void {
    this.stopped = true;
    this.resolveWaiting();
  }

  /** A connection broke: whoever comes back may find the leases gone, so nothing starts before the next heartbeat. */
  distrust(): void {
    this.beatenAt = Number.NEGATIVE_INFINITY;
  }

  async stop(): Promise<void> {
    this.release();
    clearTimeout(this.restartTimer);
    const { worker } = this;
    this.worker = null;
    if (worker === null) return;
    const exited = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    worker.postMessage({ type: 'stop' });
    const forced = setTimeout(() => void worker.terminate(), 2_000);
    await exited;
    clearTimeout(forced);
  }

  private receive(message: WorkerMessage): void {
    switch (message.type) {
      case 'ask':
        this.report(message.at);
        break;
      case 'ask-password':
        void this.sendPassword();
        break;
      case 'beaten':
        this.beaten(message.columns, message.report, message.at);
        break;
      case 'failed':
        this.distrust();
        this.logger.warn(`Heartbeat failed, will try again: ${message.message}`);
        break;
      case 'gave-up':
        this.logger.error(
          `The event loop was blocked for ${Math.round(message.blockedMs)} ms, more than blockedLimitMs: the leases were given up.`,
        );
        break;
    }
  }

  private report(askedAt: number): void {
    const blockedMs = monotonicMs() - askedAt;
    if (blockedMs > BLOCKED_MS) this.events.blocked(blockedMs);
    const runner = this.runnerId();
    const report = runner === null ? null : { ...this.book.report(runner), runner };
    this.worker?.postMessage({ type: 'report', report });
  }

  private beaten(columns: unknown[], report: LeaseReport & { runner: string }, sentAt: number): void {
    const row = heartbeat.rows([columns], { ...report })[0]!;
    // An answer about an id that has been given up since says nothing.
    if (report.runner !== this.runnerId()) return;
    if (!row.alive) {
      this.distrust();
      this.events.declaredDead();
      this.resolveWaiting();
      return;
    }
    // As old as the message, should the event loop have been blocked since.
    this.beatenAt = performance.now() - (monotonicMs() - sentAt);
    const filled = new Set(report.filled);
    const lost = row.missing.filter((lease) => filled.has(lease) && this.book.has(lease));
    if (lost.length > 0) this.events.lost(lost);
    this.delay.reset();
    this.events.beaten(row);
    this.resolveWaiting();
  }

  private resolveWaiting(): void {
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  private async sendPassword(): Promise<void> {
    const { password } = this.settings.options;
    try {
      const value = typeof password === 'function' ? await password() : password;
      this.worker?.postMessage({ type: 'password', password: value });
    } catch (error) {
      this.logger.warn(`The password function failed: ${messageOf(error)}`);
    }
  }

  private restart(error: unknown): void {
    if (this.worker === null) return;
    this.worker = null;
    const inMs = this.delay.nextMs();
    this.logger.error(
      `The heartbeat thread ended, without it nothing is claimed; started again in ${Math.round(inMs)} ms: ${messageOf(error)}`,
    );
    this.restartTimer = setTimeout(() => this.start(), inMs);
  }
}

/** Functions cannot be given to a thread. Those in connection options (`checkServerIdentity`, `types`) are left out. */
function withoutFunctions(value: object): object {
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => typeof field !== 'function')
      .map(([name, field]) => [name, isPlain(field) ? withoutFunctions(field as object) : field]),
  );
}

function isPlain(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** The same clock in all threads of a process, and nobody sets it. */
function monotonicMs(): number {
  return Number(process.hrtime.bigint() / 1_000_000n);
}
