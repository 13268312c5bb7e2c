import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { Logger } from '@nestjs/common';
import type { ClientConfig } from 'pg';
import { LeaseKeeper } from '../claim/lease-keeper.js';
import type { LeaseBook } from '../job/lease-book.js';
import { Rescuer, type Rescued, type Transact } from '../maintenance/rescuer.js';
import type { Connection } from '../postgres/connection.js';
import { findIncarnations } from '../statements/list-runners.js';
import {
  forgetRunners,
  markStopping,
  registerRunner,
  type HeartbeatRow,
  type RunnerCard,
} from '../statements/runners.js';
import { run } from '../statements/statement.js';
import { packageVersion } from './package-version.js';
import { hasEnded, identifyProcess } from './process-identity.js';

export interface MembershipSettings {
  readonly schema: string;
  readonly options: ClientConfig;
  readonly leaseMs: number;
  readonly blockedLimitMs: number;
  /** The stable name, `null`: none. */
  readonly runnerId: string | null;
  /** Whether to end the leases of former processes of that name. */
  readonly releaseOwn: boolean;
  readonly max: number;
  readonly channels: readonly string[] | null;
  /** How long cancelled jobs are kept. */
  readonly finishedRetentionMs: number;
}

export interface MembershipEvents {
  beaten(row: HeartbeatRow): void;
  /** These leases are gone. */
  lost(leases: readonly number[]): void;
  /** This process was declared dead while it lived: everything it had under that id is lost. */
  declaredDead(runner: string): void;
  blocked(blockedMs: number): void;
  rescued(rescued: Rescued): void;
  /** A former process of this name has ended: its jobs are to be rescued now. */
  formerGone(): void;
  /** Another runner is dead. */
  peerDied(): void;
}

/** This process as a member of the fleet: known to the others, alive as long as it beats, and watching them. */
export class Membership {
  private currentId = newRunnerId();
  private joined = false;
  private hasReleasedOwn = false;
  private readonly keeper: LeaseKeeper;
  private readonly rescuer: Rescuer;

  constructor(
    private readonly settings: MembershipSettings,
    /** Names that can be run here. */
    private readonly names: () => readonly string[],
    book: LeaseBook,
    private readonly connection: Connection,
    transact: Transact,
    private readonly events: MembershipEvents,
    private readonly logger: Logger,
  ) {
    const heartbeatMs = Math.round(settings.leaseMs / 4);
    this.keeper = new LeaseKeeper(
      { ...settings, heartbeatMs },
      book,
      () => (this.joined ? this.currentId : null),
      { ...events, declaredDead: () => this.startAnew() },
      logger,
    );
    const { leaseMs, schema, finishedRetentionMs: keepCancelledMs } = settings;
    const watch = { leaseMs, heartbeatMs, schema, keepCancelledMs };
    const onRescued = (rescued: Rescued): void => events.rescued(rescued);
    this.rescuer = new Rescuer(watch, transact, onRescued, () => events.peerDied(), logger);
  }

  get id(): string {
    return this.currentId;
  }

  /** Whether the last heartbeat is young enough to start a job on. */
  get trusted(): boolean {
    return this.joined && this.keeper.trusted;
  }

  start(): void {
    this.keeper.start();
  }

  /** Enters the fleet if need be; after an outage it makes sure that nobody has declared this process dead. */
  async join(): Promise<void> {
    if (!this.joined) {
      const runner = this.currentId;
      await this.connection.transaction((client) => run(client, registerRunner, { runner, ...this.card() }));
      this.joined = runner === this.currentId;
      await this.releaseOwn();
    }
    if (!this.keeper.trusted) await this.keeper.beat();
  }

  /** A connection broke: the leases are in doubt until the next heartbeat. */
  distrust(): void {
    this.keeper.distrust();
  }

  /** Ends the wait for a heartbeat: the process stops. */
  release(): void {
    this.keeper.release();
  }

  /** Takes in what a heartbeat tells of the others; says whether somebody is to be rescued now. */
  see(row: HeartbeatRow): boolean {
    return this.rescuer.see(row);
  }

  /** A run of this process has outlived its lease. */
  expectExpired(): void {
    this.rescuer.expectExpired();
  }

  /** @returns milliseconds until that is to be done again, where it is soon */
  rescue(): Promise<number | undefined> {
    return this.rescuer.turn();
  }

  /** From now on a rescuer gives the attempt back to whatever outlasts this process. */
  async announceStop(): Promise<void> {
    if (!this.joined) return;
    await this.connection.transaction((client) => run(client, markStopping, { runner: this.currentId }));
  }

  async stopBeating(): Promise<void> {
    await this.keeper.stop();
  }

  /** Takes its row out of the table, unless runs that go on still need it. */
  async leave(): Promise<void> {
    if (!this.joined) return;
    await this.connection.transaction((client) => run(client, forgetRunners, { runner: this.currentId }));
  }

  private card(): RunnerCard {
    const { runnerId: name, max: concurrency, channels } = this.settings;
    const own = { host: hostname(), pid: process.pid, process: identifyProcess(), version: packageVersion() };
    // In one order, since runners are compared by them.
    const jobs = { channels: channels && channels.toSorted(), names: this.names().toSorted() };
    return { ...own, name, concurrency, ...jobs };
  }

  /**
   * Once: whoever had this name before, if it has ended, shall not be waited for as long as a stranger. Its process tells
   * where that can be seen from here; else its heartbeats, watched for half the usual time. One that beats is never touched.
   */
  private async releaseOwn(): Promise<void> {
    const { runnerId: name, releaseOwn } = this.settings;
    if (!releaseOwn || name === null || this.hasReleasedOwn) return;
    this.hasReleasedOwn = true;
    const others = await this.connection.transaction((client) =>
      run(client, findIncarnations, { name, runner: this.currentId }),
    );
    const gone = others.filter((other) => hasEnded(other.process));
    this.rescuer.expectFormer(others, gone);
    if (gone.length > 0) this.events.formerGone();
  }

  private startAnew(): void {
    const dead = this.currentId;
    this.currentId = newRunnerId();
    this.joined = false;
    this.logger.error(
      `Runner ${dead} was declared dead while it lived (was the process paused?): its leases are lost, it goes on under another id.`,
    );
    this.events.declaredDead(dead);
  }
}

/** 63 random bits: an id that a crash of the server cannot hand out again. */
function newRunnerId(): string {
  return (randomBytes(8).readBigUInt64BE() >> 1n).toString();
}
