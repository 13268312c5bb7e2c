import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type pg from 'pg';
import { connect } from '../server.js';

/**
 * The floor of a transactional run: its two statements, an INSERT of the application's and the DELETE of a row of a
 * queue, in a transaction each. By pgbench where there is one, else by pg itself.
 */
export interface PairOfStatements {
  readonly name: 'pgbench' | 'pg';
  /** Removes the jobs 1 to `connections` × `each`; answers transactions a second. */
  run(connections: number, each: number): Promise<number>;
}

const INSERT = 'INSERT INTO business (n) VALUES';
const DELETE = 'DELETE FROM raw.job WHERE id =';

export async function pairOfStatements(url: string): Promise<PairOfStatements> {
  const found = await promisify(execFile)('pgbench', ['--version']).then(
    () => true,
    () => false,
  );
  return found
    ? { name: 'pgbench', run: (connections, each) => byPgbench(url, connections, each) }
    : { name: 'pg', run: (connections, each) => byPg(url, connections, each) };
}

async function byPgbench(url: string, connections: number, each: number): Promise<number> {
  const folder = await mkdtemp(path.join(tmpdir(), 'nestmq-bench-'));
  const script = path.join(folder, 'pair.sql');
  const lines = ['\\set n :n + 1', '\\set id :client_id * :each + :n', 'BEGIN;', `${INSERT} (:id);`, `${DELETE} :id;`, 'COMMIT;']; // prettier-ignore
  await writeFile(script, `${lines.join('\n')}\n`);
  try {
    const { stdout } = await promisify(execFile)('pgbench', [
      ...['--no-vacuum', '--protocol=prepared', '--file', script, '--define=n=0', `--define=each=${each}`],
      ...[`--client=${connections}`, '--jobs=1', `--transactions=${each}`, url],
    ]);
    const rate = /^tps = ([\d.]+)/m.exec(stdout)?.[1];
    if (rate === undefined) throw new Error(`pgbench has told no rate: ${stdout}`);
    return Number(rate);
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function byPg(url: string, connections: number, each: number): Promise<number> {
  const clients = await Promise.all(Array.from({ length: connections }, () => connect(url)));
  const startedAt = performance.now();
  await Promise.all(clients.map((client, index) => pairs(client, index * each, each)));
  const seconds = (performance.now() - startedAt) / 1_000;
  await Promise.all(clients.map((client) => client.end()));
  return (connections * each) / seconds;
}

async function pairs(client: pg.Client, from: number, count: number): Promise<void> {
  for (let id = from + 1; id <= from + count; id++) {
    await client.query('BEGIN');
    await client.query({ name: 'insert', text: `${INSERT} ($1)`, values: [id] });
    await client.query({ name: 'delete', text: `${DELETE} $1`, values: [id] });
    await client.query('COMMIT');
  }
}
