import type { Logger } from '@nestjs/common';
import { declareDead, forgetRunners, type HeartbeatRow, type Peer } from '../statements/runners.js';
import { rescueExpired } from '../statements/rescue-expired.js';
import { rescueJobs, type RescuedRow } from '../statements/rescue-jobs.js';
import { run, type SqlClient, type Statement } from '../statements/statement.js';
import { SURVEY_MESSAGE } from '../statements/wake-up.js';
import { DeathWatch, type DeathWatchSettings } from './death-watch.js';

export type Transact = <T>(work: (client: SqlClient) => Promise<T>) => Promise<T>;

export interface Rescued {
  readonly waiting: number;
  readonly dead: number;
  /** What to wake runners with. */
  readonly messages: readonly string[];
}

/** Finds runners that have died and runs that have outlived their lease, and puts their jobs back. Heartbeats tell it; it asks the database only to act. */
export class Rescuer {
  private readonly watch: DeathWatch;
  private dead: readonly Peer[] = [];
  private orphaned = false;
  private expired = false;

  constructor(
    settings: DeathWatchSettings,
    private readonly transact: Transact,
    private readonly onRescued: (rescued: Rescued) => void,
    private readonly logger: Logger,
  ) {
    this.watch = new DeathWatch(settings);
  }

  /** Takes in a heartbeat's answer; says whether there is something to do at once. */
  see({ peers, orphaned, expired }: HeartbeatRow): boolean {
    this.dead = this.watch.look(peers, performance.now());
    this.orphaned = orphaned;
    this.expired ||= expired;
    return this.dead.length > 0 || orphaned || expired;
  }

  /** A run has outlived its lease: the next turn looks for it. */
  expectExpired(): void {
    this.expired = true;
  }

  async turn(): Promise<void> {
    const dead = this.dead;
    this.dead = [];
    for (const { id, beat, ageMs } of dead) {
      const declared = await this.transact((client) => run(client, declareDead, { runner: id, beat }));
      if (declared.length === 0) continue;
      this.orphaned = true;
      this.logger.warn(`Runner ${id} has given no sign for ${Math.round(ageMs)} ms: its jobs are rescued.`);
    }
    if (this.expired) {
      this.expired = false;
      await this.rescueAll(rescueExpired);
    }
    if (!this.orphaned) return;
    this.orphaned = false;
    await this.rescueAll(rescueJobs);
    await this.transact((client) => run(client, forgetRunners, { runner: null }));
  }

  /** Pass after pass until one finds nothing; what is locked now the next heartbeat finds again. */
  private async rescueAll(statement: Statement<Record<string, never>, RescuedRow>): Promise<void> {
    for (;;) {
      const rows = await this.transact((client) => run(client, statement, {}));
      if (rows.length === 0) return;
      const waiting = rows.filter(({ outcome }) => outcome === 'waiting');
      const messages = waiting.filter(({ suspect }) => !suspect).map(({ message }) => message);
      if (messages.length < waiting.length) messages.push(SURVEY_MESSAGE);
      this.onRescued({ waiting: waiting.length, dead: rows.length - waiting.length, messages });
    }
  }
}
