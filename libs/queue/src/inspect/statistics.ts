import type { CountParams } from '../statements/count-channels.js';
import { countFinished, readFacts, type FinishedCounts, type QueueFacts } from '../statements/recent-ends.js';
import { run, type SqlClient } from '../statements/statement.js';
import { readStats, type ChannelStats } from './channel-stats.js';

/**
 * The figures of a queue in one object, for a page of figures. What has ended is known only where it is kept: jobs whose
 * handler has no `retention` are in none of the counts of ended jobs, and dead ones in all.
 */
export interface QueueStatistics {
  /** Live jobs that do not run: scheduled, ready, blocked, retrying and held ones. */
  readonly pending: number;
  /** Leased by a runner. */
  readonly running: number;
  /** Live jobs, running ones too. */
  readonly active: number;
  /** Have failed, and wait for a further run. */
  readonly retrying: number;
  /** Due and free. */
  readonly backlog: number;
  /** Running for longer than an hour. */
  readonly staleRunning: number;
  /** How long the longest run goes on, `null` when nothing runs. */
  readonly longestRunningMs: number | null;
  /** Completed ones that are kept. */
  readonly completed: number;
  /** Dead letters that nobody has resolved or discarded. */
  readonly dead: number;
  /** All that have ended and are kept. */
  readonly finished: number;
  /** Live and kept ones. */
  readonly total: number;
  /** Completed ones among those that are completed or dead, 0 to 1; `null` when there are none. */
  readonly successRate: number | null;
  /** Dead ones among them. */
  readonly failureRate: number | null;
  /** The success rate of what ended in the past 24 hours. */
  readonly successRatePast24Hours: number | null;
  /** Jobs that ended in the past 60 minutes. */
  readonly pastHour: number;
  /** Since midnight, UTC. */
  readonly today: number;
  /** In the past 24 hours. */
  readonly past24Hours: number;
  /** In the past seven days. */
  readonly past7Days: number;
  /** Of those that ended today: dead. */
  readonly deadToday: number;
  /** Of those of the past seven days: dead. */
  readonly deadPast7Days: number;
  /** Mean of the past hour. */
  readonly perMinutePastHour: number;
  /** Mean of the past 24 hours. */
  readonly perHourPast24Hours: number;
  /** Mean of the past seven days. */
  readonly perDayPast7Days: number;
  /** The most that ended within one hour of the clock, of the past 24. */
  readonly peakHour: number;
  /** Mean time from when a job was due until its end, of the past seven days; `null` when nothing has ended. */
  readonly averageMs: number | null;
  /** When the last one ended, `null` when none has. */
  readonly lastFinishedAt: Date | null;
  /** How long the longest due free job has been due, `null` when there is none. */
  readonly oldestReadyMs: number | null;
  /** What the queue's tables and indexes take, bytes. */
  readonly databaseBytes: number;
  /** Some counts are lower bounds: more than 10 000 jobs of a channel are in one state. */
  readonly atLeast: boolean;
}

/** Of one moment, when the client is in a transaction with one snapshot. */
export async function readStatistics(client: SqlClient, params: CountParams): Promise<QueueStatistics> {
  const channels = await readStats(client, params, false);
  const finished = await run(client, countFinished, params);
  const [facts] = await run(client, readFacts, params);
  return { ...liveFigures(channels, facts!), ...endFigures(finished), ...together(channels, finished) };
}

type LiveFigures = Pick<
  QueueStatistics,
  | 'pending'
  | 'running'
  | 'active'
  | 'retrying'
  | 'backlog'
  | 'staleRunning'
  | 'longestRunningMs'
  | 'oldestReadyMs'
  | 'peakHour'
  | 'databaseBytes'
>;

function liveFigures(channels: readonly ChannelStats[], facts: QueueFacts): LiveFigures {
  const pending = sum(channels, (c) => c.scheduled + c.ready + c.blocked + c.retrying + c.held);
  const running = sum(channels, (c) => c.running);
  const ages = channels.flatMap(({ oldestReadyMs }) => oldestReadyMs ?? []);
  return {
    ...{ pending, running, active: pending + running },
    retrying: sum(channels, (c) => c.retrying),
    backlog: sum(channels, (c) => c.ready),
    staleRunning: facts.stale,
    longestRunningMs: facts.longestMs,
    oldestReadyMs: ages.length === 0 ? null : Math.max(...ages),
    peakHour: facts.peakHour,
    databaseBytes: facts.bytes,
  };
}

type EndFigures = Omit<QueueStatistics, keyof LiveFigures | 'total' | 'atLeast'>;

function endFigures(finished: readonly FinishedCounts[]): EndFigures {
  const of = (count: (counts: FinishedCounts) => number, ...states: string[]): number =>
    sum(
      finished.filter(({ state }) => states.length === 0 || states.includes(state)),
      count,
    );
  const jobs = (counts: FinishedCounts): number => counts.jobs;
  const day = (counts: FinishedCounts): number => counts.past24Hours;
  const dead = ['dead', 'reprocessing'];
  const past7Days = of((counts) => counts.past7Days);
  const [pastHour, past24Hours] = [of((counts) => counts.pastHour), of(day)];
  const last = finished.flatMap(({ lastAt }) => lastAt ?? []).map((at) => at.getTime());
  return {
    completed: of(jobs, 'completed'),
    dead: of(jobs, ...dead),
    finished: of(jobs),
    successRate: share(of(jobs, 'completed'), of(jobs, ...dead)),
    failureRate: share(of(jobs, ...dead), of(jobs, 'completed')),
    successRatePast24Hours: share(of(day, 'completed'), of(day, ...dead)),
    ...{ pastHour, past24Hours, past7Days, today: of((counts) => counts.today) },
    deadToday: of((counts) => counts.today, ...dead),
    deadPast7Days: of((counts) => counts.past7Days, ...dead),
    perMinutePastHour: pastHour / 60,
    perHourPast24Hours: past24Hours / 24,
    perDayPast7Days: past7Days / 7,
    averageMs: past7Days === 0 ? null : of((counts) => counts.sumMs) / past7Days,
    lastFinishedAt: last.length === 0 ? null : new Date(Math.max(...last)),
  };
}

function together(
  channels: readonly ChannelStats[],
  finished: readonly FinishedCounts[],
): Pick<QueueStatistics, 'total' | 'atLeast'> {
  const live = sum(channels, (c) => c.scheduled + c.ready + c.blocked + c.retrying + c.held + c.running);
  return {
    total: live + sum(finished, ({ jobs }) => jobs),
    atLeast: channels.some(({ atLeast }) => atLeast.length > 0) || finished.some((some) => some.cut || some.recentCut),
  };
}

const sum = <T>(rows: readonly T[], count: (row: T) => number): number =>
  rows.reduce((total, row) => total + count(row), 0);

const share = (part: number, rest: number): number | null => (part + rest === 0 ? null : part / (part + rest));
