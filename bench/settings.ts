import { parseArgs } from 'node:util';

/** What the command line asks for; what it leaves out each workload decides by itself. */
export interface Settings {
  readonly workloads: readonly string[];
  readonly systems: readonly string[];
  readonly jobs: number | null;
  readonly seconds: number | null;
  readonly repeat: number | null;
  /** Most processes that work at once in one run. */
  readonly processes: number;
  /** Folder of `performance.md` and of `performance/`. */
  readonly out: string;
  /** New runs are added to those that are there of the same case, instead of taking their place. */
  readonly append: boolean;
  /** Each case is run once before it is measured. */
  readonly warmUp: boolean;
  /** Install redis-server where it is missing. */
  readonly install: boolean;
}

export interface Known {
  readonly workloads: readonly string[];
  readonly systems: readonly string[];
}

export const USAGE = `npm run bench -- [workload …] [--systems name,…] [--jobs n] [--seconds n] [--repeat n] [--processes n]
                 [--append] [--out folder] [--no-warm-up] [--no-install]
A workload "none" measures nothing and writes the document again.`;

/** @throws {Error} naming the wrong argument */
export function parseSettings(args: readonly string[], known: Known): Settings {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      systems: { type: 'string' },
      jobs: { type: 'string' },
      seconds: { type: 'string' },
      repeat: { type: 'string' },
      processes: { type: 'string' },
      out: { type: 'string', default: 'docs' },
      append: { type: 'boolean', default: false },
      'no-warm-up': { type: 'boolean', default: false },
      'no-install': { type: 'boolean', default: false },
    },
  });
  const systems = values.systems?.split(',') ?? [];
  return {
    workloads: positionals.includes('none') ? [] : chosen('workload', positionals, known.workloads),
    systems: chosen('system', systems, known.systems),
    jobs: positive(values.jobs, 'jobs'),
    seconds: positive(values.seconds, 'seconds'),
    repeat: positive(values.repeat, 'repeat'),
    processes: positive(values.processes, 'processes') ?? Infinity,
    out: values.out,
    append: values.append,
    warmUp: !values['no-warm-up'],
    install: !values['no-install'],
  };
}

function chosen(what: string, names: readonly string[], known: readonly string[]): readonly string[] {
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new Error(`There is no ${what} "${unknown}". Known: ${known.join(', ')}.`);
  return names.length > 0 ? names : known;
}

function positive(text: string | undefined, option: string): number | null {
  if (text === undefined) return null;
  const value = Number(text);
  if (value > 0 && Number.isFinite(value)) return value;
  throw new Error(`--${option} got "${text}". Give a number above 0.`);
}
