import type { Workload } from '../workload.js';
import { backlog } from './backlog.js';
import { blockedLanes } from './blocked-lanes.js';
import { drain } from './drain.js';
import { handlers } from './handlers.js';
import { idle } from './idle.js';
import { laneSpawn } from './lane-spawn.js';
import { latency } from './latency.js';
import { loaded } from './loaded.js';
import { orderCost } from './order-cost.js';
import { ordered } from './ordered.js';
import { pinned } from './pinned.js';
import { readers } from './readers.js';
import { recovery } from './recovery.js';
import { restart } from './restart.js';
import { scaleOut } from './scale-out.js';
import { shapes } from './shapes.js';
import { spawnBulk } from './spawn-bulk.js';
import { spawnIdempotent } from './spawn-idempotent.js';
import { spawnSingle } from './spawn-single.js';
import { stats } from './stats.js';
import { storm } from './storm.js';
import { sustained } from './sustained.js';
import { transactions } from './transactions.js';

/** In the order of the document. The last five are of what only nestmq has. */
export const WORKLOADS: readonly Workload[] = [
  drain,
  sustained,
  spawnSingle,
  spawnBulk,
  latency,
  loaded,
  pinned,
  readers,
  backlog,
  ordered,
  handlers,
  transactions,
  shapes,
  storm,
  scaleOut,
  recovery,
  restart,
  idle,
  orderCost,
  spawnIdempotent,
  blockedLanes,
  laneSpawn,
  stats,
];
