// Keeps a redis-server, and ends it when the process that asked for it has gone, by whatever way.
import { spawn } from 'node:child_process';

const [program, ...args] = process.argv.slice(2);
const server = spawn(/** @type {string} */ (program), args, { stdio: 'ignore' });
server.on('error', () => process.exit(1));
server.on('exit', (code) => process.exit(code ?? 1));
process.on('disconnect', () => server.kill('SIGKILL'));
process.on('SIGINT', () => {}); // of the terminal: the bench is to read its figures first
process.send?.(server.pid);
