// The dependencies of the bench are its own: installed when they are needed, and when its lock file has changed.
import { execFileSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const FOLDER = path.dirname(fileURLToPath(import.meta.url));

/** The oldest Node that all systems run on. */
const OLDEST = { major: 22, minor: 18 };

export function installBench() {
  const done = path.join(FOLDER, 'node_modules/.package-lock.json'); // npm writes it when it is done
  const lock = path.join(FOLDER, 'package-lock.json');
  if (existsSync(done) && statSync(done).mtimeMs >= statSync(lock).mtimeMs) return;
  console.error('Installing the dependencies of bench/.');
  const shell = process.platform === 'win32';
  execFileSync('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], { cwd: FOLDER, stdio: ['ignore', 2, 2], shell }); // prettier-ignore
}

/** The Node of the bench, which every system is measured on; this one where npm has none for the machine. */
export function benchNode() {
  const platform = process.platform === 'win32' ? 'win' : process.platform;
  try {
    const manifest = createRequire(import.meta.url).resolve(`node-${platform}-${process.arch}/package.json`);
    return path.join(path.dirname(manifest), 'bin', process.platform === 'win32' ? 'node.exe' : 'node');
  } catch (cause) {
    const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
    if (major > OLDEST.major || (major === OLDEST.major && minor >= OLDEST.minor)) return process.execPath;
    throw new Error(
      `The systems beside nestmq need Node ${OLDEST.major}.${OLDEST.minor}; this is ${process.version}.`,
      { cause },
    );
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) installBench();
