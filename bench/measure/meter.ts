import { readdirSync, readFileSync } from 'node:fs';
import type pg from 'pg';

/** What a run has used, in all. */
export interface Usage {
  readonly nodeMicros: number;
  /** `null` where there is no /proc. */
  readonly serverMicros: number | null;
  /** `null` where the server has no write-ahead log. */
  readonly walBytes: number | null;
  /** CPU of everything else on the machine, and of the whole machine; `null` where there is no /proc. */
  readonly machine: { readonly otherMicros: number; readonly totalMicros: number } | null;
}

export interface Metered {
  /** `null`: there is no WAL to ask for. */
  readonly admin: pg.Client | null;
  /** Its children belong to it. */
  readonly serverPid: number;
}

type Micros = () => Promise<number> | number;

/** Clock ticks of /proc a second; Linux shows 100 on every machine. */
const TICK_MICROS = 10_000;

/**
 * Starts counting; the function returned stops, and answers what was used since.
 *
 * @param nodeMicros what the processes that take part have used of the CPU so far
 */
export async function startMeter(
  { admin, serverPid }: Metered,
  nodeMicros: Micros = ownMicros,
  nodeMicrosAtStart = nodeMicros,
): Promise<() => Promise<Usage>> {
  const machineBefore = machineCpuMicros();
  const serverBefore = serverCpuMicros(serverPid);
  const walBefore = admin && (await walPosition(admin));
  const nodeBefore = await nodeMicrosAtStart();
  return async () => {
    const serverAfter = serverCpuMicros(serverPid);
    const machineAfter = machineCpuMicros();
    const walAfter = admin && (await walPosition(admin));
    const node = (await nodeMicros()) - nodeBefore;
    const server = serverBefore === null || serverAfter === null ? null : serverAfter - serverBefore;
    return {
      nodeMicros: node,
      serverMicros: server,
      walBytes: walBefore === null ? null : walAfter! - walBefore,
      machine: machineBefore &&
        machineAfter && {
          otherMicros: machineAfter.busy - machineBefore.busy - node - (server ?? 0),
          totalMicros: machineAfter.total - machineBefore.total,
        },
    };
  };
}

function ownMicros(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

async function walPosition(admin: pg.Client): Promise<number> {
  const { rows } = await admin.query<{ bytes: string }>(`SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS bytes`);
  return Number(rows[0]?.bytes);
}

/** CPU of every process of the server; what has ended is counted by the postmaster, its parent. */
function serverCpuMicros(serverPid: number): number | null {
  if (process.platform !== 'linux') return null;
  let ticks = 0;
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const fields = statFields(entry);
    if (fields === null) continue;
    const [parent, user, system, childrenUser, childrenSystem] = fields;
    if (Number(entry) === serverPid) ticks += user + system + childrenUser + childrenSystem;
    else if (parent === serverPid) ticks += user + system;
  }
  return ticks * TICK_MICROS;
}

/** Parent, and ticks in user and system mode, own and of children that ended; `null` when the process has gone. */
function statFields(pid: string): [number, number, number, number, number] | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat
      .slice(stat.lastIndexOf(')') + 2) // the name before it may hold spaces
      .split(' ')
      .map(Number);
    return [fields[1]!, fields[11]!, fields[12]!, fields[13]!, fields[14]!];
  } catch {
    return null;
  }
}

/** All processors of the machine since it was started; what a hypervisor gave to others counts as busy. */
function machineCpuMicros(): { busy: number; total: number } | null {
  if (process.platform !== 'linux') return null;
  const [line] = readFileSync('/proc/stat', 'utf8').split('\n', 1);
  // user nice system idle iowait irq softirq steal; the two behind them are parts of user and nice
  const ticks = line!.trim().split(/\s+/).slice(1, 9).map(Number);
  const total = ticks.reduce((sum, value) => sum + value, 0);
  return { busy: (total - ticks[3]! - ticks[4]!) * TICK_MICROS, total: total * TICK_MICROS };
}
