import { execFile } from 'node:child_process';
import { readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { parseSettings } from '../bench/settings.js';
import { OrderWatch } from '../bench/order-watch.js';
import { percentilesOf, spreadOf } from '../bench/statistics.js';
import { Tally } from '../bench/tally.js';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

interface Row {
  workload: string;
  name: string;
  system: string;
  perSecond: { min: number; median: number; max: number } | null;
  latency: { p50: number } | null;
  figures: Record<string, number>;
}

/** Runs the benchmark on the sources, so that no other test's build is in its way. */
async function bench(...args: string[]): Promise<{ stdout: string; stderr: string; code: number }> {
  try {
    const ended = await promisify(execFile)(process.execPath, ['--import', 'tsx', 'bench/run.ts', ...args], {
      cwd: ROOT,
      env: { ...process.env, NODE_OPTIONS: '' },
      maxBuffer: 16 * 2 ** 20,
    });
    return { ...ended, code: 0 };
  } catch (error) {
    return error as { stdout: string; stderr: string; code: number };
  }
}

/** How many rows each workload reports, of nestmq and of raw SQL. */
const ROWS: Record<string, { nestmq: number; raw: number }> = {
  drain: { nestmq: 1, raw: 1 },
  'spawn-bulk': { nestmq: 1, raw: 1 },
  'spawn-single': { nestmq: 6, raw: 9 },
  'spawn-idempotent': { nestmq: 15, raw: 0 },
  latency: { nestmq: 2, raw: 1 },
  sustained: { nestmq: 2, raw: 2 },
  transactional: { nestmq: 2, raw: 1 },
  ordered: { nestmq: 6, raw: 0 },
  'blocked-lanes': { nestmq: 12, raw: 0 },
  'lane-spawn': { nestmq: 2, raw: 0 },
  pinned: { nestmq: 2, raw: 2 },
  backlog: { nestmq: 3, raw: 0 },
  stats: { nestmq: 6, raw: 0 },
  idle: { nestmq: 1, raw: 0 },
};

describe('the benchmark, in its tiny form', () => {
  const json = path.join(tmpdir(), `nestmq-bench-${randomUUID()}.json`);
  let ended: Awaited<ReturnType<typeof bench>>;

  beforeAll(async () => {
    ended = await bench('--jobs', '100', '--seconds', '1', '--repeat', '1', '--json', json);
  }, 240_000);

  afterAll(() => rm(json, { force: true }));

  it('ends well, and says on what it ran', () => {
    expect(ended).toMatchObject({ code: 0 });
    expect(ended.stdout).toMatch(/^machine: \d+ × .+/m);
    expect(ended.stdout).toMatch(/^postgres: PostgreSQL \d+/m);
    expect(ended.stdout).toMatch(/^settings: .*fsync=on synchronous_commit=on/m);
  });

  it('reports every workload, beside raw SQL', async () => {
    const { rows } = JSON.parse(await readFile(json, 'utf8')) as { rows: Row[] };
    const count = (workload: string, system: string): number =>
      rows.filter((row) => row.workload === workload && row.system === system).length;
    const workloads = [...new Set(rows.map(({ workload }) => workload))];
    expect(
      Object.fromEntries(
        workloads.map((name) => [name, { nestmq: count(name, 'nestmq'), raw: count(name, 'raw SQL') }]),
      ),
    ).toEqual(ROWS);
  });

  it('measures something in every row', async () => {
    const { rows } = JSON.parse(await readFile(json, 'utf8')) as { rows: Row[] };
    const empty = rows.filter(
      ({ perSecond, latency, figures }) =>
        ![perSecond?.median, latency?.p50, ...Object.values(figures)].some((value) => Number(value) > 0),
    );
    expect(empty).toEqual([]);
  });

  it('prints a line of the table for each row', async () => {
    const { rows } = JSON.parse(await readFile(json, 'utf8')) as { rows: Row[] };
    const table = ended.stdout.split('\n').filter((line) => line.startsWith('| '));
    for (const { workload, name, system } of rows) {
      const cells = [workload, name, system];
      expect(table.filter((line) => cells.every((cell, at) => line.split('|')[at + 1]?.trim() === cell))).toHaveLength(
        1,
      );
    }
  });
});

describe('the arguments of the benchmark', () => {
  it('are refused before a server is started', async () => {
    const { code, stdout, stderr } = await bench('drian');
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain('There is no workload "drian". Known: drain,');
    expect(stderr).toContain('npm run bench -- [workload …]');
  });

  it.each([
    ['a number that is none', ['--jobs', 'many'], '--jobs got "many". Give a number above 0.'],
    ['a negative number', ['--seconds=-1'], '--seconds got "-1". Give a number above 0.'],
    ['an unknown option', ['--job', '5'], "Unknown option '--job'"],
    ['an unknown workload', ['drain', 'idel'], 'There is no workload "idel". Known: drain, idle.'],
  ])('refuse %s', (_, args, message) => {
    expect(() => parseSettings(args, ['drain', 'idle'])).toThrow(message);
  });

  it('choose all workloads when none is named', () => {
    expect(parseSettings(['--jobs', '5'], ['drain', 'idle'])).toEqual({
      workloads: ['drain', 'idle'],
      jobs: 5,
      seconds: null,
      repeat: null,
      json: null,
    });
  });
});

describe('the tally of the benchmark', () => {
  const tallyOf = (...runs: number[]): Tally => {
    const tally = new Tally(10);
    for (const n of runs) tally.add(n);
    return tally;
  };

  it('is content when each job ran once, in any order', () => {
    expect(() => tallyOf(2, 0, 1).check(3)).not.toThrow();
  });

  it.each([
    ['a lost job', [0, 2], '1 were lost and 0 done twice; 2 runs in all'],
    ['a job done twice', [0, 1, 1, 2], '0 were lost and 1 done twice; 4 runs in all'],
    ['one lost and one done twice', [0, 0, 2], '1 were lost and 1 done twice; 3 runs in all'],
    ['a job that nobody sent', [0, 1, 2, 3], '0 were lost and 1 done twice; 4 runs in all'],
  ])('tells of %s', (_, runs, message) => {
    expect(() => tallyOf(...runs).check(3)).toThrow(`Of 3 jobs ${message}`);
  });

  it('does not wait for ever for a job that is lost', async () => {
    await expect(tallyOf(0, 1).reached(3, 10)).rejects.toThrow('2 of 3 jobs have run, and no other for 10 ms.');
  });
});

describe('the watch over the order of the benchmark', () => {
  const watchOf = (...starts: [key: string, n: number, seq: number | null][]): OrderWatch => {
    const watch = new OrderWatch();
    for (const start of starts) watch.started(...start);
    return watch;
  };

  it('is content when the jobs of each key started in order, with a number each', () => {
    expect(() => watchOf(['a', 0, 1], ['b', 1, 5], ['a', 2, 2], ['b', 9, 6]).check()).not.toThrow();
  });

  it.each([
    ['a job that passed another', [['a', 1, 1], ['a', 0, 2]], '1 jobs started out of order. The first one, a: job 0 (seq 2) behind job 1 (seq 1).'], // prettier-ignore
    ['a job that started twice', [['a', 0, 1], ['a', 0, 1]], '1 jobs started out of order'], // prettier-ignore
    ['a gap in the numbers', [['a', 0, 1], ['a', 1, 3]], '1 jobs started out of order'], // prettier-ignore
    ['a job without a number', [['a', 0, null]], '1 jobs started out of order'],
  ] as [string, [string, number, number | null][], string][])('tells of %s', (_, starts, message) => {
    expect(() => watchOf(...starts).check()).toThrow(message);
  });
});

describe('the figures of the benchmark', () => {
  it('are percentiles by nearest rank', () => {
    const hundred = Float64Array.from({ length: 100 }, (_, index) => 100 - index);
    expect(percentilesOf(hundred)).toEqual({ p50: 50, p95: 95, p99: 99 });
    expect(percentilesOf(Float64Array.of(7))).toEqual({ p50: 7, p95: 7, p99: 7 });
  });

  it('are the median with its extremes', () => {
    expect(spreadOf([30, 10, 20])).toEqual({ min: 10, median: 20, max: 30 });
    expect(spreadOf([4, 1, 3, 2])).toEqual({ min: 1, median: 2.5, max: 4 });
  });
});
