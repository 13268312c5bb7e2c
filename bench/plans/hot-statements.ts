import type { NewJob } from '../../libs/queue/src/statements/new-job.js';
import { claimJobs, claimJobsByKey } from '../../libs/queue/src/statements/claim-jobs.js';
import { claimSuspect } from '../../libs/queue/src/statements/claim-suspect.js';
import { claimArrivals, claimLanes } from '../../libs/queue/src/statements/claim-lanes.js';
import { insertJobs, insertJobsInTransaction } from '../../libs/queue/src/statements/insert-jobs.js';
import { pruneJobs } from '../../libs/queue/src/statements/prune-jobs.js';
import { endLanes } from '../../libs/queue/src/statements/lanes.js';
import { recheckLanes, repairLanes, sweepLanes } from '../../libs/queue/src/statements/mend-lanes.js';
import { rescueJobs, rescueLanes } from '../../libs/queue/src/statements/rescue-jobs.js';
import { heartbeat } from '../../libs/queue/src/statements/runners.js';
import { completeJobs } from '../../libs/queue/src/statements/complete-jobs.js';
import { finishJobs } from '../../libs/queue/src/statements/finish-jobs.js';
import { requeueJobs } from '../../libs/queue/src/statements/requeue-jobs.js';
import type { SqlClient, Statement } from '../../libs/queue/src/statements/statement.js';
import { surveyFeeds } from '../../libs/queue/src/statements/survey-feeds.js';
import type { FilledTables } from './fill-tables.js';
import { payloadOf } from '../load/jobs.js';

export interface HotStatement {
  readonly name: string;
  readonly description: string;
  readonly text: string;
  readonly values: unknown[];
}

/** Only its schema is asked for: nothing is sent through it. */
const NOWHERE: SqlClient = {
  schema: 'nestmq',
  namedStatements: false,
  query: () => Promise.reject(new Error('This client sends nothing.')),
};

/** The statements of a busy or an idle runner and of a spawn, with parameters as they come. */
export function hotStatements({ runner, held, position, lanes, arrivals }: FilledTables): HotStatement[] {
  const names = ['Letters.send'];
  const fences = held.map((id) => ({ id, run: 0, lease: 1 }));
  const some = fences.slice(0, 20);
  const jobs = Array.from({ length: 1_000 }, (_, n) => newJob(n));
  const claim = { runner, lease: 1_000_000, priority: 0, names, limit: 400, slots: 32 };
  const orders = { ...claim, channel: 'orders', after: { micros: 0, id: '0' }, run: 20 };
  const laneNames = lanes.map(({ key }) => ({ channel: 'orders', key }));
  return [
    hot('insert_jobs', 'spawnMany of 1 000', insertJobs, { jobs }),
    hot('insert_jobs_in_tx', 'spawn in a transaction', insertJobsInTransaction, {
      jobs: jobs.slice(0, 1),
      notifyChannel: 'nestmq_wake_up',
    }),
    hot('claim_jobs', '400 of 60 000 due jobs, from where the last claim ended', claimJobs, {
      ...claim,
      channel: 'letters',
      after: position,
    }),
    hot('claim_jobs (late look)', 'the same from the start, over 8 000 leased jobs', claimJobs, {
      ...claim,
      channel: 'letters',
      after: { micros: 0, id: '0' },
    }),
    hot('claim_jobs_by_key', '32 jobs of a channel with keys', claimJobsByKey, {
      ...claim,
      channel: 'channel 4',
      limit: 32,
      afterKey: '',
      share: 8,
    }),
    hot('claim_suspect', 'one of ten', claimSuspect, { runner, lease: 1_000_000, names, channels: null }),
    hot('claim_lanes', '400 jobs of 20 lanes that are ready', claimLanes, orders),
    hot('claim_lanes (one each)', 'one job of each of 400 lanes', claimLanes, { ...orders, run: 1 }),
    hot('claim_arrivals', '400 lanes that nobody knows of, from where the last claim ended', claimArrivals, {
      ...orders,
      arrivals: 500,
      after: arrivals,
    }),
    hot('claim_arrivals (from the start)', 'over 20 000 blocked lanes', claimArrivals, {
      ...orders,
      arrivals: 1_000,
    }),
    hot('end_lanes', '32 lanes, each with a next job', endLanes, {
      runner,
      lanes: lanes.map((lane) => ({ channel: 'orders', runner, lastSeq: 1, blockedBy: null, ...lane })),
    }),
    hot('recheck_lanes', '32 lanes that have an owner', recheckLanes, { lanes: laneNames }),
    hot('repair_lanes', '32 lanes that have an owner', repairLanes, { lanes: laneNames }),
    hot('sweep_lanes', 'a window of 1 000, all blocked', sweepLanes, { after: null }),
    hot('sweep_lanes (forgotten)', 'a window of 1 000 of which nobody knows', sweepLanes, {
      after: { channel: 'orders', key: 'new' },
    }),
    hot('complete_jobs', '400 jobs of one lease', completeJobs, { runner, entries: fences, endedLeases: [1] }),
    hot('finish_jobs', '20 jobs that are kept', finishJobs, {
      runner,
      entries: some.map((fence) => ({
        ...fence,
        state: 'completed' as const,
        attempt: 1,
        reason: null,
        error: null,
        result: null,
        seq: null,
        keepMs: 60_000,
      })),
    }),
    hot('requeue_jobs', '20 retries', requeueJobs, {
      runner,
      entries: some.map((fence) => ({ ...fence, attempt: 1, delayMs: 1_000, error: 'Error: no', seq: null })),
    }),
    hot('survey_feeds', 'a poll over 41 channels', surveyFeeds, {
      names,
      groups: names.map(() => 0),
      groupChannels: names.map(() => null),
      channels: null,
      arrivals: [],
    }),
    hot('heartbeat', 'with ten leases', heartbeat, {
      runner,
      held: Array.from({ length: 10 }, (_, index) => index + 1),
      highest: 10,
      started: held.slice(0, 32),
    }),
    hot('rescue_jobs', 'nobody is dead', rescueJobs, {}),
    hot('rescue_lanes', 'nobody is dead', rescueLanes, {}),
    hot('prune_jobs', 'a chunk of expired jobs', pruneJobs, {}),
  ];
}

function hot<Params>(
  name: string,
  description: string,
  statement: Statement<Params, unknown>,
  params: Params,
): HotStatement {
  const { text, values } = statement.query(NOWHERE, params);
  return { name, description, text, values };
}

function newJob(n: number): NewJob {
  return {
    channel: 'letters',
    key: '',
    name: 'Letters.send',
    priority: 0,
    maxAttempts: 5,
    policyId: '1',
    backoff: null,
    delayMs: 0,
    runAtMs: null,
    holdMs: null,
    payload: JSON.stringify(payloadOf(n)),
    bytes: null,
    metadata: null,
    ordered: false,
    idempotency: null,
  };
}
