import type { Logger } from '@nestjs/common';
import { cancelJobs, type CancelRequest } from '../statements/cancel-jobs.js';
import type { RescueParams } from '../statements/keep-spent-jobs.js';
import { repairLanes } from '../statements/mend-lanes.js';
import { declareDead, forgetRunners, type HeartbeatRow, type Peer } from '../statements/runners.js';
import { rescueExpired } from '../statements/rescue-expired.js';
import { rescueJobs, rescueLanes } from '../statements/rescue-jobs.js';
import { run, type SqlClient } from '../statements/statement.js';
import { beginHashing, beginOwningAll } from '../statements/transaction.js';
import { SURVEY_MESSAGE } from '../statements/wake-up.js';
import { DeathWatch, type DeathWatchSettings } from './death-watch.js';

/** @param start opens the transaction, `begin` by default */
export type Transact = <T>(work: (client: SqlClient) => Promise<T>, start?: string) => Promise<T>;

/** A runner as it was found. */
export interface FormerRunner {
  readonly id: string;
  readonly beat: number;
}

export interface RescuerSettings extends DeathWatchSettings {
  /** How long cancelled jobs are kept. */
  readonly keepCancelledMs: number;
  readonly schema: string;
}

export interface Rescued {
  readonly waiting: number;
  readonly dead: number;
  /** Told to stop before their runner died. */
  readonly cancelled: number;
  /** What to wake runners with. */
  readonly messages: readonly string[];
}

/**
 * So often, and for so long, it is looked for runs of this process whose lease has passed by its own clock, a little
 * before it has by the database's.
 */
const [LOOK_AGAIN_MS, EXPECTED_MS] = [200, 2_000];

/** Finds runners that have died and runs that have outlived their lease, and puts their jobs back. Heartbeats tell it; it asks the database only to act. */
export class Rescuer {
  private readonly watch: DeathWatch;
  /** Misses former processes of this one sooner than strangers. */
  private readonly ownWatch: DeathWatch;
  private formerIds: ReadonlySet<string> = new Set();
  private dead: readonly Peer[] = [];
  private gone: readonly FormerRunner[] = [];
  private orphaned = false;
  private expired = false;
  /** Runs of this process are expected to have expired by then. */
  private expectedUntil = -Infinity;
  /** Asked to be cancelled, and nobody has them any more. */
  private unclaimed: readonly CancelRequest[] = [];

  constructor(
    private readonly settings: RescuerSettings,
    private readonly transact: Transact,
    private readonly onRescued: (rescued: Rescued) => void,
    private readonly onDeath: () => void,
    private readonly logger: Logger,
  ) {
    this.watch = new DeathWatch(settings);
    this.ownWatch = new DeathWatch({ ...settings, leaseMs: settings.leaseMs / 2 });
  }

  /** Takes in a heartbeat's answer; says whether there is something to do at once. */
  see({ peers, orphaned, expired, cancelRequests }: HeartbeatRow): boolean {
    this.dead = this.missing(peers, performance.now());
    this.orphaned = orphaned;
    this.expired ||= expired;
    this.unclaimed = cancelRequests.filter(({ free }) => free);
    return this.dead.length > 0 || orphaned || expired || this.unclaimed.length > 0;
  }

  /** Those that had this process's name when it started, and those of them that have ended for certain: dead at the next turn. */
  expectFormer(former: readonly FormerRunner[], gone: readonly FormerRunner[]): void {
    this.formerIds = new Set(former.map(({ id }) => id));
    this.gone = gone;
  }

  private missing(peers: readonly Peer[], now: number): Peer[] {
    const own = this.ownWatch.look(
      peers.filter(({ id }) => this.formerIds.has(id)),
      now,
    );
    const strangers = this.watch.look(peers, now).filter(({ id }) => own.every((former) => former.id !== id));
    return [...own, ...strangers];
  }

  /** A run of this process has outlived its lease: the next turns look for it. */
  expectExpired(): void {
    // Once at any rate, however late the next turn comes.
    this.expired = true;
    this.expectedUntil = performance.now() + EXPECTED_MS;
  }

