import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach } from '@jest/globals';
import { until } from './until.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** The built demo as a process of its own. */
export interface DemoProcess {
  /** What it has written to stdout and stderr so far. */
  readonly output: string;
  /** Waits until its output holds the text; answers the output. */
  prints(text: string): Promise<string>;
  signal(signal: NodeJS.Signals): void;
  /** Waits for its end; answers the exit code, or the signal that ended it. */
  exit(): Promise<number | NodeJS.Signals>;
}

export interface DemoBuild {
  /** A folder for the demo to run in: its `.data` is made there. */
  readonly folder: string;
  start(entry: 'main' | 'http', env: Record<string, string>): DemoProcess;
  remove(): Promise<void>;
}

const running = new Set<ChildProcess>();

afterEach(async () => {
  await Promise.all([...running].map(kill));
});

/** Builds the demo as `npm start` does, to a folder of its own, so that a build by hand disturbs nobody. */
export async function buildDemo(): Promise<DemoBuild> {
  await fs.mkdir(path.join(ROOT, '.data'), { recursive: true });
  const folder = await fs.mkdtemp(path.join(ROOT, '.data', 'demo-'));
  await fs.chmod(folder, 0o755); // the server's user has to reach what is below
  const config = path.join(folder, 'tsconfig.json');
  const compilerOptions = { outDir: './build', noCheck: true }; // types are checked elsewhere, and take half of the time
  await fs.writeFile(config, JSON.stringify({ extends: '../../apps/demo/tsconfig.app.json', compilerOptions }));
  const cli = path.join(ROOT, 'node_modules/@nestjs/cli/bin/nest.js');
  await promisify(execFile)(process.execPath, [cli, 'build', 'demo', '-p', path.relative(ROOT, config)], { cwd: ROOT });
  return {
    folder,
    start: (entry, env) => start(path.join(folder, 'build/apps/demo/src', `${entry}.js`), folder, env),
    remove: () => fs.rm(folder, { recursive: true, force: true, maxRetries: 9 }),
  };
}

function start(file: string, cwd: string, env: Record<string, string>): DemoProcess {
  const child = spawn(process.execPath, [file], {
    cwd,
    env: { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1', DATABASE_URL: '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  }
  return {
    get output() {
      return output;
    },
    prints: async (text) => {
      await until(() => output.includes(text) || hasEnded(child), {
        what: `the demo prints "${text}"`,
      });
      if (!output.includes(text)) throw new Error(`The demo ended before it printed "${text}":\n${output}`);
      return output;
    },
    signal: (signal) => void child.kill(signal),
    exit: async () => {
      if (!hasEnded(child)) await once(child, 'close');
      running.delete(child);
      return child.exitCode ?? child.signalCode!;
    },
  };
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

async function kill(child: ChildProcess): Promise<void> {
  running.delete(child);
  if (hasEnded(child)) return;
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}
