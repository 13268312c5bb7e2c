import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { percentilesOf, spreadOf } from '../bench/measure/statistics.js';
import { checkRuns, RunLog } from '../bench/measure/run-log.js';
import { OrderWatch } from '../bench/nestmq/order-watch.js';
import type { Results } from '../bench/report/results.js';
import { summaryOf } from '../bench/report/rows.js';
import { parseSettings } from '../bench/settings.js';
import { SYSTEMS } from '../bench/systems/index.js';
import { WORKLOADS } from '../bench/workloads/index.js';
import { until } from './support/until.js';

const START = fileURLToPath(new URL('../bench/start.mjs', import.meta.url));

/** Those that need no server but our own. */
const POSTGRES_SYSTEMS = SYSTEMS.filter(({ server }) => server === 'postgres').map(({ name }) => name);

/** Benches that run. Whatever they have started ends with them. */
const running = new Set<ChildProcess>();

const killAll = (): void => {
  for (const child of running) child.kill('SIGKILL');
};
afterEach(killAll);
afterAll(killAll);

/** Runs the benchmark on the sources, so that no other test's build is in its way. */
function startBench(args: readonly string[], env: Record<string, string> = {}): ChildProcess {
  const child = fork(START, ['--sources', ...args], {
    env: { ...process.env, NODE_OPTIONS: '', ...env },
    execArgv: [],
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  running.add(child);
  child.on('exit', () => running.delete(child));
  return child;
}

async function bench(...args: string[]): Promise<{ stdout: string; stderr: string; code: number | null }> {
  const child = startBench(args);
  let [stdout, stderr] = ['', ''];
  child.stdout!.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const [code] = (await once(child, 'close')) as [number | null];
  return { stdout, stderr, code };
}

const TINY = ['--jobs', '20', '--seconds', '0.2', '--repeat', '1', '--processes', '2', '--no-install'];

interface Run {
  readonly systems: readonly string[];
  readonly workloads: readonly string[];
  readonly options: readonly string[];
}

/** What is run with which systems: each adapter once, and whatever only some systems do with those that do it. */
const RUNS: readonly Run[] = [
  { systems: POSTGRES_SYSTEMS, workloads: ['drain', 'spawn-bulk'], options: [] },
  {
    systems: ['graphile-worker', 'pg-boss-fast', 'bullmq-postgres-fast', 'raw'],
    workloads: ['ordered', 'handlers', 'spawn-single', 'spawn-bulk'],
    options: ['--append', '--no-warm-up'],
  },
  {
    systems: ['nestmq', 'raw'],
    workloads: WORKLOADS.map(({ name }) => name).filter((name) => name !== 'drain'),
    options: ['--no-warm-up'],
  },
];

describe('the benchmark, in its tiny form', () => {
  let out: string;
  const ended: Awaited<ReturnType<typeof bench>>[] = [];
  let results: Results[] = [];

  beforeAll(async () => {
    out = await mkdtemp(path.join(tmpdir(), 'nestmq-bench-'));
    for (const { systems, workloads, options } of RUNS)
      ended.push(await bench(...workloads, '--systems', systems.join(','), '--out', out, ...TINY, ...options));
    const files = (await readdir(path.join(out, 'performance'))).filter((file) => file.endsWith('.json'));
    results = await Promise.all(
      files.map(async (file) => JSON.parse(await readFile(path.join(out, 'performance', file), 'utf8')) as Results),
    );
  }, 600_000);

  afterAll(() => rm(out, { recursive: true, force: true }));

  it('ends well, and says on what it ran', () => {
    expect(ended.map(({ code, stderr }) => (code === 0 ? 0 : stderr))).toEqual(RUNS.map(() => 0));
    expect(ended[0]!.stdout).toMatch(/^machine: \d+ × .+/m);
    expect(ended[0]!.stdout).toMatch(/^postgres: PostgreSQL \d+.*, fsync=on synchronous_commit=on/m);
    expect(ended[0]!.stdout).toMatch(/^pg-boss, tuned: \d+\.\d+\.\d+, .*batchSize/m);
  });

  it('measures every workload, the drain with every system', () => {
    expect(results.map(({ workload }) => workload).toSorted()).toEqual(WORKLOADS.map(({ name }) => name).toSorted());
    const drained = results.find(({ workload }) => workload === 'drain')!.rows.map(({ system }) => system);
    expect(drained.toSorted()).toEqual(POSTGRES_SYSTEMS.toSorted());
  });

  it('measures something in every row', () => {
    const empty = results.flatMap(({ workload, rows }) =>
      rows
        .filter((row) => {
          const { perSecond, latency, figures } = summaryOf(row);
          return ![perSecond?.median, latency?.p50, ...Object.values(figures)].some((value) => Number(value) > 0);
        })
        .map(({ name, system }) => [workload, name, system]),
    );
    expect(empty).toEqual([]);
  });

  it('loses no job, and does none twice', () => {
    const faults = results.flatMap(({ rows }) => rows.flatMap(({ samples }) => samples.map((sample) => sample.faults)));
    const counted = faults.filter((of) => of !== undefined);
    expect(counted.length).toBeGreaterThan(50);
    expect(counted.filter(({ lost, doubled }) => lost !== 0 || doubled !== 0)).toEqual([]);
  });

  it('writes a section with a line for each row, the plots it names, and what was to be reached', async () => {
    const document = await readFile(path.join(out, 'performance.md'), 'utf8');
    for (const { workload, rows } of results) {
      const section = document.split(`\n### ${workload}\n`)[1]!.split('\n### ')[0]!;
      expect(section.split('\n').filter((line) => line.startsWith('| '))).toHaveLength(rows.length + 2);
    }
    const plots = [...document.matchAll(/\]\((performance\/[\w-]+\.svg)\)/g)].map(([, plot]) => plot!);
    expect(plots.length).toBeGreaterThan(8);
    for (const plot of plots) expect(await readFile(path.join(out, plot), 'utf8')).toMatch(/^<svg [^]*<\/svg>\n$/);
    expect(document).toMatch(/^\| drain +\| raw SQL doing the same durable work +\| ≥ 0\.6 +\| +[\d.]+ \|/m);
  });

  it('adds to the runs that are there, or replaces them', () => {
    const { rows } = results.find(({ workload }) => workload === 'spawn-bulk')!;
    const runsOf = (name: string): number[] =>
      rows.filter(({ system }) => system === name).map(({ samples }) => samples.length);
    expect([runsOf('graphile-worker'), runsOf('raw')]).toEqual([
      [2, 2],
      [1, 1],
    ]);
  });
});

const onLinux = process.platform === 'linux' ? it : it.skip;

describe('a benchmark that is cut off', () => {
  /** Processes that carry this in their environment: all that the bench starts, but for the server. */
  function processesOf(mark: string): number[] {
    return readdirSync('/proc')
      .filter((entry) => /^\d+$/.test(entry))
      .filter((pid) => {
        try {
          return readFileSync(`/proc/${pid}/environ`, 'utf8').includes(mark);
        } catch {
          return false; // it has gone, or is somebody else's
        }
      })
      .map(Number);
  }

  onLinux(
    'leaves no process, no server and no file behind',
    async () => {
      const mark = randomUUID();
      const scratch = await mkdtemp(path.join(tmpdir(), 'nestmq-bench-'));
      await chmod(scratch, 0o755);
      const args = ['sustained', '--systems', 'nestmq', '--seconds', '600', '--out', scratch, '--no-install'];
      const child = startBench(args, { BENCH_MARK: mark, TMPDIR: scratch, PG_TMP: '' });
      await until(() => processesOf(mark).length >= 4 && readdirSync(scratch).length > 0, {
        what: 'the bench and its processes run',
        timeoutMs: 60_000,
      });
      child.kill('SIGKILL');
      await until(() => processesOf(mark).length === 0 && readdirSync(scratch).every((name) => /^tsx-/.test(name)), {
        what: 'everything has ended and the server has been removed',
        timeoutMs: 60_000,
      });
      await rm(scratch, { recursive: true });
    },
    150_000,
  );
});

describe('the arguments of the benchmark', () => {
  it('are refused before a server is started', async () => {
    const { code, stdout, stderr } = await bench('drian');
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain('There is no workload "drian". Known: drain,');
    expect(stderr).toContain('npm run bench -- [workload …]');
  });

  const known = { workloads: ['drain', 'idle'], systems: ['nestmq', 'raw'] };

  it.each([
    ['a number that is none', ['--jobs', 'many'], '--jobs got "many". Give a number above 0.'],
    ['a negative number', ['--seconds=-1'], '--seconds got "-1". Give a number above 0.'],
    ['an unknown option', ['--job', '5'], "Unknown option '--job'"],
    ['an unknown workload', ['drain', 'idel'], 'There is no workload "idel". Known: drain, idle.'],
    ['an unknown system', ['--systems', 'nestmq,row'], 'There is no system "row". Known: nestmq, raw.'],
  ])('refuse %s', (_, args, message) => {
    expect(() => parseSettings(args, known)).toThrow(message);
  });

  it('choose all workloads and systems when none is named', () => {
    expect(parseSettings(['--jobs', '5'], known)).toEqual({
      ...known,
      jobs: 5,
      seconds: null,
      repeat: null,
      processes: Infinity,
      out: 'docs',
      append: false,
      warmUp: true,
      install: true,
    });
  });

  it('choose no workload by "none"', () => {
    expect(parseSettings(['none'], known).workloads).toEqual([]);
  });
});

describe('the log of runs', () => {
  const logOf = (...runs: number[]): RunLog => {
    const log = new RunLog(10, (n) => `key ${n % 2}`);
    for (const n of runs) log.add(n);
    return log;
  };
  const check =
    (jobs: number, ...logs: RunLog[]) =>
    () =>
      checkRuns(
        logs.map(({ runs }) => runs),
        jobs,
      );

  it('is content when each job ran once in one of the processes, in the order of its key', () => {
    expect(check(4, logOf(1, 0), logOf(2, 3))).not.toThrow();
  });

  it('lets jobs that were sent run behind those that are counted', () => {
    expect(checkRuns([logOf(0, 1, 3).runs], 2, 4)).toEqual({ lost: 0, doubled: 0 });
    expect(() => checkRuns([logOf(0, 1, 4).runs], 2, 4)).toThrow('1 done twice');
  });

  it.each([
    ['a lost job', [0, 2], '1 were lost and 0 done twice'],
    ['a job done twice', [0, 1, 1, 2], '0 were lost and 1 done twice'],
    ['one lost and one done twice', [0, 0, 2], '1 were lost and 1 done twice'],
    ['a job that nobody sent', [0, 1, 2, 3], '0 were lost and 1 done twice'],
    ['a job that passed another of its key', [2, 0, 1], '1 started out of order'],
  ])('tells of %s', (_, runs, message) => {
    expect(check(3, logOf(...runs))).toThrow(`Of 3 jobs ${message}`);
  });

  it('tells of a job done in two processes', () => {
    expect(check(2, logOf(0, 1), logOf(1))).toThrow('0 were lost and 1 done twice');
  });

  it('does not wait for ever for a job that is lost', async () => {
    await expect(logOf(0, 1).reached(3, 10)).rejects.toThrow('2 of 3 jobs have run, and no other for 10 ms.');
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
