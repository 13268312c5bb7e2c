import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { TransactionLoad } from './bare-transactions.js';

const run = promisify(execFile);

/** How pgbench sends statements: as texts, which is its default, or prepared once a connection. */
export const PGBENCH_MODES = ['simple', 'prepared'] as const;

/** Its threads: as many as it has use for on a small machine. */
const THREADS = 2;

/** Each connection has jobs of its own, which it removes one after another. */
const script = ({ firstId, perConnection }: TransactionLoad): string => `\
\\set i :i + 1
\\set id ${firstId} + :client_id * ${perConnection} + :i
BEGIN;
INSERT INTO business (n) VALUES (:id);
DELETE FROM nestmq.job WHERE id = :id;
COMMIT;
`;

export interface PgbenchResult {
  /** Without the time that its connections took. */
  readonly perSecond: number;
  readonly clientMicros: number;
}

export async function runPgbench(
  program: string,
  url: string,
  mode: (typeof PGBENCH_MODES)[number],
  load: TransactionLoad,
): Promise<PgbenchResult> {
  const dir = await mkdtemp(path.join(tmpdir(), 'nestmq-pgbench-'));
  try {
    const file = path.join(dir, 'transaction.sql');
    await writeFile(file, script(load));
    const args = ['-n', '-M', mode, '-c', load.connections, '-j', THREADS, '-t', load.perConnection, '-D', 'i=-1', '-f', file, url]; // prettier-ignore
    // The shell tells what its children have used of the CPU.
    const { stdout } = await run('sh', ['-c', '"$@" && times', 'sh', program, ...args.map(String)]);
    const tps = /^tps = ([\d.]+)/m.exec(stdout)?.[1];
    if (tps === undefined) throw new Error(`pgbench has not told its rate:\n${stdout}`);
    return { perSecond: Number(tps), clientMicros: childMicros(stdout) };
  } finally {
    await rm(dir, { recursive: true });
  }
}

/** Of the last line of `times`: user and system mode of the children, as `0m1.230s 0m0.450s`. */
function childMicros(output: string): number {
  const times = [
    ...output
      .trim()
      .split('\n')
      .at(-1)!
      .matchAll(/(\d+)m([\d.]+)s/g),
  ];
  return times.reduce((sum, [, minutes, seconds]) => sum + (Number(minutes) * 60 + Number(seconds)) * 1e6, 0);
}
