// Entry of `npm run history:mutants`: takes one protection out after another, in a copy, and shows that it is missed.
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pause } from '../../support/pace.js';
import { REPOSITORY } from '../../support/repository.js';
import { MUTANTS, type Mutant, type Patch, type Proof } from './mutants.js';

const COPIED = ['libs', 'migrations', 'scripts', 'test', 'package.json', 'tsconfig.json', 'jest.config.js'];
const LIMIT_MS = 300_000;

await main(process.argv.slice(2));

async function main(words: readonly string[]): Promise<void> {
  const chosen = MUTANTS.filter(({ name }) => words.every((word) => name.includes(word)));
  const survivors: string[] = [];
  for (const mutant of chosen) {
    const began = performance.now();
    const found = await hunt(mutant);
    const seconds = Math.round((performance.now() - began) / 1_000);
    console.log(
      `${found === null ? 'SURVIVED' : 'found'} after ${seconds} s without ${mutant.name}: ${found ?? 'no proof failed'}`,
    );
    if (found === null) survivors.push(mutant.name);
  }
  console.log(`${chosen.length - survivors.length} of ${chosen.length} mutants found`);
  process.exit(survivors.length > 0 || chosen.length === 0 ? 1 : 0); // the limits' timers may still be running
}

/** What failed without the protection, `null` when all went well. */
async function hunt({ patches, proofs }: Mutant): Promise<string | null> {
  const folder = copyTree();
  try {
    for (const patch of patches) apply(folder, patch);
    const deadline = performance.now() + LIMIT_MS;
    for (const proof of proofs) {
      const found = await attempt(folder, proof, deadline - performance.now());
      if (found !== null) return found;
    }
    return null;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function copyTree(): string {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'nestmq-mutant-'));
  for (const name of COPIED) cpSync(path.join(REPOSITORY, name), path.join(folder, name), { recursive: true });
  symlinkSync(path.join(REPOSITORY, 'node_modules'), path.join(folder, 'node_modules'));
  return folder;
}

function apply(folder: string, { file, find, replace }: Patch): void {
  const target = path.join(folder, file);
  const parts = readFileSync(target, 'utf8').split(find);
  if (parts.length !== 2) throw new Error(`${file} has ${parts.length - 1} places, not one, that say: ${find}`);
  writeFileSync(target, parts.join(replace));
}

async function attempt(folder: string, proof: Proof, limitMs: number): Promise<string | null> {
  const args =
    'history' in proof
      ? ['run', '-s', 'history', '--', ...proof.history]
      : ['test', '--', proof.test[0], '-t', proof.test[1]];
  const output = await outputOf(folder, args, limitMs);
  const pattern = 'history' in proof ? /^(?!SHOWN)[a-z ]+: (Job|Lane) .*$/m : /^\s+✕ .*$/m;
  return pattern.exec(output)?.[0].trim() ?? null;
}

/** All that a program says; it is ended at the limit, with all its processes. */
async function outputOf(cwd: string, args: readonly string[], limitMs: number): Promise<string> {
  const child = spawn('npm', args, { cwd, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  child.stdout.on('data', (text) => (output += String(text)));
  child.stderr.on('data', (text) => (output += String(text)));
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  await Promise.race([ended, pause(limitMs)]);
  if (child.exitCode === null && child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  await ended;
  return output;
}
