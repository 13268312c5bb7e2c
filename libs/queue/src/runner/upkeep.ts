import type { Logger } from '@nestjs/common';
import { Loop } from '../maintenance/loop.js';
import { HoldExpirer } from '../maintenance/hold-expirer.js';
import type { LoopBoard } from '../maintenance/loop-board.js';
import { Pruner } from '../maintenance/pruner.js';
import type { Transact } from '../maintenance/rescuer.js';
import { run } from '../statements/statement.js';
import { surveyFeeds, type SurveyParams, type SurveyRow } from '../statements/survey-feeds.js';

export interface UpkeepSettings {
  /** Name of the queue instance, for the names of the loops. */
  readonly instance: string;
  readonly pollMs: number;
  readonly rescueMs: number;
  readonly pruneEveryMs: number;
  /** What a survey asks for. */
  readonly survey: SurveyParams;
}

export interface UpkeepTurns {
  readonly surveyed: (rows: readonly SurveyRow[]) => void;
  readonly rescue: () => Promise<void>;
}

/** What a runner does now and then: look for jobs that no notification told of, end holds, rescue, prune. */
export class Upkeep {
  readonly poll: Loop;
  readonly rescue: Loop;
  readonly prune: Loop;
  private readonly holds: HoldExpirer;

  constructor(
    private readonly settings: UpkeepSettings,
    private readonly transact: Transact,
    private readonly turns: UpkeepTurns,
    logger: Logger,
    board: LoopBoard | null,
  ) {
    const { instance, pollMs, rescueMs, pruneEveryMs } = settings;
    const pruner = new Pruner(transact);
    this.holds = new HoldExpirer(transact);
    const loop = (name: string, everyMs: number, jitter: number, turn: () => Promise<unknown>): Loop =>
      new Loop(
        { name: `nestmq ${instance} ${name}`, everyMs, jitter, turn: async () => void (await turn()) },
        logger,
        board,
      );
    this.poll = loop('poll', pollMs, 0.25, () => this.survey());
    this.rescue = loop('rescue', rescueMs, 0.1, () => turns.rescue());
    this.prune = loop('prune', pruneEveryMs, 0.25, () => pruner.turn());
  }

  start(): void {
    for (const loop of [this.poll, this.rescue, this.prune]) loop.start();
  }

  private async survey(): Promise<void> {
    const { survey } = this.settings;
    const rows = await this.transact((client) => run(client, surveyFeeds, survey));
    this.turns.surveyed(rows);
    if (rows[0]?.endedHolds) await this.holds.turn();
  }
}
