import { createHash, randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { transformSync } from '@swc/core';
import { SWC_OPTIONS } from '../swc-options.mjs';
import { pathsBelow, readText, REPOSITORY } from './repository.js';

/** What the processes of the tests need, compiled so that they boot in half the time: many are started, and killed. */
const COMPILED = ['libs/queue/src/', 'migrations/', 'test/history/', 'test/processes/', 'test/support/'];

/** In it, `nestmq` is what was compiled. */
const PACKAGE = {
  name: 'nestmq',
  type: 'module',
  exports: { '.': './libs/queue/src/index.js', './migrations': './migrations/index.js' },
};

let compiled: string | undefined;

/** Compiles the sources, unless they have been; answers the folder. */
export function compiledSources(): string {
  return (compiled ??= compile());
}

function compile(): string {
  const paths = COMPILED.flatMap(pathsBelow).filter((file) => /(?<!spec)\.(ts|js)$/.test(file));
  const sources = paths.map((file) => ({ file, text: readText(file) }));
  const hash = createHash('sha256')
    .update(JSON.stringify([SWC_OPTIONS, sources]))
    .digest('hex')
    .slice(0, 16);
  const folder = path.join(REPOSITORY, '.data', `compiled-${hash}`);
  if (!existsSync(folder)) write(folder, sources);
  return folder;
}

function write(folder: string, sources: readonly { file: string; text: string }[]): void {
  const unfinished = `${folder}.${randomUUID()}`; // renamed when it is whole: another test may be looking for it
  for (const { file, text } of sources) {
    const target = path.join(unfinished, file.replace(/\.ts$/, '.js'));
    mkdirSync(path.dirname(target), { recursive: true });
    writeFileSync(target, file.endsWith('.ts') ? javaScriptOf(file, text) : text);
  }
  writeFileSync(path.join(unfinished, 'package.json'), JSON.stringify(PACKAGE));
  try {
    renameSync(unfinished, folder);
  } catch (error) {
    if (!existsSync(folder)) throw error;
    rmSync(unfinished, { recursive: true });
  }
}

function javaScriptOf(file: string, text: string): string {
  return transformSync(text, { ...SWC_OPTIONS, filename: path.join(REPOSITORY, file), swcrc: false }).code;
}
