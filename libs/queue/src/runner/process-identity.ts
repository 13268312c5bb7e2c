import { readFileSync, readlinkSync } from 'node:fs';

/** Field of /proc/<pid>/stat behind the command's closing bracket: when the process began, in ticks since the boot. */
const START_FIELD = 19;

/**
 * Which process this is, so exactly that another one can tell whether it has ended: the boot of the machine, the space of
 * process ids (a container has its own), the id, and when it began, since ids come again. Linux only, else `null`.
 */
export function identifyProcess(pid = process.pid): string | null {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    const space = readlinkSync('/proc/self/ns/pid');
    const { start } = statOf(pid);
    return [boot, space, pid, start].join(' ');
  } catch {
    return null;
  }
}

/** Whether a process has ended for certain. Of another machine, or another container, nobody knows that here. */
export function hasEnded(identity: string | null): boolean {
  const own = identifyProcess()?.split(' ');
  const [boot, space, pid, start] = identity?.split(' ') ?? [];
  if (own === undefined || pid === undefined || boot !== own[0] || space !== own[1]) return false;
  return !exists(Number(pid)) || hasEndedOrGivenItsId(Number(pid), start);
}

function exists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

/** Ended, and its parent has not asked yet; or its id is another process's by now. Where /proc does not tell, it lives. */
function hasEndedOrGivenItsId(pid: number, start: string | undefined): boolean {
  try {
    const stat = statOf(pid);
    return stat.state === 'Z' || stat.state === 'X' || stat.start !== start;
  } catch {
    return !exists(pid);
  }
}

function statOf(pid: number): { readonly state: string | undefined; readonly start: string | undefined } {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The command, in brackets, may have anything in it.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { state: fields[0], start: fields[START_FIELD] };
}
