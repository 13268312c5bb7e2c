import { readdirSync, readFileSync } from 'node:fs';
import type { BenchDatabase } from './server.js';

/** What a run has used, in all. */
export interface Usage {
  readonly nodeMicros: number;
  /** `null` where there is no /proc. */
  readonly serverMicros: number | null;
  readonly walBytes: number;
  /** CPU of everything else on the machine, and of the whole machine; `null` where there is no /proc. */
  readonly machine: { readonly otherMicros: number; readonly totalMicros: number } | null;
}

/** Clock ticks of /proc a second; Linux shows 100 on every machine. */
const TICK_MICROS = 10_000;

/** Starts counting; the function returned stops, and answers what was used since. */
export async function startMeter({ admin, postmasterPid }: BenchDatabase): Promise<() => Promise<Usage>> {
  const walBefore = await walPosition(admin);
  const machineBefore = machineCpuMicros();
  const serverBefore = serverCpuMicros(postmasterPid);
  const nodeBefore = process.cpuUsage();
  return async () => {
    const { user, system } = process.cpuUsage(nodeBefore);
    const serverAfter = serverCpuMicros(postmasterPid);
    const machineAfter = machineCpuMicros();
    const nodeMicros = user + system;
    const serverMicros = serverBefore === null || serverAfter === null ? null : serverAfter - serverBefore;
    return {
      nodeMicros,
      serverMicros,
      walBytes: (await walPosition(admin)) - walBefore,
      machine: machineBefore &&
        machineAfter && {
          otherMicros: machineAfter.busy - machineBefore.busy - nodeMicros - (serverMicros ?? 0),
          totalMicros: machineAfter.total - machineBefore.total,
        },
    };
  };
}

/** Adds what another process of ours has used. */
export function withProcess(usage: Usage, nodeMicros: number): Usage {
  const { machine } = usage;
  return {
    ...usage,
    nodeMicros: usage.nodeMicros + nodeMicros,
    machine: machine && { ...machine, otherMicros: machine.otherMicros - nodeMicros },
  };
}

async function walPosition(admin: BenchDatabase['admin']): Promise<number> {
  const { rows } = await admin.query<{ bytes: string }>(`SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS bytes`);
  return Number(rows[0]?.bytes);
}

/** CPU of every process of the server; what has ended is counted by the postmaster, its parent. */
function serverCpuMicros(postmasterPid: number): number | null {
  if (process.platform !== 'linux') return null;
  let ticks = 0;
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const fields = statFields(entry);
    if (fields === null) continue;
    const [parent, user, system, childrenUser, childrenSystem] = fields;
    if (Number(entry) === postmasterPid) ticks += user + system + childrenUser + childrenSystem;
    else if (parent === postmasterPid) ticks += user + system;
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
