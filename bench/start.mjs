// Entry of `npm run bench`: installs what the bench needs, and starts it on its own Node. `--sources` measures the sources
// instead of the built package.
import { fork } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { benchNode, installBench } from './install.mjs';

const FOLDER = path.dirname(fileURLToPath(import.meta.url));
const args = process.argv.slice(2).filter((arg) => arg !== '--sources');
const built = args.length === process.argv.length - 2;

installBench();
const child = fork(path.join(FOLDER, 'run.ts'), args, {
  execPath: benchNode(),
  execArgv: ['--import', import.meta.resolve('tsx')],
  env: {
    ...process.env,
    NODE_OPTIONS: '',
    TSX_TSCONFIG_PATH: path.join(FOLDER, built ? 'tsconfig.built.json' : 'tsconfig.json'),
  },
});
process.on('SIGINT', () => child.kill('SIGINT'));
process.on('SIGTERM', () => child.kill('SIGTERM'));
process.on('disconnect', () => child.connected && child.disconnect()); // whoever asked for the bench has gone
child.on('exit', (code, signal) => {
  process.exitCode = signal === null ? (code ?? 1) : 1;
  if (process.connected) process.disconnect?.();
});
