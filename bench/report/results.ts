import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Workload } from '../workload.js';
import type { Environment } from './environment.js';
import type { Row } from './rows.js';

/** What `performance/<workload>.json` holds. */
export interface Results {
  readonly workload: string;
  readonly description: string;
  readonly environment: Environment;
  /** Options of the command line. */
  readonly asked: readonly string[];
  readonly rows: readonly Row[];
}

/** Rows of the same case and system take the place of older ones, or with `append` are added to them. */
export function saveRows(
  out: string,
  { name, description }: Workload,
  rows: readonly Row[],
  { environment, asked, append }: { environment: Environment; asked: readonly string[]; append: boolean },
): void {
  const folder = path.join(out, 'performance');
  mkdirSync(folder, { recursive: true });
  const before = loadResults(out).find(({ workload }) => workload === name);
  const merged = new Map((before?.rows ?? []).map((row) => [keyOf(row), row]));
  for (const row of rows) {
    const older = append ? (merged.get(keyOf(row))?.samples ?? []) : [];
    merged.set(keyOf(row), { ...row, samples: [...older, ...row.samples] });
  }
  const results: Results = {
    workload: name,
    description,
    environment: { ...before?.environment, ...environment },
    asked,
    rows: [...merged.values()],
  };
  writeFileSync(path.join(folder, `${name}.json`), `${JSON.stringify(results, rounded)}\n`);
}

/** Of all workloads that were ever run into this folder. */
export function loadResults(out: string): Results[] {
  const folder = path.join(out, 'performance');
  mkdirSync(folder, { recursive: true });
  return readdirSync(folder)
    .filter((file) => file.endsWith('.json'))
    .map((file) => JSON.parse(readFileSync(path.join(folder, file), 'utf8')) as Results);
}

const keyOf = ({ name, system }: Row): string => `${name}\n${system}`;

/** No figure here has more than five places worth keeping. */
function rounded(_: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(5)) : value;
}
