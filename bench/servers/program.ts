import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Why a program is not there, or how to call it. */
export type FoundProgram = { readonly program: string } | { readonly missing: string };

export interface Wanted {
  readonly program: string;
  /** Its package of Debian. */
  readonly package: string;
  /** What it is needed for, at the end of a sentence. */
  readonly purpose: string;
  /** By apt-get, where it is not there and we are root. */
  readonly install: boolean;
}

export async function findProgram({ program, package: name, purpose, install }: Wanted): Promise<FoundProgram> {
  if (await isThere(program)) return { program };
  const missing = `there is no ${program} on this machine`;
  if (!install) return { missing };
  if (process.getuid?.() !== 0) return { missing: `${missing}, and installing it takes root` };
  console.log(`Installing ${name} by apt-get, for ${purpose}.`);
  try {
    await run('apt-get', ['update']);
    await run('apt-get', ['install', '-y', '--no-install-recommends', name], {
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }, // no service of its own is wanted
    });
    return { program };
  } catch (error) {
    return { missing: `${missing}, and apt-get could not install it: ${String(error).split('\n', 1)[0]}` };
  }
}

function isThere(program: string): Promise<boolean> {
  return run(program, ['--version']).then(
    () => true,
    () => false,
  );
}
