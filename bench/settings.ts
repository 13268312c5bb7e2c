import { parseArgs } from 'node:util';

/** What the command line asks for; what it leaves out each workload decides by itself. */
export interface Settings {
  readonly workloads: readonly string[];
  readonly jobs: number | null;
  readonly seconds: number | null;
  readonly repeat: number | null;
  readonly json: string | null;
}

export const USAGE = `npm run bench -- [workload …] [--jobs n] [--seconds n] [--repeat n] [--json file]`;

/** @throws {Error} naming the wrong argument */
export function parseSettings(args: readonly string[], known: readonly string[]): Settings {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      jobs: { type: 'string' },
      seconds: { type: 'string' },
      repeat: { type: 'string' },
      json: { type: 'string' },
    },
  });
  const unknown = positionals.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new Error(`There is no workload "${unknown}". Known: ${known.join(', ')}.`);
  return {
    workloads: positionals.length > 0 ? positionals : known,
    jobs: positive(values.jobs, 'jobs'),
    seconds: positive(values.seconds, 'seconds'),
    repeat: positive(values.repeat, 'repeat'),
    json: values.json ?? null,
  };
}

function positive(text: string | undefined, option: string): number | null {
  if (text === undefined) return null;
  const value = Number(text);
  if (value > 0 && Number.isFinite(value)) return value;
  throw new Error(`--${option} got "${text}". Give a number above 0.`);
}