  /** @returns milliseconds until another turn is wanted, where that is soon */
  async turn(): Promise<number | undefined> {
    await this.declareGone();
    await this.declareDead();
    const expected = performance.now() < this.expectedUntil;
    if (this.expired || expected) {
      this.expired = false;
      await this.rescueAll((client) => rescueExpiredOnce(client, this.settings));
    }
    await this.cancelUnclaimed();
    if (this.orphaned) {
      this.orphaned = false;
      await this.rescueAll((client) => rescueOnce(client, this.settings));
      await this.transact((client) => run(client, forgetRunners, { runner: null }));
    }
    return expected ? LOOK_AGAIN_MS : undefined;
  }

  private async declareDead(): Promise<void> {
    const { dead } = this;
    this.dead = [];
    for (const { id, beat, ageMs } of dead) {
      const declared = await this.transact((client) => run(client, declareDead, { runner: id, beat }));
      if (declared.length === 0) continue;
      this.orphaned = true;
      this.onDeath();
      this.logger.warn(`Runner ${id} has given no sign for ${Math.round(ageMs)} ms: its jobs are rescued.`);
    }
  }

  private async declareGone(): Promise<void> {
    const { gone } = this;
    this.gone = [];
    for (const { id, beat } of gone) {
      const declared = await this.transact((client) => run(client, declareDead, { runner: id, beat }));
      if (declared.length === 0) continue;
      this.orphaned = true;
      this.onDeath();
      this.logger.log(`Runner ${id}, which had the runnerId of this process, has ended: its jobs are rescued.`);
    }
  }

  /** Lanes that were given back, and claims whose answer was lost, may leave jobs that were told to stop in vain. */
  private async cancelUnclaimed(): Promise<void> {
    const { unclaimed } = this;
    this.unclaimed = [];
    const { schema, keepCancelledMs: keepMs } = this.settings;
    for (const channel of new Set(unclaimed.map((request) => request.channel))) {
      const lanes = unclaimed.filter((request) => request.channel === channel);
      const params = { channel, ids: lanes.map(({ id }) => id), reason: null, keepMs };
      const [[row], freed] = await this.transact(
        (client) => Promise.all([run(client, cancelJobs, params), run(client, repairLanes, { lanes })]),
        beginOwningAll(schema, channel),
      );
      const messages = freed.flatMap(({ message }) => message ?? []);
      const cancelled = row?.cancelled.length ?? 0;
      if (cancelled > 0) this.onRescued({ waiting: 0, dead: 0, cancelled, messages });
    }
  }

  /** Pass after pass until one finds nothing; what is locked now the next heartbeat finds again. */
  private async rescueAll(once: (client: SqlClient) => Promise<Rescued | null>): Promise<void> {
    for (;;) {
      const rescued = await this.transact(once, beginHashing);
      if (rescued === null) return;
      this.onRescued(rescued);
    }
  }
}

/** One pass; `null` when there was nothing. */
async function rescueOnce(client: SqlClient, params: RescueParams): Promise<Rescued | null> {
  const [jobs, lanes] = await Promise.all([run(client, rescueJobs, params), run(client, rescueLanes, {})]);
  if (jobs.length === 0 && lanes.length === 0) return null;
  const waiting = jobs.filter(({ outcome }) => outcome === 'waiting');
  const messages = [...waiting.filter(({ suspect }) => !suspect), ...lanes].flatMap(({ message }) => message ?? []);
  if (waiting.some(({ suspect }) => suspect)) messages.push(SURVEY_MESSAGE);
  const dead = jobs.filter(({ outcome }) => outcome === 'dead').length;
  return { waiting: waiting.length, dead, cancelled: jobs.length - waiting.length - dead, messages };
}

/** One pass over the runs that have outlived their lease; `null` when there was none. */
async function rescueExpiredOnce(client: SqlClient, params: RescueParams): Promise<Rescued | null> {
  const rows = await run(client, rescueExpired, params);
  if (rows.length === 0) return null;
  const count = (wanted: string): number => rows.filter(({ outcome }) => outcome === wanted).length;
  const [waiting, dead, cancelled] = [count('waiting'), count('dead'), count('cancelled')];
  const messages = rows.flatMap(({ message }) => message ?? []);
  return { waiting, dead, cancelled, messages: waiting > 0 ? [...messages, SURVEY_MESSAGE] : messages };
}
