import type { Logger } from '@nestjs/common';
import { Loop } from '../maintenance/loop.js';
import { HoldExpirer } from '../maintenance/hold-expirer.js';
import type { LoopBoard } from '../maintenance/loop-board.js';
import { Pruner } from '../maintenance/pruner.js';
import type { Transact } from '../maintenance/rescuer.js';
import { type LaneName } from '../statements/lanes.js';
import { sweepLanes } from '../statements/mend-lanes.js';
import { run } from '../statements/statement.js';
import { surveyFeeds, type SurveyParams, type SurveyRow } from '../statements/survey-feeds.js';

export interface UpkeepSettings {
  /** Name of the queue instance, for the names of the loops. */
  readonly instance: string;
  readonly pollMs: number;
  readonly rescueMs: number;
  readonly pruneEveryMs: number;
  readonly survey: () => Survey;
  /** Ordered jobs that have arrived are being looked at, one after another. */
  readonly arriving: () => boolean;
}

/** What a survey asks for, and whom to tell what it has found. */
export interface Survey {
  readonly params: SurveyParams;
  readonly found: (rows: readonly SurveyRow[]) => void;
}

export interface UpkeepTurns {
  /** Lanes go on that nobody knew of, or whose head is gone: what to wake runners with. */
  readonly lanesFreed: (messages: readonly string[]) => void;
  /** Answers in how many milliseconds its next turn is wanted, where that is soon. */
  readonly rescue: () => Promise<number | undefined>;
}

/** Few enough that an idle process with ordered jobs in wait stays below one statement a second. */
const SURVEYS_PER_SWEEP = 3;

/** While the looks have not come to the end of what has arrived. */
const SURVEYS_PER_SWEEP_WHEN_BUSY = 12;

/** What a runner does now and then: look for jobs that no notification told of, end holds, rescue, prune. */
export class Upkeep {
  readonly poll: Loop;
  readonly rescue: Loop;
  readonly prune: Loop;
  private readonly holds: HoldExpirer;
  private surveys = 0;
  /** Where the last sweep ended. */
  private sweptTo: LaneName | null = null;
  /** All lanes are to be looked at, without a pause. */
  private sweepsAll = false;
  /** How often that was asked for: a sweep that was under way then has not done it. */
  private catchUps = 0;

  constructor(
    private readonly settings: UpkeepSettings,
    private readonly transact: Transact,
    private readonly turns: UpkeepTurns,
    logger: Logger,
    board: LoopBoard | null,
  ) {
    const { instance, pollMs, rescueMs, pruneEveryMs } = settings;
    const pruner = new Pruner(transact);
    this.holds = new HoldExpirer(transact, turns.lanesFreed);
    const loop = (name: string, everyMs: number, jitter: number, turn: () => Promise<number | void>): Loop =>
      new Loop({ name: `nestmq ${instance} ${name}`, everyMs, jitter, turn }, logger, board);
    this.poll = loop('poll', pollMs, 0.25, () => this.survey());
    this.rescue = loop('rescue', rescueMs, 0.1, () => turns.rescue());
    this.prune = loop('prune', pruneEveryMs, 0.25, async () => void (await pruner.turn()));
  }

  start(): void {
    for (const loop of [this.poll, this.rescue, this.prune]) loop.start();
  }

  /**
   * Nobody has listened for a while, or a runner has died that may have been about to look again at a lane: what was
   * sent meanwhile is found now. Of a lane's jobs that committed late, behind the place to which looks have gone, only a
   * sweep knows.
   */
  catchUp(): void {
    this.sweepsAll = true;
    this.catchUps += 1;
    this.sweptTo = null;
    this.poll.hurry();
  }

  /** @returns in how many milliseconds the next hold ends: it may keep jobs behind it from running */
  private async survey(): Promise<number | void> {
    const { catchUps } = this;
    const { params, found } = this.settings.survey();
    // Before the answer, which may tell of more.
    const arriving = this.settings.arriving();
    const rows = await this.transact((client) => run(client, surveyFeeds, params));
    found(rows);
    const [first] = rows;
    if (first?.endedHolds) await this.holds.turn();
    if (rows[0]?.ordered) await this.sweep(arriving);
    else if (catchUps === this.catchUps) this.sweepsAll = false;
    if (first?.nextHoldMicros) return Math.ceil((first.nextHoldMicros - first.nowMicros) / 1_000);
  }

  /**
   * Now and then, the next window of lanes: where there are none, nothing is asked. What has arrived is not lost but
   * about to be looked at, so a sweep waits for that, also for what the survey just told of: a process that starts above
   * a backlog would write down lane by lane what its first claims take anyway.
   */
  private async sweep(arriving: boolean): Promise<void> {
    this.surveys += 1;
    const patience = arriving && !this.sweepsAll ? SURVEYS_PER_SWEEP_WHEN_BUSY : SURVEYS_PER_SWEEP;
    if (this.surveys < patience && (this.settings.arriving() || !this.sweepsAll)) return;
    this.surveys = 0;
    const { sweptTo: after, catchUps } = this;
    const [row] = await this.transact((client) => run(client, sweepLanes, { after }));
    if (catchUps === this.catchUps) {
      this.sweptTo = row?.last ?? null;
      this.sweepsAll &&= this.sweptTo !== null;
    }
    if (this.sweepsAll && !arriving) this.poll.hurry();
    if (row && row.messages.length > 0) this.turns.lanesFreed(row.messages);
  }
}
