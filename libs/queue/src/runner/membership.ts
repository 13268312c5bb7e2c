import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { Logger } from '@nestjs/common';
import type { ClientConfig } from 'pg';
import { LeaseKeeper } from '../claim/lease-keeper.js';
import type { LeaseBook } from '../job/lease-book.js';
import { Rescuer, type Rescued, type Transact } from '../maintenance/rescuer.js';
import type { Connection } from '../postgres/connection.js';
import { forgetRunners, markStopping, registerRunner, type HeartbeatRow } from '../statements/runners.js';
import { run } from '../statements/statement.js';

export interface MembershipSettings {
  readonly schema: string;
  readonly options: ClientConfig;
  readonly leaseMs: number;
  readonly blockedLimitMs: number;
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
}

/** This process as a member of the fleet: known to the others, alive as long as it beats, and watching them. */
export class Membership {
  private currentId = newRunnerId();
  private joined = false;
  private readonly keeper: LeaseKeeper;
  private readonly rescuer: Rescuer;

  constructor(
    settings: MembershipSettings,
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
    this.rescuer = new Rescuer(watch, transact, (rescued) => events.rescued(rescued), logger);
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
      const params = { runner: this.currentId, host: hostname(), pid: process.pid };
      await this.connection.transaction((client) => run(client, registerRunner, params));
      this.joined = params.runner === this.currentId;
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

  rescue(): Promise<void> {
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
