import { readdirSync, readFileSync } from 'node:fs';
import type { BenchDatabase } from './server.js';

/** What a run has used, in all. */
export interface Usage {
  readonly nodeMicros: number;
  /** `null` where there is no /proc. */
  readonly serverMicros: number | null;
  readonly walBytes: number;
}

/** Clock ticks of /proc a second; Linux shows 100 on every machine. */
const TICK_MICROS = 10_000;

/** Starts counting; the function returned stops, and answers what was used since. */
export async function startMeter({ admin, postmasterPid }: BenchDatabase): Promise<() => Promise<Usage>> {
  const walBefore = await walPosition(admin);
  const serverBefore = serverCpuMicros(postmasterPid);
  const nodeBefore = process.cpuUsage();
  return async () => {
    const { user, system } = process.cpuUsage(nodeBefore);
    const serverAfter = serverCpuMicros(postmasterPid);
    return {
      nodeMicros: user + system,
      serverMicros: serverBefore === null || serverAfter === null ? null : serverAfter - serverBefore,
      walBytes: (await walPosition(admin)) - walBefore,
    };
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
